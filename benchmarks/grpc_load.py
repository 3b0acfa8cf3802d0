"""A closed loop of ModelInfer calls that looks at each answer; prints what `load.py` reads, as `post.lua` does for wrk.

python benchmarks/grpc_load.py PORT MESSAGE_FILE KEY IN_FLIGHT SECONDS
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import uvloop

from servery.wire.proto import open_inference_grpc_pb2 as pb

LARGEST = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Load:
    """The calls of one run. An answer counts when its outputs are those of the first one."""

    def __init__(self, call: Any, message: bytes, key: str) -> None:
        self._call = call
        self._message = message
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._expected: list[bytes] = []
        self.took_ns: list[int] = []
        self.wrong = 0
        self.failed = 0

    async def first(self) -> None:
        """What every answer must say; fails where there is none."""
        answer = await self._call(self._message, metadata=self._metadata, wait_for_ready=True, timeout=10)
        self._expected = list(pb.ModelInferResponse.FromString(answer).raw_output_contents)

    async def ask_until(self, end_ns: int) -> None:
        while (began := time.perf_counter_ns()) < end_ns:
            try:
                answer = await self._call(self._message, metadata=self._metadata)
            except grpc.aio.AioRpcError:
                self.failed += 1
                continue
            self.took_ns.append(time.perf_counter_ns() - began)
            if list(pb.ModelInferResponse.FromString(answer).raw_output_contents) != self._expected:
                self.wrong += 1


async def run(port: int, message: bytes, key: str, in_flight: int, seconds: float) -> str:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=LARGEST) as channel:
        call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        load = Load(call, message, key)
        await load.first()
        start = time.perf_counter_ns()
        end_ns = start + int(seconds * 1e9)
        await asyncio.gather(*[load.ask_until(end_ns) for _ in range(in_flight)])
        micros = (time.perf_counter_ns() - start) // 1000
    p50, p99 = (round(value / 1e3) for value in np.percentile(load.took_ns or [0], (50, 99)))
    return f"RESULT {len(load.took_ns)} {micros} {p50} {p99} {load.failed} 0 0 {load.wrong}"


def main(arguments: list[str]) -> None:
    port, file, key, in_flight, seconds = arguments
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(run(int(port), Path(file).read_bytes(), key, int(in_flight), float(seconds))))


if __name__ == "__main__":
    main(sys.argv[1:])

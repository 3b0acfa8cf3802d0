"""Whether a server's answer is what the model says, before its every answer is compared with that one."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import onnxruntime as ort

from artifacts import KEY
from processes import Failed, Tree
from servery.wire.proto import open_inference_grpc_pb2 as pb

READY_S = 120.0
INFER = "/v2/models/rows/infer"


class Truth:
    """What the model says of the one row that everybody is asked for."""

    def __init__(self, model: Path, body: Path) -> None:
        self.body = body
        asked = msgspec.json.decode(body.read_bytes())["inputs"][0]
        rows = np.array(asked["data"], "f4").reshape(asked["shape"])
        session: Any = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self._label, self._probabilities = session.run(["label", "probabilities"], {"x": rows})

    def _right(self, label: Any, probabilities: Any) -> bool:
        return np.array_equal(np.ravel(label), self._label) and np.allclose(
            np.ravel(probabilities), np.ravel(self._probabilities), rtol=1e-5, atol=1e-12
        )

    def answer(self, name: str, tree: Tree, port: int) -> bytes:
        """The answer over HTTP, once the server is up; Failed where it is wrong, or another one each time."""
        deadline = time.monotonic() + READY_S
        first = b""
        while not (first := first or self._ask(port)):
            _wait(name, tree, deadline)
        outputs: dict[str, Any] = {one["name"]: one["data"] for one in msgspec.json.decode(first)["outputs"]}
        if not self._right(outputs["label"], outputs["probabilities"]):
            raise Failed(f"{name} answers {first!r}, which the model doesn't say")
        if self._ask(port) != first:
            raise Failed(f"{name} answers the same request with other bytes each time")
        return first

    def _ask(self, port: int) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        try:
            connection.request("POST", INFER, self.body.read_bytes(), headers)
            answer = connection.getresponse()
            return answer.read() if answer.status == 200 else b""
        except (OSError, http.client.HTTPException):
            return b""
        finally:
            connection.close()

    def check_grpc(self, name: str, tree: Tree, port: int, message: bytes) -> None:
        """The same over gRPC; Failed where it is wrong."""
        deadline = time.monotonic() + READY_S
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while True:
                try:
                    answer = pb.ModelInferResponse.FromString(
                        call(message, metadata=(("authorization", f"Bearer {KEY}"),), timeout=5)
                    )
                    break
                except grpc.RpcError:
                    _wait(name, tree, deadline)
        dtypes = {"label": "<i8", "probabilities": "<f4"}
        outputs = {
            one.name: np.frombuffer(raw, dtypes[one.name])
            for one, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
        if not self._right(outputs["label"], outputs["probabilities"]):
            raise Failed(f"{name} answers {answer}, which the model doesn't say")


def _wait(name: str, tree: Tree, deadline: float) -> None:
    if tree.ended or time.monotonic() > deadline:
        raise Failed(f"{name} didn't come up; its last words:\n{tree.last_words()}")
    time.sleep(0.1)

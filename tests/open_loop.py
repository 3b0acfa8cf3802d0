"""Asks at a fixed rate, whether or not earlier ones were answered, until stdin ends. Prints "status record id sent ended", steady ns.

python open_loop.py PORT MODEL BODY RATE

A connection is used again until the server says otherwise. Nothing is asked twice: status 0 is a call without an answer.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

LIMIT_S = 20.0
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Asker:
    def __init__(self, port: int, called: str, body: bytes) -> None:
        self._port = port
        self._head = (
            f"POST /v2/models/{called}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nx-request-id: "
        )
        self._body = body
        self._idle: list[Connection] = []

    async def ask(self, name: str) -> None:
        sent = time.perf_counter_ns()
        try:
            async with asyncio.timeout(LIMIT_S):
                status, record = await self._exchange(name)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            status, record = 0, type(error).__name__
        os.write(1, f"{status} {record} {name} {sent} {time.perf_counter_ns()}\n".encode())

    async def _exchange(self, name: str) -> tuple[int, str]:
        reader, writer = await self._connection()
        try:
            writer.write(f"{self._head}{name}\r\n\r\n".encode() + self._body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines[1:] if line)
            await reader.readexactly(int(fields["content-length"]))
        except BaseException:
            writer.close()
            raise
        if fields.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(lines[0].split()[1]), fields.get("servery-record-id", "-")

    async def _connection(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)


async def main(port: int, called: str, body: str, rate: float) -> None:
    asker, loop = Asker(port, called, body.encode()), asyncio.get_running_loop()
    stop = loop.create_task(asyncio.to_thread(sys.stdin.read))
    asking: set[asyncio.Task[None]] = set()
    start, number = loop.time(), 0
    while not stop.done():
        number += 1
        await asyncio.sleep(max(start + number / rate - loop.time(), 0))
        task = loop.create_task(asker.ask(f"{called}-{os.getpid()}-{number}"))
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(*asking)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])))

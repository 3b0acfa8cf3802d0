"""Callers of streams, many at once on one event loop: what each has heard, and when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvloop

LIMIT_S = 120.0


class Heard(msgspec.Struct):
    """One stream. Times are steady seconds; `words` are the events that say something, each with the moment it came."""

    began_s: float
    record: str = ""
    words: list[float] = []
    text: str = ""
    done: bool = False
    error: str = ""

    @property
    def first_s(self) -> float:
        return self.words[0] - self.began_s

    @property
    def gaps_s(self) -> list[float]:
        return [after - before for before, after in zip(self.words, self.words[1:], strict=False)]


async def hear(port: int, body: bytes, most: int | None = None) -> Heard:
    """Ask for a chat's stream, and hear it to its end, or until `most` words: then hang up."""
    heard = Heard(time.perf_counter())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        assert " 200 " in lines[0], lines
        heard.record = next(line.split(": ")[1] for line in lines if line.startswith("servery-record-id"))
        while not heard.done and (most is None or len(heard.words) < most):
            line = await reader.readline()
            if not line or line == b"0\r\n":
                break
            if line.startswith(b"data: "):
                _take(heard, line[6:].strip())
    finally:
        writer.close()
    return heard


def _take(heard: Heard, data: bytes) -> None:
    if data == b"[DONE]":
        heard.done = True
        return
    chunk = json.loads(data)
    if "error" in chunk:
        heard.error = chunk["error"]["code"]
        return
    for choice in chunk["choices"]:
        if word := choice["delta"].get("content"):
            heard.words.append(time.perf_counter())
            heard.text += word


async def hear_all(port: int, bodies: list[bytes], most: int | None = None) -> list[Heard]:
    """All of them at once."""
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*[hear(port, body, most) for body in bodies])


async def answered(port: int, body: bytes) -> float:
    """The seconds that an answer in one takes, on a connection of its own."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    reply = await reader.read()
    writer.close()
    assert b" 200 " in reply[:20], reply[:300]
    return time.perf_counter() - began


def play(scene: Callable[[], Awaitable[Any]]) -> Any:
    """What the scene returns, on a loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def whole() -> Any:
            return await scene()

        return runner.run(whole())

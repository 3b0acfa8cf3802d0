"""One call that the fake vendor answers, whichever API it is written in: the faults that are ordered, and the bill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from servery.vendor.behaviour import Behaviour
from servery.vendor.writing import Line, tokens_of

Send = Callable[[dict[str, Any]], Awaitable[None]]

CREATED = 1_700_000_000
_EVENTS = [(b"content-type", b"text/event-stream")]
_JSON = [(b"content-type", b"application/json")]
_PAGE = b"<html><body>Bad gateway</body></html>"


class Cut(Exception):
    """The call ends here: its connection is gone."""


class Call:
    """What all APIs have. Each says how its answers, its parts of a stream and its errors look."""

    def __init__(
        self, path: str, asked: dict[str, Any], ordered: Behaviour, fault: str, line: Line, send: Send
    ) -> None:
        self.path = path
        self.asked = asked
        self.ordered = ordered
        self.fault = fault
        self.line = line
        self.send = send
        self._sent = 0

    @staticmethod
    def error(message: str, code: str) -> dict[str, Any]:
        """An error in the API's form."""
        raise NotImplementedError

    def answer(self, text: str) -> dict[str, Any]:
        """All of it, without the usage."""
        raise NotImplementedError

    def usage(self) -> dict[str, Any]:
        """As the API states it."""
        raise NotImplementedError

    async def begin(self) -> None:
        """What comes before the first word of a stream."""
        raise NotImplementedError

    async def token(self, token: str) -> None:
        """A part of a stream."""
        raise NotImplementedError

    async def finish(self) -> None:
        """What comes after the last word: a tool's call, the reason for the end, the usage."""
        raise NotImplementedError

    @property
    def done(self) -> bytes:
        """What ends a stream."""
        return b""

    @property
    def name(self) -> str:
        """What the vendor calls the model that answers."""
        return self.line.model.partition("?")[0] + "-2026"

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the tool that is called."""
        return {"city": "Abu Dhabi"}

    def hang_up(self) -> None:
        """End the connection as a crash would; uvicorn's cycle, whose method `send` is, has it."""
        cycle: Any = getattr(self.send, "__self__", None)
        cycle.transport.close()
        cycle.disconnected = True  # so that it sends nothing more
        raise Cut

    async def whole(self, text: str) -> None:
        """Send a whole answer, as far as the fault lets it."""
        tokens = tokens_of(text)
        self.line.reasoning_tokens = self.ordered.reasoning
        self.line.completion_tokens = len(tokens) + self.ordered.reasoning
        answer = self.answer(text)
        if self.ordered.usage != "none":
            answer["usage"] = self.stated()
        body = json.dumps(answer).encode()
        if self.fault == "html":
            body = _PAGE
        size = len(body) + (100 if self.fault == "length" else 1 << 40 if self.fault == "endless" else 0)
        head = [(b"content-length", str(size).encode())]
        await self.send({"type": "http.response.start", "status": 200, "headers": [*_JSON, *head]})
        while self.fault == "endless":
            await self.raw(b" " * 65_536)
            await asyncio.sleep(0)
        if self.fault == "cut":
            body = body[: self.ordered.at]
        await self.send({"type": "http.response.body", "body": body, "more_body": self.fault in ("cut", "length")})
        if self.fault in ("cut", "length"):
            self.hang_up()
        self.line.complete = True
        self.line.reported = self.ordered.usage == "right" and self.fault != "html"

    def stated(self) -> dict[str, Any]:
        """The usage, right or wrong."""
        usage = self.usage()
        return usage if self.ordered.usage == "right" else dict.fromkeys(usage, -5)

    async def stream(self, text: str) -> None:
        """Send an answer token by token, as far as the fault lets it."""
        head = [(b"content-length", b"1000000")] if self.fault == "length" else []
        await self.send({"type": "http.response.start", "status": 200, "headers": [*_EVENTS, *head]})
        if self.fault == "html":
            await self.send({"type": "http.response.body", "body": _PAGE, "more_body": False})
            return
        await self.begin()
        self.line.completion_tokens = self.line.reasoning_tokens = self.ordered.reasoning
        for count, token in enumerate(tokens_of(text)):
            await self._fault_at(count)
            await self.token(token)
            self.line.completion_tokens += 1
            if self.ordered.gap_ms:
                await asyncio.sleep(self.ordered.gap_ms / 1e3)
        await self._fault_at(1 << 30)
        await self.finish()
        self.line.complete = True
        end = self.done if self.ordered.done else b""
        await self.send({"type": "http.response.body", "body": end, "more_body": self.fault == "length"})
        if self.fault == "length":
            self.hang_up()

    async def _fault_at(self, count: int) -> None:
        """The fault that was ordered for this place in the stream, if any."""
        if self.fault not in ("stall", "bad", "error", "endless") or count < min(self.ordered.at, 1 << 29):
            return
        if self.fault == "stall":
            await asyncio.Event().wait()
        while self.fault == "endless":
            await self.raw(b": nothing\n\n" * 4096)
            await asyncio.sleep(0)  # to those who have left it is sent without waiting
        broken = b"{no json" if self.fault == "bad" else json.dumps(self.error("ordered", "ordered")).encode()
        await self.raw(b"data: " + broken + b"\n\n")
        self.fault = ""

    async def raw(self, part: bytes) -> None:
        """Send a part of a stream, or less where the connection is to end in it."""
        most = self.ordered.at - self._sent
        if self.fault == "cut" and len(part) > most:
            await self.send({"type": "http.response.body", "body": part[:most], "more_body": True})
            self.hang_up()
        self._sent += len(part)
        await self.send({"type": "http.response.body", "body": part, "more_body": True})

    async def named(self, event: dict[str, Any]) -> None:
        """An event that is called what its type says."""
        await self.raw(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())


async def reply(send: Send, status: int, content: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """A whole answer that isn't a model's."""
    body = json.dumps(content).encode()
    head = [*_JSON, (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})

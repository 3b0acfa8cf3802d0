"""What an app and the HTTP server say to each other: ASGI, and beside it the quick way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Coroutine, Sequence
from typing import Any
from typing import Protocol as Interface

import msgspec

Headers = list[tuple[bytes, bytes]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Gone = Callable[[], Awaitable[None]]  # returns when the caller has left


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole answer. `head` are its header lines, each ended by CRLF; they state the content-length."""

    status: int
    head: bytes
    chunks: Sequence[bytes | memoryview]


class Way(Interface):
    """The way of an answer back to its caller, in parts: `begin`, any number of `part`, and `end`."""

    def left(self) -> Awaitable[None]:
        """Done when the caller has left."""
        ...

    async def begin(self, head: bytes, part: bytes) -> None:
        """Status 200, the header lines, each ended by CRLF, and the first part."""
        ...

    async def part(self, part: bytes) -> None: ...
    async def end(self, part: bytes) -> None: ...


class App(Interface):
    """An ASGI app with a quick way. `quick` gives None when the caller has left, or the answer went the `way` in parts."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...
    def quick_urls(self) -> Container[bytes]:
        """The URLs whose POSTs may go the quick way."""
        ...

    def quick(self, url: bytes, headers: Headers, body: bytes, way: Way) -> Coroutine[Any, Any, Response | None]: ...
    def error(self, message: str) -> bytes:
        """The body of an error that is answered before the app is asked."""
        ...


class AsgiWay:
    """A Way over ASGI; `gone` returns when the caller has left."""

    def __init__(self, send: Send, gone: Gone) -> None:
        self._send = send
        self.left = gone

    async def begin(self, head: bytes, part: bytes) -> None:
        """As of Way."""
        await self._send({"type": "http.response.start", "status": 200, "headers": _pairs(head)})
        await self.part(part)

    async def part(self, part: bytes) -> None:
        """As of Way."""
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self, part: bytes) -> None:
        """As of Way."""
        await self._send({"type": "http.response.body", "body": part, "more_body": False})


async def send_response(send: Send, response: Response) -> None:
    """A whole answer over ASGI."""
    await send({"type": "http.response.start", "status": response.status, "headers": _pairs(response.head)})
    last = len(response.chunks) - 1
    for at, chunk in enumerate(response.chunks):
        await send({"type": "http.response.body", "body": chunk, "more_body": at != last})


def _pairs(head: bytes) -> Headers:
    lines = (line.split(b": ", 1) for line in head.split(b"\r\n")[:-1])
    return [(name, value) for name, value in lines]

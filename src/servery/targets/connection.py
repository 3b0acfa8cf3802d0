"""One HTTP/1.1 connection to a Replica on this machine: a request at a time, kept open in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import httptools
import msgspec

from servery.host.channel import connect_to

Chunk = bytes | memoryview


class Reply(msgspec.Struct, frozen=True, gc=False):
    """Header names are lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Asker(Protocol):
    """Who waits for the reply on a connection: exactly one of these is called, once."""

    def replied(self, connection: Connection, reply: Reply) -> None: ...
    def cut(self) -> None:
        """The connection ended before the reply was whole."""
        ...


class Connection(asyncio.Protocol):
    """`open` is whether another request may be sent once there is no `asker`. `lost` is called at its end."""

    def __init__(self, lost: Callable[[Connection], None]) -> None:
        self.asker: Asker | None = None
        self.open = False
        self._lost = lost
        self._transport: Any = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._whole = self._kept = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.open = False
        self._lost(self)
        asker, self.asker = self.asker, None
        if asker is not None:
            asker.cut()

    def send(self, asker: Asker, chunks: Sequence[Chunk]) -> None:
        """Send a request; `asker` hears of its end."""
        self.asker = asker
        self._transport.write(b"".join(chunks))

    def close(self) -> None:
        """End it at once. Nobody hears of what was under way."""
        self.asker = None
        self.open = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()
            return
        if not self._whole:
            return
        self._whole = False
        if not self._kept:
            self.open = False
            self._transport.close()
        asker, self.asker = self.asker, None
        if asker is not None:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            asker.replied(self, Reply(parser.get_status_code(), self._headers, body))

    def on_message_begin(self) -> None:
        self._headers = {}
        self._body = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._whole = True
        self._kept = self._parser.should_keep_alive()  # only here it is known


async def connect(path: Path, lost: Callable[[Connection], None]) -> Connection:
    """OSError says why nobody is there."""
    _, connection = await asyncio.get_running_loop().create_unix_connection(
        lambda: Connection(lost), sock=connect_to(path)
    )
    return connection

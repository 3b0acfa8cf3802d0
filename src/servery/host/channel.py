"""Messages over a Unix socket in a folder: one JSON value a line, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import msgspec

from servery.terms.messages import AnyMessage

# Far above what is said; a peer that sends more is not one of ours.
_LONGEST = 16 * 2**20


@contextlib.contextmanager
def within_reach(path: Path) -> Generator[str]:
    """A name for the socket at `path` that fits in 108 bytes, however deep its folder lies."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen_at(path: Path) -> socket.socket:
    """A listening Unix socket that only this user reaches, at once in the place of one that is there. OSError."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with within_reach(fresh) as name:
            listener.bind(name)
            os.chmod(name, 0o600)  # noqa: PTH101 a name of this process only
        listener.listen(1024)
        fresh.replace(path)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def connect_to(path: Path) -> socket.socket:
    """A connection to the socket at `path`; OSError when nobody listens there."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with within_reach(path) as name:
            line.connect(name)
        line.setblocking(False)
    except OSError:
        line.close()
        raise
    return line


class Channel:
    """One end of a connection between a worker and the controller."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.json.Decoder[AnyMessage](AnyMessage)
        self._encoder = msgspec.json.Encoder()

    @classmethod
    async def over(cls, line: socket.socket) -> Channel:
        reader, writer = await asyncio.open_connection(sock=line, limit=_LONGEST)
        return cls(reader, writer)

    def send(self, message: AnyMessage) -> None:
        """Send without waiting. To a peer that is gone, nothing happens; `receive` ends."""
        self._writer.write(self._encoder.encode(message) + b"\n")

    async def receive(self) -> AsyncIterator[AnyMessage]:
        """The peer's messages, until it ends the connection or sends what isn't one."""
        with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
            while line := await self._reader.readline():
                yield self._decoder.decode(line)

    def close(self) -> None:
        self._writer.close()


async def get(path: Path, url: str, limit_s: float) -> int:
    """The HTTP status that a GET over the socket at `path` is answered with; 0 without an answer within the limit."""
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_unix_connection(sock=connect_to(path))
            try:
                writer.write(f"GET {url} HTTP/1.1\r\nhost: servery\r\nconnection: close\r\n\r\n".encode())
                head = await reader.readline()
                return int(head.split(b" ", 2)[1])
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, IndexError):
        return 0

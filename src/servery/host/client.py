"""An HTTP/1.1 client for the request path: connections that are kept, and closed at once when nobody waits for the reply.

On the loop's own transports and httptools, so that a call costs neither a thread nor a task. (RFC 9112. What other clients
cost is in benchmarks/results.) Redirects aren't followed, nothing is sent twice, and no compression is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any
from urllib.parse import urlsplit

import httptools

from servery import __version__

_CONNECT_S = 5.0
# A connection is closed when it was idle for 25 to 30 seconds: many servers do so then, perhaps just as it is used.
_SWEEP_S = 5.0
_IDLE_SWEEPS = 5
_BARE_BYTES = 65_536  # that come without one of a body: of a head, of trailers
_ERROR_BYTES = 65_536  # of what comes with a status other than 200
_AHEAD_BYTES = 262_144  # of a body that is read more slowly than it comes
_PART_BYTES = 64  # that a part of a body takes beside what it holds
_COPIED_BYTES = 65_536  # a longer body is sent from where it lies, with a system call of its own
_OK = 200


class Unreached(OSError):
    """There is no connection, so nothing was sent."""


class Cut(OSError):
    """The reply ended before it was whole, or isn't one of HTTP. What was sent may have had its effect; `begun`: it has, as
    the head of the reply said.
    """

    begun = False


class TooLong(Exception):
    """The body is longer than it may be."""


class Origin:
    """Whom a URL names. ValueError where it names nobody."""

    __slots__ = ("host", "name", "path", "port", "tls")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{parts.scheme}://{parts.hostname} is no address that can be called")
        self.tls = parts.scheme == "https"
        self.host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
        self.port = parts.port or (443 if self.tls else 80)
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.name = host if parts.port is None else f"{host}:{parts.port}"
        self.path = parts.path.rstrip("/")


class Client:
    """Calls of one origin, by one event loop. An answer with status 200 may have `most_bytes`."""

    def __init__(self, url: str, most_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = Origin(url)
        self.most_bytes = most_bytes
        self.loop = loop
        self._tls = _trusting() if self.origin.tls else None
        self._idle: list[Connection] = []  # those that were used last at the end
        self._all: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def head(self, path: str, *lines: tuple[str, str]) -> bytes:
        """The head of a POST of JSON to a path behind the client's URL, but for the length of its body. ValueError where a
        line can't be sent; it holds neither its name nor its value.
        """
        origin = self.origin
        told = [("host", origin.name), ("user-agent", f"servery/{__version__}"), ("content-type", "application/json")]
        for name, value in lines:
            if not (value.isascii() and value.isprintable()):
                raise ValueError("a header may only hold printable ASCII")
            told.append((name, value))
        head = "".join([f"{name}: {value}\r\n" for name, value in told])
        return f"POST {origin.path}/{path} HTTP/1.1\r\n{head}content-length: ".encode()

    async def ask(self, head: bytes, body: bytes, stream: bool) -> Reply:
        """Send a request. Its reply has come whole, or as far as its head if it is to `stream`. Unreached, Cut, TooLong.

        Whoever gets a Reply must `end` it. Cancelled, the connection is closed.
        """
        connection = self._kept() or await self._connect()
        if not connection.open:
            raise Unreached("the connection was closed at once")
        reply = connection.send(head, body, stream)
        try:
            await reply.arrived()
        except BaseException as error:
            if isinstance(error, Cut):
                error.begun = reply.status == _OK
            reply.end()
            raise
        return reply

    def close(self) -> None:
        """End everything at once."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self._all):
            connection.abort()

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop, origin = self.loop, self.origin
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            connecting.cancel()

        connecting = loop.create_task(
            loop.create_connection(lambda: Connection(self), origin.host, origin.port, ssl=self._tls)
        )
        timer = loop.call_later(_CONNECT_S, give_up)
        try:
            _, connection = await connecting
        except (OSError, ValueError) as error:
            raise Unreached(str(error)) from None
        except asyncio.CancelledError:
            if late:
                raise Unreached(f"no connection within {_CONNECT_S:g} s") from None
            connecting.add_done_callback(_close_unwanted)
            connecting.cancel()
            raise
        finally:
            timer.cancel()
        return connection

    def made(self, connection: Connection) -> None:
        self._all.add(connection)
        if self._closed:
            connection.abort()

    def lost(self, connection: Connection) -> None:
        self._all.discard(connection)

    def keep(self, connection: Connection) -> None:
        """Use it again for another call."""
        connection.idle_sweeps = 0
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for long. It is looked for now and then: a call needn't look at the clock."""
        for connection in self._idle:
            connection.idle_sweeps += 1
            if connection.idle_sweeps > _IDLE_SWEEPS:
                connection.abort()
        self._idle = [connection for connection in self._idle if connection.open]
        self._sweeper = self.loop.call_later(_SWEEP_S, self._sweep) if self._idle else None


class Reply:
    """What comes back on a connection. The names of `headers` are lower case."""

    __slots__ = (
        "_connection",
        "_failure",
        "_parts",
        "_size",
        "_stream",
        "_waiter",
        "headers",
        "most",
        "status",
        "whole",
    )

    def __init__(self, connection: Connection, stream: bool) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.most = 0
        self.whole = False
        self._connection = connection
        self._stream = stream
        self._parts: list[bytes] = []
        self._size = 0
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    @property
    def body(self) -> bytes:
        """All that has come of it and wasn't read yet."""
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def part(self) -> bytes:
        """What has come of a body since the last look; b"" at its end. Cut."""
        while not self._parts:
            if self._failure is not None:
                raise self._failed()
            if self.whole:
                return b""
            self._connection.flow(True)
            await self._something()
        part, self._parts, self._size = self.body, [], 0
        return part

    async def rest(self) -> bytes:
        """All of a body, as far as it wasn't read. Cut, TooLong."""
        self._stream = False
        self._connection.flow(True)
        await self.arrived()
        return self.body

    async def arrived(self) -> None:
        """Until it is whole, or of a stream its head has come. Cut, TooLong."""
        while not (self.whole or (self._stream and self.status)):
            if self._failure is not None:
                raise self._failed()
            await self._something()
        if self._failure is not None and not self._stream:
            raise self._failed()

    def end(self) -> None:
        """Keep the connection for another call where this one is over, else close it."""
        self._connection.ended(self)

    def add(self, part: bytes) -> None:
        """A part of the body has come."""
        self._parts.append(part)
        self._size += len(part) + _PART_BYTES
        if not self._stream:
            if self._size > self.most:
                self.fail(TooLong(f"it is longer than {self.most >> 10} KiB"))
        elif self._size > _AHEAD_BYTES:
            self._connection.flow(False)

    def fail(self, failure: Exception) -> None:
        if self._failure is None and not self.whole:
            self._failure = failure
            self.wake()

    def _failed(self) -> Exception:
        """The failure, of which nothing is kept here: its traceback knows this reply, and that would be a cycle."""
        failure, self._failure = self._failure, None
        assert failure is not None, "the caller has looked"
        return failure

    def wake(self) -> None:
        """Something has come that may be waited for."""
        waiter = self._waiter
        if waiter is not None and not waiter.done() and (self._stream or self.whole or self._failure is not None):
            waiter.set_result(None)

    async def _something(self) -> None:
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Connection(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self, client: Client) -> None:
        self.open = False
        self.idle_sweeps = 0
        self.loop = client.loop
        self._client = client
        self._reply: Reply | None = None
        self._transport: Any = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._bare_bytes = 0
        self._framed = self._kept = self._paused = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.open = True
        self._client.made(self)

    def eof_received(self) -> None:
        self.open = False  # it is lost a turn of the loop later

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._client.lost(self)
        self._parser = None  # it knows this connection: a cycle would be left to the garbage collector
        reply, self._reply = self._reply, None
        if reply is None:
            return
        if exc is None and reply.status and not self._framed:  # its end says that it is whole
            reply.whole = True
            reply.wake()
        else:
            reply.fail(Cut("the connection ended before the reply did"))

    def send(self, head: bytes, body: bytes, stream: bool) -> Reply:
        reply = self._reply = Reply(self, stream)
        self._bare_bytes = 0
        if len(body) > _COPIED_BYTES:
            self._transport.write(b"%b%d\r\n\r\n" % (head, len(body)))
            self._transport.write(body)
        else:
            self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        return reply

    def ended(self, reply: Reply) -> None:
        """Its caller is done with it."""
        if self._reply is not reply:
            return
        self._reply = None
        if reply.whole and self._kept and self.open:
            self.flow(True)
            self._client.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        self.open = False
        self._transport.abort()

    def flow(self, wanted: bool) -> None:
        """Whether more is wanted for now."""
        if self._paused is wanted:
            self._paused = not wanted
            with contextlib.suppress(RuntimeError):  # it is closing
                (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None or reply.whole:  # nobody has asked for this
            self.abort()
            return
        self._bare_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            reply.fail(Cut("what came is not HTTP/1.1"))  # of a reply that is whole it came behind it
            self.abort()
        if self._bare_bytes > _BARE_BYTES:
            reply.fail(Cut(f"it has more than {_BARE_BYTES >> 10} KiB beside its body"))
            self.abort()
        reply.wake()

    def on_message_begin(self) -> None:
        reply = self._reply
        if reply is None or reply.whole:
            raise _Unasked
        reply.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        reply = self._reply
        if reply is not None and not reply.status:  # else it is a trailer
            reply.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        reply = self._reply
        status: int = self._parser.get_status_code()
        if reply is None or 100 <= status < _OK:  # 100 Continue and the like: the reply is still to come
            return
        if not status:
            raise _Unasked
        headers = reply.headers
        self._framed = b"content-length" in headers or b"transfer-encoding" in headers or status in (204, 304)
        reply.most = self._client.most_bytes if status == _OK else _ERROR_BYTES
        reply.status = status

    def on_body(self, body: bytes) -> None:
        self._bare_bytes = 0
        if self._reply is not None:
            self._reply.add(body)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is not None and reply.status:
            reply.whole = True
            # Only here it is known. Who answers before all is asked may take the rest for another request.
            self._kept = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()


class _Unasked(Exception):
    """Something that is no reply to what was asked."""


def _close_unwanted(connecting: asyncio.Task[tuple[Any, Connection]]) -> None:
    """A connection may be made just as nobody waits for it any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[1].abort()


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context

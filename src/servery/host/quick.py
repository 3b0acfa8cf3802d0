"""A connection: uvicorn's protocol on httptools, kept within bounds that it doesn't have by itself, with a quick way.

Two ways lead through it. ASGI is for everything. The quick way is for small requests whose answer is bytes, or a stream of them:
the app's coroutine runs as far as it can the moment the body is there, and one write answers it. That saves a task, an
event, a scope and a system call a request; what it costs and saves is in benchmarks/results.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import struct
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from servery.host.asgi import Response
from servery.host.eager import eagerly

log = logging.getLogger("servery.http")

QUICK_BYTES = 65_536
_HEAD_BYTES = 65_536
_CREDENTIALS = struct.Struct("iII")  # process, user and group of a Unix socket's peer
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
_CHUNKED_LAST = b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"


class QuickCycle:
    """A quick request in the place of uvicorn's RequestResponseCycle, of which it has what the protocol looks at; a Way."""

    __slots__ = (
        "begun",
        "body",
        "disconnected",
        "ended",
        "gone",
        "keep_alive",
        "more_body",
        "protocol",
        "response_complete",
    )

    def __init__(self, protocol: Protocol, keep_alive: bool) -> None:
        self.protocol = protocol
        self.keep_alive = keep_alive
        self.begun = self.ended = False
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.gone: asyncio.Future[None] | None = None

    @property
    def message_event(self) -> QuickCycle:
        """What uvicorn sets when the connection is lost."""
        return self

    def set(self) -> None:
        if self.gone is not None and not self.gone.done():
            self.gone.set_result(None)

    def left(self) -> asyncio.Future[None]:
        """Done when the caller has left. A future, since a coroutine would cost a task for each call that waits."""
        self.gone = self.protocol.loop.create_future()
        if self.disconnected:
            self.gone.set_result(None)
        return self.gone

    async def begin(self, head: bytes, part: bytes) -> None:
        """As of Way."""
        self.begun = True
        lines = head + (_CHUNKED if self.keep_alive else _CHUNKED_LAST)
        await self.protocol.send_part(self, lines + _chunk(part), 200)

    async def part(self, part: bytes) -> None:
        """As of Way."""
        await self.protocol.send_part(self, _chunk(part))

    async def end(self, part: bytes) -> None:
        """As of Way."""
        self.ended = True
        await self.protocol.send_part(self, _chunk(part) + b"0\r\n\r\n")


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part) if part else b""


def _user_of(line: socket.socket) -> int:
    """The id of the user at the other end of a Unix socket."""
    _, user, _ = _CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return user


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with a quick way, errors as the app writes them, and bounds."""

    app: Any
    most = 16_384  # connections that one process will hold open; beyond it a new one is closed at once
    dated: tuple[object, bytes] = (None, b"")  # of the one server in this process
    waiting: QuickCycle | None = None  # whose answer is still being made
    broken: tuple[int, str] | None = None  # what to answer once the requests before it are answered
    begun = False  # the first byte of a request has arrived, but not yet its whole head
    head_bytes = 0  # of a head that came in more than one piece
    last = False  # the next answer is this connection's last

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        line = transport.get_extra_info("socket")
        if line is not None and line.family == socket.AF_UNIX:
            self.client = ("user", _user_of(line))
        if len(self.connections) > self.most:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        begun = self.begun
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_plain(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_error(400, "this is not HTTP/1.1, or its head is broken")
        if self.begun:
            self.head_bytes = self.head_bytes + len(data) if begun else 0
            if self.head_bytes > _HEAD_BYTES:
                self.begun = False
                self.send_error(431, f"the head of the request is longer than {_HEAD_BYTES >> 10} KiB")

    def _stay_plain(self, rest: bytes) -> None:
        """Parse a request that offers another protocol once more, without the offer: the parser leaves its body out."""
        old: Any = self.parser
        if old.get_method() == b"CONNECT":
            self.send_error(400, "CONNECT is not offered: this is no proxy")
            return
        kept = [pair for pair in self.headers if pair[0] not in (b"connection", b"upgrade")]
        kept.append((b"connection", b"keep-alive" if old.should_keep_alive() else b"close"))
        lines = b"".join([b"%b: %b\r\n" % pair for pair in kept])
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (old.get_method(), self.url, lines, rest))

    def on_message_begin(self) -> None:
        self.begun = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        self.begun = False
        parser: Any = self.parser
        cycle: Any = self.cycle
        if parser.should_upgrade():
            return
        if (
            self.url in self.app.quick_urls()
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            and (cycle is None or cycle.response_complete)
            and self._is_small()
        ):
            cycle = QuickCycle(self, parser.should_keep_alive() and not self.last)
            self.cycle = cycle
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()
        if self.last:
            self.end_after_this()

    def _is_small(self) -> bool:
        for name, value in self.headers:
            if name == b"content-length":
                return len(value) < 7 and int(value) <= QUICK_BYTES
        return False

    def on_message_complete(self) -> None:
        cycle: Any = self.cycle
        if type(cycle) is not QuickCycle:
            if cycle is not None:
                super().on_message_complete()
            return
        if not cycle.more_body:  # answered, or being answered: this is the end of a request that offers an upgrade
            return
        cycle.more_body = False
        try:
            response, task = eagerly(self.app.quick(self.url, self.headers, bytes(cycle.body), cycle))
        except Exception as error:  # httptools would take it for a broken request
            self._failed(cycle, error)
            return
        if task is None:
            self._answer(cycle, response)
        else:
            self.waiting = cycle
            self.tasks.add(task)
            task.add_done_callback(functools.partial(self._finished, cycle))

    def _finished(self, cycle: QuickCycle, task: asyncio.Task[Response | None]) -> None:
        self.waiting = None
        self.tasks.discard(task)
        if task.cancelled():
            self.transport.close()
        elif (error := task.exception()) is not None:
            self._failed(cycle, error)
        else:
            self._answer(cycle, task.result())

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting is not None:  # behind it, a pipelined request may be the connection's cycle by now
            self.waiting.disconnected = True
            self.waiting.set()
        super().connection_lost(exc)
        self.cycle = cast(Any, None)  # it knows this connection: a cycle would be left to the garbage collector

    def _failed(self, cycle: QuickCycle, error: BaseException) -> None:
        log.error("a bug of ours in the HTTP face", exc_info=error)
        cycle.response_complete = True  # or the error would wait for the answer that failed
        if cycle.begun:
            self.transport.close()
        elif not self.transport.is_closing():
            self.send_error(500, "an error of ours; the log has it")

    def _answer(self, cycle: QuickCycle, response: Response | None) -> None:
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing():
            return
        if response is not None:
            self.transport.write(
                b"".join(
                    (
                        STATUS_LINE[response.status],
                        self._date(),
                        response.head,
                        b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n",
                        *response.chunks,
                    )
                )
            )
        elif not cycle.begun:
            return
        if not cycle.keep_alive or cycle.begun != cycle.ended:  # a stream without an end must not look like a whole one
            self.transport.close()
        self.on_response_complete()

    async def send_part(self, cycle: QuickCycle, data: bytes, status: int = 0) -> None:
        """Write a part of an answer, the first one with its `status`, and wait while the caller reads too slowly."""
        if cycle.disconnected or self.transport.is_closing():
            return
        self.transport.write(STATUS_LINE[status] + self._date() + data if status else data)
        if self.flow.write_paused:
            await self.flow.drain()

    def _date(self) -> bytes:
        """The Date line; uvicorn makes a new list of default headers every second."""
        headers = self.server_state.default_headers
        if headers is not self.dated[0]:
            type(self).dated = (headers, b"".join([b"%b: %b\r\n" % pair for pair in headers]))
        return self.dated[1]

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self.broken is not None:
            self.send_error(*self.broken)

    def end_after_this(self) -> None:
        """Close the connection with the answer to the request that is under way, or else to the next one."""
        cycle: Any = self.cycle
        self.last = True
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False

    @property
    def busy(self) -> bool:
        """Whether a request that arrived whole is being answered."""
        cycle: Any = self.cycle
        if self.waiting is not None or self.pipeline:
            return True
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def send_error(self, status: int, message: str) -> None:
        """Answer without asking the app, after the requests before it, and close the connection."""
        if self.busy:
            self.broken = status, message
            self.flow.pause_reading()
            return
        if self.transport.is_closing():
            return
        body = self.app.error(message)
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

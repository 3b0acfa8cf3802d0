"""The HTTP server: uvicorn on uvloop with httptools, kept within bounds that it doesn't have by itself.

Two ways lead through it. ASGI is for everything. The quick way is for small requests whose answer is bytes: the app's
coroutine runs as far as it can the moment the body is there, and one write answers it. That saves a task, an event,
a scope and a system call a request; what it costs and saves is in benchmarks/results.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Awaitable, Callable, Container, Coroutine, Generator, Sequence
from typing import Any
from typing import Protocol as Interface

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from servery.host.eager import eagerly

log = logging.getLogger("servery.http")

Headers = list[tuple[bytes, bytes]]
State = tuple[str, int]  # what a connection waits for: a word, and a number that changes with progress
Gone = Callable[[], Awaitable[None]]

QUICK_BYTES = 65_536
_HEAD_BYTES = 65_536
_SWEEP_S = 0.5
_KEEP_ALIVE_S = 75.0
_BACKLOG = 2048
_CANCEL_S = 2.0
# How long a connection may wait for one more request before it is closed under a caller who might just be asking.
_LEAVE_S = 0.25
# What one process will hold open; beyond it a new connection is closed at once.
_MOST_CONNECTIONS = 16_384
# libuv takes one connection from a listener in each turn of its loop, and under load a turn takes milliseconds. So the
# listener is there several times.
_ACCEPTS_A_TURN = 8


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole answer. `head` are its header lines, each ended by CRLF; they state the content-length."""

    status: int
    head: bytes
    chunks: Sequence[bytes | memoryview]


class App(Interface):
    """An ASGI app with a quick way. `quick` gives None when the caller has left; `gone` returns when it has."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...
    def quick_urls(self) -> Container[bytes]:
        """The URLs whose POSTs may go the quick way."""
        ...

    def quick(self, url: bytes, headers: Headers, body: bytes, gone: Gone) -> Coroutine[Any, Any, Response | None]: ...
    def error(self, message: str) -> bytes:
        """The body of an error that is answered before the app is asked."""
        ...


class QuickCycle:
    """A quick request in the place of uvicorn's RequestResponseCycle, of which it has what the protocol looks at."""

    __slots__ = ("body", "disconnected", "gone", "keep_alive", "more_body", "response_complete")

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
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
        self.gone = asyncio.get_running_loop().create_future()
        if self.disconnected:
            self.gone.set_result(None)
        return self.gone


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with a quick way, errors as the app writes them, and bounds."""

    app: Any
    dated: tuple[object, bytes] = (None, b"")  # of the one server in this process
    waiting: QuickCycle | None = None  # whose answer is still being made
    broken: tuple[int, str] | None = None  # what to answer once the requests before it are answered
    begun = False  # the first byte of a request has arrived, but not yet its whole head
    head_bytes = 0  # of a head that came in more than one piece
    last = False  # the next answer is this connection's last

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
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
            cycle = QuickCycle(parser.should_keep_alive() and not self.last)
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
            response, task = eagerly(self.app.quick(self.url, self.headers, bytes(cycle.body), cycle.left))
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

    def _failed(self, cycle: QuickCycle, error: BaseException) -> None:
        log.error("a bug of ours in the HTTP face", exc_info=error)
        cycle.response_complete = True  # or the error would wait for the answer that failed
        if not self.transport.is_closing():
            self.send_error(500, "an error of ours; the log has it")

    def _answer(self, cycle: QuickCycle, response: Response | None) -> None:
        cycle.response_complete = True
        if cycle.disconnected or response is None or self.transport.is_closing():
            return
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
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

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


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # the worker decides what a signal means


class HttpServer:
    """A Service: accepts on `listener` until it drains, then finishes what is in flight within `drain_limit_s`."""

    name = "http"
    unready = ""

    def __init__(
        self,
        app: App,
        listener: socket.socket,
        receive_limit_s: float,
        drain_limit_s: float,
        idle_limit_s: float = _KEEP_ALIVE_S,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
        )
        # uvicorn's types say int, but it hands the value to asyncio.wait_for: a part of a second counts too.
        vars(config)["timeout_graceful_shutdown"] = drain_limit_s
        self._server = _Uvicorn(config)
        self._listener = listener
        self._receive_limit_s = receive_limit_s
        self._idle_limit_s = idle_limit_s
        self._serving: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._since: dict[Protocol, tuple[State, float]] = {}

    async def start(self) -> None:
        listeners = [self._listener, *(self._listener.dup() for _ in range(_ACCEPTS_A_TURN - 1))]
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(listeners))
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(0.001)
        self._sweep()

    async def leave(self) -> None:
        """Accept no more, and tell those who are connected with their next answer; those who ask nothing are let be
        for a moment, so that hardly any connection is closed under a request that is on its way.
        """
        if self._serving is None:
            return
        for server in self._server.servers:
            server.close()
        connections: set[Any] = self._server.server_state.connections
        for connection in list(connections):
            connection.end_after_this()
        until = asyncio.get_running_loop().time() + _LEAVE_S
        while connections and asyncio.get_running_loop().time() < until and not self._server.force_exit:
            await asyncio.sleep(0.005)

    async def drain(self) -> None:
        if self._serving is None:
            return
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._server.should_exit = True
        await self._serving
        if tasks := self._server.server_state.tasks:  # cancelled, but not yet at their end
            await asyncio.wait(list(tasks), timeout=_CANCEL_S)
        self._serving = None

    @property
    def connected(self) -> int:
        """Connections that are open now, whether or not a request is under way."""
        return len(self._server.server_state.connections)

    def part(self) -> None:
        """Close the connections on which nothing is under way."""
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, Protocol):
                state, _ = self._state_of(connection)
                if state is not None and state[0] in ("new", "idle"):
                    connection.transport.close()

    def abort(self) -> None:
        """Stop waiting for what is in flight."""
        self._server.force_exit = True
        for task in list(self._server.server_state.tasks):
            task.cancel()

    def _sweep(self) -> None:
        """End requests that take too long to arrive, answers that nobody reads, and idle connections.

        A sweep costs the others nothing.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        since: dict[Protocol, tuple[State, float]] = {}
        for connection in list(self._server.server_state.connections):
            if not isinstance(connection, Protocol):
                continue
            state, limit_s = self._state_of(connection)
            if state is None:
                continue
            seen = self._since.get(connection)
            began = seen[1] if seen is not None and seen[0] == state else now
            if now - began > limit_s:
                self._end(connection, state)
            else:
                since[connection] = (state, began)
        self._since = since
        self._sweeper = loop.call_later(min(_SWEEP_S, self._receive_limit_s / 4), self._sweep)

    def _state_of(self, connection: Protocol) -> tuple[State | None, float]:
        """What the connection waits for, to be compared with the next sweep's, and for how long it may."""
        cycle: Any = connection.cycle
        unsent = connection.transport.get_write_buffer_size()
        if unsent:
            return ("unsent", unsent), self._idle_limit_s
        if connection.busy:
            return None, 0.0
        if connection.begun:
            return ("head", id(cycle)), self._receive_limit_s
        if cycle is None:
            return ("new", 0), self._receive_limit_s
        if cycle.response_complete:
            return ("idle", id(cycle)), self._idle_limit_s
        return ("body", id(cycle)), self._receive_limit_s

    def _end(self, connection: Protocol, state: State) -> None:
        cycle: Any = connection.cycle
        if state[0] == "unsent":
            connection.transport.abort()  # closing it would wait for the reader
        elif state[0] == "idle" or getattr(cycle, "response_started", False):
            connection.transport.close()
        else:
            message = f"the request didn't arrive within {self._receive_limit_s:g} s (server.receive_limit_s)"
            connection.send_error(408, message)

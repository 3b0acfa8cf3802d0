"""The HTTP server: uvicorn on uvloop, which ends what takes too long to arrive or to be read, and drains in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from typing import Any

import uvicorn

from servery.host.asgi import App
from servery.host.quick import Protocol

State = tuple[str, int]  # what a connection waits for: a word, and a number that changes with progress

_SWEEP_S = 0.5
_KEEP_ALIVE_S = 75.0
_BACKLOG = 2048
_CANCEL_S = 2.0
# How long a connection may wait for one more request before it is closed under a caller who might just be asking.
_LEAVE_S = 0.25
# libuv takes one connection from a listener in each turn of its loop, and under load a turn takes milliseconds. So the
# listener is there several times.
_ACCEPTS_A_TURN = 8


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
        tls: ssl.SSLContext | None = None,
        protocol: type[Protocol] = Protocol,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            ssl_context_factory=None if tls is None else lambda _, __: tls,
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
        # All processes share one listener. A copy of one that Python takes for blocking would make it so for all of them,
        # and one that had just been told of a caller whom another took would wait in accept, and do nothing else.
        self._listener.setblocking(False)
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

"""The quick way of the HTTP server, with apps that go wrong: the caller is answered, and not left to wait."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from typing import Any

import pytest
import uvloop

from server import post, split_replies
from servery.host.asgi import Headers, Response, Way
from servery.host.http import HttpServer
from servery.host.supervisor import listen

URL = "/quick"


class Failing:
    """An App whose quick way fails, at once or after it has waited."""

    def __init__(self, waits: bool) -> None:
        self._waits = waits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("only the quick way is asked here")

    def quick_urls(self) -> set[bytes]:
        return {URL.encode()}

    async def quick(self, url: bytes, headers: Headers, body: bytes, way: Way) -> Response | None:
        if self._waits:
            await asyncio.sleep(0)
        raise RuntimeError("a bug")

    def error(self, message: str) -> bytes:
        return json.dumps({"error": message}).encode()


class Shared(socket.socket):
    """A listener that others accept from meanwhile: it must never block them."""

    blocked = False

    def dup(self) -> socket.socket:
        copy = super().dup()
        self.blocked = self.blocked or os.get_blocking(self.fileno())
        return copy


def test_a_server_that_starts_doesnt_block_those_that_share_its_listener() -> None:
    async def start() -> None:
        with listen("127.0.0.1", 0) as first:
            os.set_blocking(first.fileno(), False)
            shared = Shared(fileno=os.dup(first.fileno()))  # as a worker gets it
            server = HttpServer(Failing(waits=False), shared, receive_limit_s=5, drain_limit_s=1)
            await server.start()
            await server.drain()
            assert not shared.blocked

    uvloop.run(start())


async def ask(app: Failing, listener: socket.socket) -> bytes:
    """All that a server of `app` sends back until it closes the connection."""
    server = HttpServer(app, listener, receive_limit_s=5, drain_limit_s=1)
    address = listener.getsockname()
    await server.start()
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(post(URL, b"{}"))
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
        await writer.wait_closed()
        await server.drain()


@pytest.mark.parametrize("waits", [False, True])
def test_a_bug_is_a_500_and_a_closed_connection(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "servery.http"):
        (reply,) = split_replies(asyncio.run(ask(Failing(waits), listen("127.0.0.1", 0))))
    assert (reply.status, reply.error) == (500, "an error of ours; the log has it")
    assert "a bug of ours in the HTTP face" in caplog.text


class Stuck(Failing):
    """An App whose quick way never answers; `asked` is set once it is under way."""

    def __init__(self) -> None:
        super().__init__(waits=True)
        self.asked = asyncio.Event()

    async def quick(self, url: bytes, headers: Headers, body: bytes, way: Way) -> Response | None:
        self.asked.set()
        await asyncio.get_running_loop().create_future()
        return None


def test_a_drain_limit_below_a_second_is_kept() -> None:
    async def drain() -> float:
        loop = asyncio.get_running_loop()
        listener = listen("127.0.0.1", 0)
        app = Stuck()
        server = HttpServer(app, listener, receive_limit_s=5, drain_limit_s=0.1)
        address = listener.getsockname()
        await server.start()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(post(URL, b"{}"))
        await app.asked.wait()
        began = loop.time()
        await server.drain()
        took = loop.time() - began
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        return took

    assert asyncio.run(drain()) < 0.9


@pytest.mark.parametrize("clients", [1, 32])
def test_connections_that_wait_are_accepted_several_a_turn(clients: int) -> None:
    async def turns() -> int:
        listener = listen("127.0.0.1", 0)
        server = HttpServer(Failing(waits=False), listener, receive_limit_s=5, drain_limit_s=1)
        await server.start()
        callers = [
            socket.create_connection(listener.getsockname()) for _ in range(clients)
        ]  # the kernel's backlog holds them
        taken = 0
        while server.connected < clients:
            await asyncio.sleep(0)
            taken += 1
        for caller in callers:
            caller.close()
        await server.drain()
        return taken

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # Under load a turn takes as long as all that arrived in it: one connection a turn would be milliseconds each.
        assert runner.run(turns()) <= clients // 8 + 3

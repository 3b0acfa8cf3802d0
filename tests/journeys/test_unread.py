"""Connections whose answers nobody reads, and idle ones, are ended; others are not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Container
from typing import Any

import pytest

from server import post, read_all, split_replies
from servery.host.asgi import Headers, Response, Way
from servery.host.http import HttpServer

LARGE = bytes(50 << 20)


class Generous:
    """Answers /quick the quick way and the rest the other, with more than any socket holds."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % (2 * len(LARGE)))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": LARGE, "more_body": True})
        await send({"type": "http.response.body", "body": LARGE, "more_body": False})

    def quick_urls(self) -> Container[bytes]:
        return (b"/quick", b"/small")

    async def quick(self, url: bytes, headers: Headers, body: bytes, way: Way) -> Response | None:
        answer = b"{}" if url == b"/small" else LARGE
        return Response(200, b"content-length: %d\r\n" % len(answer), [answer])

    def error(self, message: str) -> bytes:
        return message.encode()


@pytest.mark.parametrize("path", ["/quick", "/other"])
def test_an_answer_that_nobody_reads_is_given_up(path: str) -> None:
    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(Generous(), listener, receive_limit_s=1, drain_limit_s=1, idle_limit_s=0.6)
        await server.start()
        await asyncio.to_thread(talk, listener.getsockname()[1], path)
        await server.drain()

    asyncio.run(run())


def talk(port: int, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as unread:
        unread.sendall(post(path, b"{}"))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(post("/quick", b"{}", "connection: close"))
            received = 0
            while part := slow.recv(1 << 20):  # a slow reader that gets on is left alone
                received += len(part)
                time.sleep(0.02)
            assert received > len(LARGE)
        assert len(read_all(unread)) < len(LARGE)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as idle:
        idle.sendall(post("/small", b"{}"))
        assert len(split_replies(read_all(idle))) == 1

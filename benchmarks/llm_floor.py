"""The floor under a gateway for language models: a bare ASGI app that relays each call with the same client as Servery.

Raw ASGI under uvicorn with uvloop and httptools; pyreqwest to the endpoint. It decodes the body (msgspec, `model` and `stream` only), sends
it on, and gives the answer back as it comes. No key, no limits, no choice, no deadline, no books.

    python benchmarks/llm_floor.py PORT ENDPOINT
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from pyreqwest.client import Client, ClientBuilder

from bare_server import serve

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Asked(msgspec.Struct, gc=False):
    """A request's JSON, as far as a relay must know it."""

    model: str
    stream: bool = False


class Relay:
    """The ASGI app: whatever is posted goes to the endpoint."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._client: Client | None = None
        self._decode = msgspec.json.Decoder(Asked).decode

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        client = self._client = self._client or ClientBuilder().build()
        message = await receive()
        body: bytes = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        asked = self._decode(body)
        path = scope["path"].removeprefix("/v1")
        request = client.post(f"{self._endpoint}{path}").header("content-type", "application/json").body_bytes(body)
        if asked.stream:
            await _stream(request.streamed_read_buffer_limit(0).build_streamed(), send)
            return
        response = await request.build().send()
        answer = bytes(await response.bytes())
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def _stream(request: Any, send: Send) -> None:
    async with request as response:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        reader = response.body_reader
        while (part := await reader.read_chunk()) is not None:
            await send({"type": "http.response.body", "body": bytes(part), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def main(arguments: list[str]) -> None:
    port, endpoint = arguments
    serve(Relay(endpoint), port)


if __name__ == "__main__":
    main(sys.argv[1:])

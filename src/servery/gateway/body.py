"""Receive, first half: a request's body off its socket, within bounds (host.http bounds the time)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from servery.gateway.admit import Left
from servery.terms.reasons import Reason, Refusal
from servery.terms.server import Server
from servery.wire.coding import decoded, is_coded

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_MIB = 1 << 20
_RATIO = 1032  # what deflate saves at most


class Inflow:
    """Bodies that arrive in pieces are held to a total, so that many large ones can't take all the memory."""

    def __init__(self, server: Server) -> None:
        self._largest = server.max_body_mb * _MIB
        self._most = max(8 * self._largest, 512 * _MIB)
        self._held = 0

    def check_length(self, declared: bytes) -> None:
        """Refuse a body that says itself that it is too large, before a byte of it is read."""
        if int(declared) > self._largest:
            raise self._too_large(int(declared))

    async def whole(self, fields: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The body as it was before its Content-Encoding, if it has one. Refusal, Left."""
        if b"content-length" in fields:
            self.check_length(fields[b"content-length"])
        if b"content-encoding" not in fields:
            return await self.body(receive)
        is_coded(fields[b"content-encoding"])  # or it need not be read
        return await self.decoded(fields, await self.body(receive))

    async def body(self, receive: Receive) -> bytes:
        """The whole body. Raises Refusal(TOO_LARGE, NO_ROOM), or Left when the caller goes away."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Left
        if not message["more_body"]:
            return message["body"]
        parts: list[bytes] = [message["body"]]
        size = len(parts[0])
        self._held += size
        try:
            while message["more_body"]:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Left
                parts.append(message["body"])
                size += len(parts[-1])
                self._held += len(parts[-1])
                if size > self._largest:
                    raise self._too_large(size)
                if self._held > self._most:
                    raise Refusal(Reason.NO_ROOM, "too many large bodies are arriving at once", retry_after_s=1.0)
        finally:
            self._held -= size
        return b"".join(parts)

    async def decoded(self, fields: Mapping[bytes, bytes], body: bytes) -> bytes:
        """The body as it was before its Content-Encoding, decoded off the event loop. Refusal."""
        encoding = fields[b"content-encoding"]
        if not is_coded(encoding):
            return body
        size = min(len(body) * _RATIO, self._largest)
        if self._held + size > self._most:
            raise Refusal(Reason.NO_ROOM, "too many large bodies are being decoded at once", retry_after_s=1.0)
        self._held += size
        try:
            return await asyncio.get_running_loop().run_in_executor(None, decoded, encoding, body, self._largest)
        finally:
            self._held -= size

    def _too_large(self, size: int) -> Refusal:
        return Refusal(
            Reason.TOO_LARGE,
            f"the body has {size} bytes or more; at most {self._largest // _MIB} MiB are taken (server.max_body_mb)",
        )

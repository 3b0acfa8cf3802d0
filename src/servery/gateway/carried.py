"""A request as HTTP carries it, whatever is asked: its header fields, its body, and the replies that all faces give alike."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from servery.gateway.identify import presented_key
from servery.gateway.receive import stated_timeout_ns
from servery.host.asgi import Response
from servery.routing.assignment import ARM_HEADER
from servery.terms.reasons import Reason, Refusal
from servery.wire.status import HTTP_STATUS, RETRY_AFTER_S

HeaderMap = dict[bytes, bytes]
Fetch = Callable[[], Awaitable[bytes]]

CLOSE = b"connection: close\r\n"
_JSON_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\n%b"


class Carried:
    """As of receive.Arriving. `fetch` gets a body that isn't here yet."""

    __slots__ = ("_body", "_fetch", "_fields", "echo", "here", "request_id", "traceparent")

    def __init__(self, fields: HeaderMap, body: bytes, fetch: Fetch | None) -> None:
        self._fields = fields
        self._body = body
        self._fetch = fetch
        self.here = fetch is None
        self.request_id = self.traceparent = ""
        self.echo = b""
        if b"x-request-id" in fields or b"traceparent" in fields:
            self.request_id = fields.get(b"x-request-id", b"").decode("latin-1")
            self.traceparent = fields.get(b"traceparent", b"").decode("latin-1")
            self.echo = echo(fields)

    @property
    def body(self) -> bytes:
        """What was sent, once it has arrived."""
        return self._body

    @property
    def timeout_ns(self) -> int:
        stated = self._fields.get(b"servery-timeout-ms")
        return 0 if stated is None else stated_timeout_ns(stated)

    def header(self, name: str) -> str | None:
        value = self._fields.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def carry(self, arm: str) -> None:
        """As of Arriving."""
        self.echo += b"%b: %b\r\n" % (ARM_HEADER.encode(), arm.encode())

    async def arrive(self) -> None:
        if self._fetch is not None:
            self._body = await self._fetch()
            self.here = True


class MethodRefusal(Refusal):
    """A path that exists, with a method that it doesn't have."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(Reason.METHOD_NOT_ALLOWED, f"{method} is not possible here; use {allowed}")
        self.allowed = allowed


def allow(method: str, allowed: str) -> None:
    """Refusal."""
    if method != allowed:
        raise MethodRefusal(method, allowed)


def key_of(fields: HeaderMap) -> bytes | None:
    return presented_key(fields.get(b"authorization"), fields.get(b"x-api-key"))


def echo(fields: HeaderMap) -> bytes:
    """Head lines that say back what the caller named its request."""
    lines = b""
    if b"x-request-id" in fields:
        lines += b"x-request-id: %b\r\n" % fields[b"x-request-id"]
    if b"traceparent" in fields:
        lines += b"traceparent: %b\r\n" % fields[b"traceparent"]
    return lines


def json_reply(status: int, body: bytes, lines: bytes, retry_after_s: float | None = None) -> Response:
    if status in RETRY_AFTER_S:
        lines += b"retry-after: %d\r\n" % math.ceil(retry_after_s or RETRY_AFTER_S[status])
    return Response(status, _JSON_HEAD % (len(body), lines), [body])


def refused(refusal: Refusal, body: bytes, lines: bytes) -> Response:
    """A Refusal, whose words are in the `body`."""
    if refusal.reason is Reason.UNAUTHENTICATED:
        lines += b"www-authenticate: Bearer\r\n"
    if isinstance(refusal, MethodRefusal):
        lines += b"allow: %b\r\n" % refusal.allowed.encode()
    return json_reply(HTTP_STATUS[refusal.reason], body, lines, refusal.retry_after_s)

"""The face of OpenAI's API: chat, completions and embeddings, whole or streamed, with its errors in its own form."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from servery.gateway.admit import Left
from servery.gateway.body import Inflow, Receive
from servery.gateway.identify import presented_key
from servery.gateway.pipeline import Pipeline, Reply, cut_short
from servery.gateway.receive import stated_timeout_ns
from servery.gateway.texts import TextTier
from servery.host.asgi import AsgiWay, Response, Send, Way, send_response
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Caller
from servery.terms.text import Form, Prompt
from servery.wire import openai as wire
from servery.wire.sse import event
from servery.wire.status import HTTP_STATUS, RETRY_AFTER_S

Fields = dict[bytes, bytes]

PREFIX = b"/v1/"
_JSON_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\n%b"
_STREAM_HEAD = b"content-type: text/event-stream\r\ncache-control: no-cache\r\n"
_CLOSE = b"connection: close\r\n"
_FORMS = {form.value: form for form in Form}
# What keeps state with the vendor, or isn't text: Servery has nothing to answer with.
_STATEFUL = ("responses", "assistants", "threads", "files", "batches", "uploads", "vector_stores", "fine_tuning", "images",
             "audio", "moderations", "realtime", "videos", "conversations", "evals", "containers")  # fmt: skip


class OpenAiAsk:
    """One request as HTTP carries it: what is asked, and the way of the answer back. `fetch` gets a body that isn't here."""

    __slots__ = (
        "_body",
        "_fetch",
        "_fields",
        "_form",
        "_way",
        "answer",
        "begun",
        "degraded",
        "echo",
        "here",
        "record_id",
        "request_id",
        "tier",
        "traceparent",
    )

    def __init__(
        self, form: Form, fields: Fields, body: bytes, way: Way, fetch: Callable[[], Awaitable[bytes]] | None = None
    ) -> None:
        self.begun = False
        self.here = fetch is None
        self.request_id = self.traceparent = ""
        self.echo = b""
        if b"x-request-id" in fields or b"traceparent" in fields:
            self.request_id = fields.get(b"x-request-id", b"").decode("latin-1")
            self.traceparent = fields.get(b"traceparent", b"").decode("latin-1")
            self.echo = _echo(fields)
        self.record_id = b""
        self.answer = b""
        self.degraded = b""
        self.tier: TextTier | None = None
        self._form = form
        self._fields = fields
        self._fetch = fetch
        self._way = way
        self._body = body

    @property
    def timeout_ns(self) -> int:
        stated = self._fields.get(b"servery-timeout-ms")
        return 0 if stated is None else stated_timeout_ns(stated)

    def header(self, name: str) -> str | None:
        value = self._fields.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def arrive(self) -> None:
        if self._fetch is not None:
            self._body = await self._fetch()
            self.here = True

    def decode(self) -> Prompt:
        return wire.decode_prompt(self._form, self._body)

    def left(self) -> Awaitable[None]:
        return self._way.left()

    def whole(self, tier: TextTier, body: bytes, degraded: str) -> None:
        """As of Speaker."""
        self.tier, self.answer = tier, body
        self.degraded = _degraded(degraded)

    async def say(self, tier: TextTier, chunks: list[bytes], degraded: str = "") -> None:
        """As of Speaker."""
        part = event(chunks[0]) if len(chunks) == 1 else b"".join([event(chunk) for chunk in chunks])
        if self.begun:
            await self._way.part(part)
        else:
            self.begun = True
            record = b"servery-record-id: %b\r\n" % self.record_id.hex().encode()
            await self._way.begin(b"".join((_STREAM_HEAD, record, tier.told, _degraded(degraded), self.echo)), part)

    async def end(self) -> None:
        """As of Speaker."""
        await self._way.end(event(wire.DONE))

    async def fail(self, refusal: Refusal) -> None:
        """End a stream that has begun with the error that cut it short."""
        await self._way.end(event(wire.encode_error(refusal)))


class OpenAiFace:
    """What lies under /v1/: an ASGI app, and `quick` for prompts whose body has arrived whole."""

    def __init__(self, pipeline: Pipeline, inflow: Inflow, started_s: int) -> None:
        self._pipeline = pipeline
        self._inflow = inflow
        self._started_s = started_s

    async def quick(self, form: Form, fields: Fields, body: bytes, way: Way) -> Response | None:
        """Answer a prompt; None when the caller has left, or has been sent a stream."""
        try:
            caller = self._identify(fields)
            fetch = functools.partial(self._inflow.decoded, fields, body) if b"content-encoding" in fields else None
            return await self._answer(caller, OpenAiAsk(form, fields, body, way, fetch))
        except Refusal as refusal:
            return _refused(refusal, _echo(fields))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        fields: Fields = dict(scope["headers"])
        try:
            response = await self._route(scope, fields, receive, send)
        except Left:
            self._pipeline.unrecorded.count("left")
            return
        except asyncio.CancelledError:
            if not self._pipeline.draining:
                raise
            response = _refused(cut_short(), _echo(fields) + _CLOSE)
        except Refusal as refusal:
            response = _refused(refusal, _echo(fields) + _CLOSE)
        if response is not None:
            await send_response(send, response)

    async def _route(self, scope: Any, fields: Fields, receive: Receive, send: Send) -> Response | None:
        path, method = scope["path"].removeprefix("/v1/").removesuffix("/"), scope["method"]
        caller = self._identify(fields)
        form = _FORMS.get(path)
        if form is not None:
            if method != "POST":
                raise Refusal(Reason.METHOD_NOT_ALLOWED, f"{method} is not possible here; use POST")

            async def gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass

            fetch = functools.partial(self._inflow.whole, fields, receive)
            return await self._answer(caller, OpenAiAsk(form, fields, b"", AsgiWay(send, gone), fetch))
        if path == "models" or path.startswith("models/"):
            if method != "GET":
                raise Refusal(Reason.METHOD_NOT_ALLOWED, f"{method} is not possible here; use GET")
            return _json(200, self._models(path.removeprefix("models").removeprefix("/")), _echo(fields))
        first = path.split("/")[0]
        known = "/v1/chat/completions, /v1/completions, /v1/embeddings and /v1/models"
        if first in _STATEFUL or path.startswith("chat/completions/"):
            raise Refusal(Reason.NOT_OFFERED, f"{scope['path'][:128]} is not offered; there is {known}")
        raise Refusal(Reason.NOT_FOUND, f"there is nothing at {scope['path'][:128]}; there is {known}")

    def _identify(self, fields: Fields) -> Caller:
        return self._pipeline.identify(presented_key(fields.get(b"authorization"), fields.get(b"x-api-key")))

    def _models(self, name: str) -> bytes:
        names = self._pipeline.table.texts
        if not name:
            return wire.encode_models(names, self._started_s)
        if name not in names:
            raise Refusal(Reason.NOT_FOUND, f"no route or model is called '{name[:128]}'")
        return msgspec.json.encode(wire.encode_model(name, self._started_s))

    async def _answer(self, caller: Caller, ask: OpenAiAsk) -> Response | None:
        """What the Request ended with, where it isn't sent already; None where it is, or nobody waits for it."""
        reply: Reply = await self._pipeline.converse(caller, ask)
        if ask.begun:
            if reply.refusal is not None:
                await ask.fail(reply.refusal)
            return None
        record = b"servery-record-id: %b\r\n" % reply.record_id.hex().encode()
        if reply.refusal is not None:
            return _refused(reply.refusal, record + ask.echo + (b"" if ask.here else _CLOSE))
        if ask.tier is None:
            return None
        return _json(200, ask.answer, b"".join((record, ask.tier.told, ask.degraded, ask.echo)))


def _degraded(why: str) -> bytes:
    return b"servery-degraded: %b\r\n" % why.encode() if why else b""


def _echo(fields: Fields) -> bytes:
    names = (b"x-request-id", b"traceparent")
    return b"".join([b"%b: %b\r\n" % (name, fields[name]) for name in names if name in fields])


def _refused(refusal: Refusal, lines: bytes) -> Response:
    status = HTTP_STATUS[refusal.reason]
    if status in RETRY_AFTER_S:
        lines += b"retry-after: %d\r\n" % math.ceil(refusal.retry_after_s or RETRY_AFTER_S[status])
    if refusal.reason is Reason.UNAUTHENTICATED:
        lines += b"www-authenticate: Bearer\r\n"
    return _json(status, wire.encode_error(refusal), lines)


def _json(status: int, body: bytes, lines: bytes) -> Response:
    return Response(status, _JSON_HEAD % (len(body), lines), [body])

"""The face of OpenAI's API: chat, completions and embeddings, whole or streamed, with its errors in its own form."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from servery.gateway.admit import Left
from servery.gateway.body import Inflow, Message, Receive
from servery.gateway.identify import presented_key
from servery.gateway.pipeline import Pipeline, Reply, cut_short
from servery.gateway.receive import stated_timeout_ns
from servery.gateway.texts import TextEntry, TextTier
from servery.host.asgi import Gone
from servery.terms.reasons import Reason, Refusal
from servery.terms.text import Form, Prompt
from servery.wire import openai as wire
from servery.wire.sse import event
from servery.wire.status import HTTP_STATUS, RETRY_AFTER_S

Send = Callable[[Message], Awaitable[None]]
Fields = dict[bytes, bytes]
Headers = list[tuple[bytes, bytes]]

PREFIX = b"/v1/"
_FORMS = {form.value: form for form in Form}
# What keeps state with the vendor, or isn't text: Servery has nothing to answer with.
_STATEFUL = ("responses", "assistants", "threads", "files", "batches", "uploads", "vector_stores", "fine_tuning", "images",
             "audio", "moderations", "realtime", "videos", "conversations", "evals", "containers")  # fmt: skip


class OpenAiAsk:
    """One request as HTTP carries it: what is asked, and the way of the answer back."""

    def __init__(
        self, form: Form, fields: Fields, fetch: Callable[[], Awaitable[bytes]], gone: Gone, send: Send
    ) -> None:
        self.begun = self.here = False
        self.request_id = fields.get(b"x-request-id", b"").decode("latin-1")
        self.traceparent = fields.get(b"traceparent", b"").decode("latin-1")
        self.record_id = b""
        self.answer = b""
        self.answered_by: Headers = []
        self._form = form
        self._fields = fields
        self._fetch = fetch
        self._gone = gone
        self._send = send
        self._body = b""

    @property
    def timeout_ns(self) -> int:
        stated = self._fields.get(b"servery-timeout-ms")
        return 0 if stated is None else stated_timeout_ns(stated)

    def header(self, name: str) -> str | None:
        value = self._fields.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def arrive(self) -> None:
        self._body = await self._fetch()
        self.here = True

    def decode(self) -> Prompt:
        return wire.decode_prompt(self._form, self._body)

    def left(self) -> Awaitable[None]:
        return self._gone()

    def whole(self, entry: TextEntry, tier: TextTier, body: bytes) -> None:
        """As of Speaker."""
        self.answer = body
        self.answered_by = _answered_by(entry, tier)

    async def say(self, entry: TextEntry, tier: TextTier, chunks: list[bytes]) -> None:
        """As of Speaker."""
        if not self.begun:
            self.begun = True
            head = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            record = (b"servery-record-id", self.record_id.hex().encode())
            headers = [*head, record, *_answered_by(entry, tier), *_echo(self._fields)]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._body_part(b"".join([event(chunk) for chunk in chunks]), more=True)

    async def end(self) -> None:
        """As of Speaker."""
        await self._body_part(event(wire.DONE), more=False)

    async def fail(self, refusal: Refusal) -> None:
        """End a stream that has begun with the error that cut it short."""
        await self._body_part(event(wire.encode_error(refusal)), more=False)

    async def _body_part(self, part: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": more})


class OpenAiFace:
    """An ASGI app for what lies under /v1/."""

    def __init__(self, pipeline: Pipeline, inflow: Inflow, started_s: int) -> None:
        self._pipeline = pipeline
        self._inflow = inflow
        self._started_s = started_s

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        fields: Fields = dict(scope["headers"])
        try:
            await self._route(scope, fields, receive, send)
        except Left:
            self._pipeline.unrecorded.count("left")
        except asyncio.CancelledError:
            if not self._pipeline.draining:
                raise
            await _refuse(send, cut_short(), [*_echo(fields), (b"connection", b"close")])
        except Refusal as refusal:
            await _refuse(send, refusal, [*_echo(fields), (b"connection", b"close")])

    async def _route(self, scope: Any, fields: Fields, receive: Receive, send: Send) -> None:
        path, method = scope["path"].removeprefix("/v1/").removesuffix("/"), scope["method"]
        caller = self._pipeline.identify(presented_key(fields.get(b"authorization"), fields.get(b"x-api-key")))
        form = _FORMS.get(path)
        if form is not None:
            if method != "POST":
                raise Refusal(Reason.METHOD_NOT_ALLOWED, f"{method} is not possible here; use POST")

            async def gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass

            ask = OpenAiAsk(form, fields, functools.partial(self._body, fields, receive), gone, send)
            await self._answer(ask, await self._pipeline.converse(caller, ask), fields, send)
        elif path == "models" or path.startswith("models/"):
            if method != "GET":
                raise Refusal(Reason.METHOD_NOT_ALLOWED, f"{method} is not possible here; use GET")
            await _json(send, 200, self._models(path.removeprefix("models").removeprefix("/")), _echo(fields))
        else:
            first = path.split("/")[0]
            known = "/v1/chat/completions, /v1/completions, /v1/embeddings and /v1/models"
            if first in _STATEFUL or path.startswith("chat/completions/"):
                raise Refusal(Reason.NOT_OFFERED, f"{scope['path'][:128]} is not offered; there is {known}")
            raise Refusal(Reason.NOT_FOUND, f"there is nothing at {scope['path'][:128]}; there is {known}")

    def _models(self, name: str) -> bytes:
        names = self._pipeline.table.texts
        if not name:
            return wire.encode_models(names, self._started_s)
        if name not in names:
            raise Refusal(Reason.NOT_FOUND, f"no route or model is called '{name[:128]}'")
        return msgspec.json.encode(wire.encode_model(name, self._started_s))

    async def _answer(self, ask: OpenAiAsk, reply: Reply, fields: Fields, send: Send) -> None:
        """Send what the Request ended with, where it isn't sent already."""
        record = (b"servery-record-id", reply.record_id.hex().encode())
        if ask.begun:
            if reply.refusal is not None:
                await ask.fail(reply.refusal)
        elif reply.refusal is not None:
            unread = [] if ask.here else [(b"connection", b"close")]
            await _refuse(send, reply.refusal, [record, *_echo(fields), *unread])
        elif ask.answer:
            await _json(send, 200, ask.answer, [record, *ask.answered_by, *_echo(fields)])

    async def _body(self, fields: Fields, receive: Receive) -> bytes:
        return await self._inflow.whole(fields, receive)


def _answered_by(entry: TextEntry, tier: TextTier) -> Headers:
    told = (("route", entry.name), ("tier", tier.name), ("model", tier.model), ("version", tier.version))
    return [(b"servery-%b" % name.encode(), value.encode()) for name, value in told]


def _echo(fields: Fields) -> Headers:
    return [(name, fields[name]) for name in (b"x-request-id", b"traceparent") if name in fields]


async def _refuse(send: Send, refusal: Refusal, headers: Headers) -> None:
    status = HTTP_STATUS[refusal.reason]
    if status in RETRY_AFTER_S:
        wait_s = math.ceil(refusal.retry_after_s or RETRY_AFTER_S[status])
        headers = [*headers, (b"retry-after", str(wait_s).encode())]
    if refusal.reason is Reason.UNAUTHENTICATED:
        headers = [*headers, (b"www-authenticate", b"Bearer")]
    await _json(send, status, wire.encode_error(refusal), headers)


async def _json(send: Send, status: int, body: bytes, headers: Headers) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})

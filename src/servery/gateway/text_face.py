"""The face of language models: OpenAI's and Anthropic's APIs, whole or streamed, with errors in each one's own form."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable
from typing import Any

import msgspec

from servery.gateway.admit import Left
from servery.gateway.body import Inflow, Receive
from servery.gateway.carried import CLOSE, Carried, Fetch, HeaderMap, allow, echo, json_reply, key_of, refused
from servery.gateway.converse import find_text
from servery.gateway.pipeline import Pipeline, Reply, cut_short
from servery.gateway.texts import TextTier
from servery.gateway.voices import ANTHROPIC, OPENAI, VOICES, Voice
from servery.host.asgi import AsgiWay, Response, Send, Way, send_response
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Caller
from servery.terms.text import Form, Prompt
from servery.wire import messages, openai

PREFIX = b"/v1/"
_STREAM_HEAD = b"content-type: text/event-stream\r\ncache-control: no-cache\r\n"
_FORMS = {form.value: form for form in Form}
_KNOWN = ", ".join([f"/v1/{form.value}" for form in Form] + ["/v1/messages/count_tokens", "/v1/models"])
# What keeps state with the vendor, or isn't text: Servery has nothing to answer with.
_STATEFUL = ("responses", "assistants", "threads", "files", "batches", "uploads", "vector_stores", "fine_tuning", "images",
             "audio", "realtime", "videos", "conversations", "evals", "containers", "skills", "organizations")  # fmt: skip


class HttpTextAsk(Carried):
    """One request as HTTP carries it: what is asked, and the way of the answer back."""

    __slots__ = ("_form", "_way", "answer", "begun", "degraded", "record_id", "tier", "voice")

    def __init__(self, form: Form, fields: HeaderMap, body: bytes, way: Way, fetch: Fetch | None = None) -> None:
        super().__init__(fields, body, fetch)
        self.voice = VOICES[form]
        self.begun = False
        self.record_id = b""
        self.answer = b""
        self.degraded = b""
        self.tier: TextTier | None = None
        self._form = form
        self._way = way

    def decode(self) -> Prompt:
        prompt = self.voice.decode(self._form, self._body)
        if b"anthropic-beta" in self._fields:
            prompt = msgspec.structs.replace(prompt, beta=self.header("anthropic-beta") or "")
        return prompt

    def left(self) -> Awaitable[None]:
        return self._way.left()

    def whole(self, tier: TextTier, body: bytes, degraded: str) -> None:
        """As of Speaker."""
        self.tier, self.answer = tier, body
        self.degraded = _degraded(degraded)

    async def say(self, tier: TextTier, chunks: list[bytes], degraded: str = "") -> None:
        """As of Speaker."""
        event = self.voice.event
        part = event(chunks[0]) if len(chunks) == 1 else b"".join([event(chunk) for chunk in chunks])
        if self.begun:
            await self._way.part(part)
        else:
            self.begun = True
            record = b"servery-record-id: %b\r\n" % self.record_id.hex().encode()
            await self._way.begin(b"".join((_STREAM_HEAD, record, tier.told, _degraded(degraded), self.echo)), part)

    async def end(self) -> None:
        """As of Speaker."""
        await self._way.end(self.voice.done)

    async def fail(self, refusal: Refusal) -> None:
        """End a stream that has begun with the error that cut it short."""
        await self._way.end(self.voice.event(self.voice.encode_error(refusal)))


class TextFace:
    """What lies under /v1/: an ASGI app, and `quick` for prompts whose body has arrived whole."""

    def __init__(self, pipeline: Pipeline, inflow: Inflow, started_s: int) -> None:
        self._pipeline = pipeline
        self._inflow = inflow
        self._started_s = started_s

    async def quick(self, form: Form, fields: HeaderMap, body: bytes, way: Way) -> Response | None:
        """Answer a prompt; None when the caller has left, or has been sent a stream."""
        try:
            caller = self._pipeline.identify(key_of(fields))
            fetch = functools.partial(self._inflow.decoded, fields, body) if b"content-encoding" in fields else None
            return await self._answer(caller, HttpTextAsk(form, fields, body, way, fetch))
        except Refusal as refusal:
            return _refused(VOICES[form], refusal, echo(fields))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        fields: HeaderMap = dict(scope["headers"])
        path = scope["path"].removeprefix("/v1/").removesuffix("/")
        anthropic = b"anthropic-version" in fields or path.split("/")[0] == Form.MESSAGES.value
        voice = ANTHROPIC if anthropic else OPENAI
        try:
            response = await self._route(scope, path, fields, receive, send, voice)
        except Left:
            self._pipeline.unrecorded.count("left")
            return
        except asyncio.CancelledError:
            if not self._pipeline.draining:
                raise
            response = _refused(voice, cut_short(), echo(fields) + CLOSE)
        except Refusal as refusal:
            response = _refused(voice, refusal, echo(fields) + CLOSE)
        if response is not None:
            await send_response(send, response)

    async def _route(
        self, scope: Any, path: str, fields: HeaderMap, receive: Receive, send: Send, voice: Voice
    ) -> Response | None:
        method = scope["method"]
        caller = self._pipeline.identify(key_of(fields))
        fetch = functools.partial(self._inflow.whole, fields, receive)
        form = _FORMS.get(path)
        if form is not None and not (form is Form.CHAT and method == "GET"):  # that lists what is stored
            allow(method, "POST")

            async def gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass

            return await self._answer(caller, HttpTextAsk(form, fields, b"", AsgiWay(send, gone), fetch))
        if path == "messages/count_tokens":
            allow(method, "POST")
            await self._pipeline.book(caller)
            return await self._count(caller, fields, await fetch())
        if path == "models" or path.startswith("models/"):
            if method == "DELETE":
                raise Refusal(
                    Reason.NOT_OFFERED, "models are not deleted here; take it out of the manifest, and apply that"
                )
            allow(method, "GET")
            return json_reply(200, self._models(path.removeprefix("models").removeprefix("/"), voice), echo(fields))
        if path.split("/", maxsplit=1)[0] in _STATEFUL or path.startswith(("chat/completions", "messages/")):
            raise Refusal(Reason.NOT_OFFERED, f"{scope['path'][:128]} is not offered; there is {_KNOWN}")
        raise Refusal(Reason.NOT_FOUND, f"there is nothing at {scope['path'][:128]}; there is {_KNOWN}")

    def _models(self, name: str, voice: Voice) -> bytes:
        entries = self._pipeline.table.texts
        if name and name not in entries:
            raise Refusal(Reason.NOT_FOUND, f"no route or model is called '{name[:128]}'")
        if voice is not ANTHROPIC:
            if not name:
                return openai.encode_models(entries, self._started_s)
            return msgspec.json.encode(openai.encode_model(name, self._started_s))
        if not name:
            return messages.encode_models({name: entry.window for name, entry in entries.items()}, self._started_s)
        return msgspec.json.encode(messages.encode_model(name, self._started_s, entries[name].window))

    async def _count(self, caller: Caller, fields: HeaderMap, body: bytes) -> Response:
        """The tokens of a prompt: as the first tier's vendor counts them, or as they are estimated. It leaves no Record."""
        prompt = messages.decode_prompt(body, answered=False)
        if b"anthropic-beta" in fields:
            prompt = msgspec.structs.replace(prompt, beta=fields[b"anthropic-beta"].decode("latin-1"))
        table = self._pipeline.table
        entry = find_text(table.texts, prompt.called, prompt.form, prompt.called in table.entries)
        closed = entry.closed.get(caller.tenant, ())
        for step, tier in enumerate(entry.tiers):
            if step not in closed:
                return json_reply(200, messages.encode_count(await tier.target.count(prompt)), tier.told + echo(fields))
        message = f"no tier of '{entry.name}' may serve the tenant '{caller.tenant}': its data may not flow there"
        raise Refusal(Reason.NO_CANDIDATE, message)

    async def _answer(self, caller: Caller, ask: HttpTextAsk) -> Response | None:
        """What the Request ended with, where it isn't sent already; None where it is, or nobody waits for it."""
        reply: Reply = await self._pipeline.converse(caller, ask)
        if ask.begun:
            if reply.refusal is not None:
                await ask.fail(reply.refusal)
            return None
        record = b"servery-record-id: %b\r\n" % reply.record_id.hex().encode()
        if reply.refusal is not None:
            return _refused(ask.voice, reply.refusal, record + ask.echo + (b"" if ask.here else CLOSE))
        if ask.tier is None:
            return None
        return json_reply(200, ask.answer, b"".join((record, ask.tier.told, ask.degraded, ask.echo)))


def _degraded(why: str) -> bytes:
    return b"servery-degraded: %b\r\n" % why.encode() if why else b""


def _refused(voice: Voice, refusal: Refusal, lines: bytes) -> Response:
    if refusal.reason is Reason.NOT_OFFERED:
        lines += b"x-should-retry: false\r\n"  # both vendors' clients call again after any other 5xx
    return refused(refusal, voice.encode_error(refusal), lines)

"""The HTTP face: bytes in, Asks for the pipeline, the Open Inference Protocol's bytes out."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Container
from typing import Any
from urllib.parse import unquote

import msgspec

from servery import __version__
from servery.gateway.admit import Left
from servery.gateway.body import Inflow, Receive
from servery.gateway.carried import CLOSE, Carried, Fetch, HeaderMap, allow, echo, json_reply, key_of, refused
from servery.gateway.feedback import take_feedback
from servery.gateway.pipeline import Pipeline, Reply, cut_short, find_entry
from servery.gateway.repository import Repository, over_http
from servery.gateway.table import Entry
from servery.gateway.text_face import PREFIX, TextFace
from servery.host.asgi import Gone, Headers, Response, Send, Way, send_response
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Answer, Caller, Inference
from servery.terms.text import Form
from servery.wire import absent, oip
from servery.wire.coding import chosen, encoded
from servery.wire.config import encode_config
from servery.wire.repository import decode_reason, encode_statistics

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
_ANSWER_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\n%b%b"
_BINARY_HEAD = (
    b"content-type: application/octet-stream\r\ncontent-length: %d\r\ninference-header-content-length: %d\r\n%b%b"
)
_VERBS = ("infer", "ready", "stats", "config")
_KEPT = 1024
# A reply below this size isn't compressed, and one above the other not on the event loop.
_WORTH_BYTES, _LONG_BYTES = 1024, 65_536
_PLAIN_BYTES = 1024  # a body of this size may stay unread without closing the connection


class HttpAsk(Carried):
    """An infer request; `chunks` is the reply's body once it is encoded. `long`: if the body stays unread, the connection
    can't be used again.
    """

    __slots__ = ("_gone", "called", "chunks", "coding", "json_length", "long", "version")

    def __init__(
        self, called: str, version: str, fields: HeaderMap, body: bytes, gone: Gone, fetch: Fetch | None = None
    ) -> None:
        super().__init__(fields, body, fetch)
        self.called = called
        self.version = version
        self.long = fetch is not None and _may_be_unread(fields)
        self.chunks: list[oip.Chunk] = []
        self.json_length = 0
        self.coding = b""  # of the chunks
        self._gone = gone

    def decode(self) -> Inference:
        return oip.decode_infer(self._body, self._fields.get(b"inference-header-content-length"))

    def encode(self, entry: Entry, inference: Inference, answer: Answer) -> None:
        self.chunks, self.json_length = oip.encode_infer(entry.name, entry.version, inference, answer)

    async def compress(self, accepted: bytes) -> None:
        """Encode the chunks as the caller likes them, where that is worth it."""
        size = sum([len(chunk) for chunk in self.chunks])
        if size < _WORTH_BYTES or not (coding := chosen(accepted)):
            return
        chunks = self.chunks
        loop = asyncio.get_running_loop()
        self.chunks = [
            encoded(coding, chunks) if size < _LONG_BYTES else await loop.run_in_executor(None, encoded, coding, chunks)
        ]
        self.coding = coding

    def left(self) -> Awaitable[None]:
        return self._gone()


class HttpFace:
    """The HTTP face of one Pipeline: an ASGI app, and `quick` for infer calls whose body has arrived whole."""

    def __init__(
        self,
        pipeline: Pipeline,
        repository: Repository,
        inflow: Inflow,
        unready: Callable[[], list[str]],
        text: TextFace,
    ) -> None:
        self._pipeline = pipeline
        self._text = text
        self._repository = repository
        self._inflow = inflow
        self._unready = unready
        self._kept: dict[tuple[str, str, str, str], bytes] = {}

    def error(self, message: str) -> bytes:
        return oip.encode_error(message)

    def quick_urls(self) -> Container[bytes]:
        """Calls that need no more parsing than a look at the Table."""
        return self._pipeline.table.quick_paths

    async def quick(self, url: bytes, headers: Headers, body: bytes, way: Way) -> Response | None:
        """Answer an infer call, or one in text; None when the caller has left, or has been sent a stream."""
        fields: HeaderMap = dict(headers)
        try:
            named = self._pipeline.table.quick_paths.get(url)
            if isinstance(named, Form):
                return await self._text.quick(named, fields, body, way)
            if named is None:  # the Table was swapped while the body arrived
                raise Refusal(Reason.NOT_FOUND, "this route or model was just removed")
            caller = self._pipeline.identify(key_of(fields))
            if b"content-encoding" in fields:
                ask = HttpAsk(*named, fields, b"", way.left, functools.partial(self._inflow.decoded, fields, body))
            else:
                ask = HttpAsk(*named, fields, body, way.left)
            return await self._answer(caller, ask, fields)
        except Refusal as refusal:
            return _refused(refusal, echo(fields))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["raw_path"].startswith(PREFIX):
            await self._text(scope, receive, send)
            return
        fields: HeaderMap = dict(scope["headers"])

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        try:
            response = await self._route(scope, fields, receive, gone)
        except Left:
            self._pipeline.unrecorded.count("left")
            return
        except asyncio.CancelledError:
            if not self._pipeline.draining:
                raise
            response = _refused(cut_short(), echo(fields) + CLOSE)
        except Refusal as refusal:
            response = _refused(refusal, echo(fields) + (CLOSE if _may_be_unread(fields) else b""))
        if response is None:
            return
        await send_response(send, response)

    async def _route(self, scope: Any, fields: HeaderMap, receive: Receive, gone: Gone) -> Response | None:
        method, path = scope["method"], _segments(scope["raw_path"])
        match path:
            case ["v2", "health", "live"]:
                allow(method, "GET")
                return json_reply(200, b'{"live":true}', echo(fields))
            case ["v2", "health", "ready"]:
                allow(method, "GET")
                return self._ready(fields)
            case ["v2"]:
                allow(method, "GET")
                self._pipeline.identify(key_of(fields))
                body = oip.encode(oip.ServerMetadata("servery", __version__, EXTENSIONS))
                return json_reply(200, body, echo(fields))
            case ["v2", "repository", *rest]:
                allow(method, "POST")
                caller = self._pipeline.identify(key_of(fields))
                body = await self._body(fields, receive)
                return json_reply(200, await over_http(self._repository, caller, rest, body), echo(fields))
            case ["v2", "models", "stats"] if "stats" not in self._pipeline.table.entries:
                allow(method, "GET")
                return await self._statistics("", "", fields)
            case ["v2", "models"]:
                allow(method, "GET")
                self._pipeline.identify(key_of(fields))
                return json_reply(200, oip.encode({"models": list(self._pipeline.table.entries)}), echo(fields))
            case ["v2", "models", _, *_]:
                return await self._model(method, path[2:], fields, receive, gone)
            case ["servery", "v1", "apply"]:
                allow(method, "POST")
                caller = self._pipeline.identify(key_of(fields))
                done = await self._repository.apply(caller, decode_reason(await self._body(fields, receive)))
                return json_reply(200, oip.encode({"epoch": done.epoch, "workers": done.workers}), echo(fields))
            case ["servery", "v1", "feedback"]:
                allow(method, "POST")
                caller = self._pipeline.identify(key_of(fields))
                await self._pipeline.book(caller)
                accepted = take_feedback(self._pipeline, caller, await self._body(fields, receive))
                return json_reply(202, msgspec.json.encode(accepted), echo(fields))
            case _:
                told = _absent(path) or "the APIs begin at /v2 and /v1"
                raise Refusal(Reason.NOT_FOUND, f"there is nothing at {scope['path'][:128]}; {told}")

    async def _model(
        self, method: str, parts: list[str], fields: HeaderMap, receive: Receive, gone: Gone
    ) -> Response | None:
        called, version, verb = _named(parts)
        if verb == "infer":
            allow(method, "POST")
            caller = self._pipeline.identify(key_of(fields))
            ask = HttpAsk(called, version, fields, b"", gone, functools.partial(self._body, fields, receive))
            return await self._answer(caller, ask, fields)
        allow(method, "GET")
        if verb == "stats":
            return await self._statistics(called, version, fields)
        self._pipeline.identify(key_of(fields))
        if verb == "config":
            return json_reply(200, encode_config(self._repository.config(called, version)), echo(fields))
        entry = find_entry(self._pipeline.table, called, version)
        unready = entry.unready
        if verb == "ready":
            body = oip.encode(oip.Readiness(not unready, called, (unready,) if unready else ()))
            return json_reply(503 if unready else 200, body, echo(fields))
        if unready and not entry.signature.inputs:
            raise Refusal(entry.refusal, f"'{called}' can't answer: {unready}")
        return json_reply(200, oip.encode_model_metadata(called, entry.signature, entry.versions), echo(fields))

    async def _statistics(self, called: str, version: str, fields: HeaderMap) -> Response:
        caller = self._pipeline.identify(key_of(fields))
        statistics = await self._repository.statistics(caller, called, version)
        return json_reply(200, encode_statistics(statistics), echo(fields))

    async def _answer(self, caller: Caller, ask: HttpAsk, fields: HeaderMap) -> Response | None:
        reply = await self._pipeline.answer(caller, ask)
        if b"accept-encoding" in fields and reply.answer is not None:
            await ask.compress(fields[b"accept-encoding"])
        return self._response(ask, reply)

    def _response(self, ask: HttpAsk, reply: Reply) -> Response | None:
        """What goes on the wire for a Reply; None when the caller has left."""
        answer = reply.answer
        record_id = b"servery-record-id: %b\r\n" % reply.record_id.hex().encode()
        if answer is None:
            unread = CLOSE if not ask.here and ask.long else b""
            return None if reply.refusal is None else _refused(reply.refusal, record_id + ask.echo + unread)
        chunks = ask.chunks
        size = len(chunks[0]) if len(chunks) == 1 else sum([len(chunk) for chunk in chunks])
        who = self._answered_by(ask.called, answer)
        if not ask.json_length:
            head = _ANSWER_HEAD % (size, record_id, who)
        else:
            head = _BINARY_HEAD % (size, ask.json_length, record_id, who)
        if ask.coding:
            head += b"content-encoding: %b\r\nvary: accept-encoding\r\n" % ask.coding
        if answer.degraded:
            head += b"servery-degraded: %b\r\n" % answer.degraded.encode()
        return Response(200, head + ask.echo, chunks)

    def _answered_by(self, called: str, answer: Answer) -> bytes:
        """The head lines that say who answered; the same for most replies, so they are kept (within a bound)."""
        key = (called, answer.tiers, answer.models, answer.versions)
        lines = self._kept.get(key)
        if lines is None:
            route, tier, model, version = (text.encode() for text in key)
            lines = (b"servery-route: %b\r\nservery-tier: %b\r\nservery-model: %b\r\nservery-version: %b\r\n") % (
                route,
                tier,
                model,
                version,
            )
            if len(self._kept) < _KEPT:
                self._kept[key] = lines
        return lines

    def _ready(self, fields: HeaderMap) -> Response:
        """The status is for everybody; the reasons name models, so they are for known callers."""
        reasons = self._unready()
        shown: tuple[str, ...] = ()
        if reasons and self._is_known(fields):
            shown = tuple(reasons)
        return json_reply(503 if reasons else 200, oip.encode(oip.Readiness(not reasons, reasons=shown)), echo(fields))

    def _is_known(self, fields: HeaderMap) -> bool:
        key = key_of(fields)
        keyring = self._pipeline.table.keyring
        return keyring.open or (key is not None and keyring.find(key) is not None)

    async def _body(self, fields: HeaderMap, receive: Receive) -> bytes:
        return await self._inflow.whole(fields, receive)


def _segments(raw_path: bytes) -> list[str]:
    """The parts of a path, each decoded by itself: a name may hold an escaped slash. One slash may trail."""
    path = raw_path.decode("latin-1").removeprefix("/").removesuffix("/")
    return [unquote(part) for part in path.split("/")]


def _named(parts: list[str]) -> tuple[str, str, str]:
    """(name, version or "", one of _VERBS or "") of what follows /v2/models/: some clients leave a name's slash as it is."""
    verb = parts[-1] if len(parts) > 1 and parts[-1] in _VERBS else ""
    parts = parts[:-1] if verb else parts
    if len(parts) > 2 and parts[-2] == "versions":
        return "/".join(parts[:-2]), parts[-1], verb
    return "/".join(parts), "", verb


def _absent(path: list[str]) -> str:
    """What to use instead, where a path is one of Triton's."""
    match path:
        case ["v2", "logging"]:
            return absent.LOGGING
        case ["v2", "trace", "setting"]:
            return absent.TRACE
        case ["v2", "systemsharedmemory" | "cudasharedmemory", *_]:
            return absent.SHARED_MEMORY
        case _:
            return ""


def _may_be_unread(fields: HeaderMap) -> bool:
    """Whether a body may be on its way that nobody will read: then the connection can't be used again."""
    length = fields.get(b"content-length", b"0")
    return b"transfer-encoding" in fields or len(length) > 9 or int(length) > _PLAIN_BYTES


def _refused(refusal: Refusal, lines: bytes) -> Response:
    return refused(refusal, oip.encode_error(refusal.message), lines)

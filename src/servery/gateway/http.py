"""The HTTP face: bytes in, Asks for the pipeline, the Open Inference Protocol's bytes out."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Container
from typing import Any
from urllib.parse import unquote

import msgspec

from servery import __version__
from servery.gateway import openai
from servery.gateway.admit import Left
from servery.gateway.body import Inflow, Receive
from servery.gateway.feedback import take_feedback
from servery.gateway.identify import presented_key
from servery.gateway.pipeline import Pipeline, Reply, cut_short, find_entry
from servery.gateway.receive import stated_timeout_ns
from servery.gateway.repository import Repository, over_http
from servery.gateway.table import Entry
from servery.host.asgi import Gone, Headers, Response, Send, Way, send_response
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Answer, Caller, Inference
from servery.terms.text import Form
from servery.wire import absent, oip
from servery.wire.coding import chosen, encoded
from servery.wire.config import encode_config
from servery.wire.repository import encode_statistics
from servery.wire.status import HTTP_STATUS, RETRY_AFTER_S

HeaderMap = dict[bytes, bytes]

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
_JSON_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\n%b"
_ANSWER_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\n%b%b"
_BINARY_HEAD = (
    b"content-type: application/octet-stream\r\ncontent-length: %d\r\ninference-header-content-length: %d\r\n%b%b"
)
_VERBS = ("infer", "ready", "stats", "config")
_CLOSE = b"connection: close\r\n"
_KEPT = 1024
# A reply below this size isn't compressed, and one above the other not on the event loop.
_WORTH_BYTES, _LONG_BYTES = 1024, 65_536
_PLAIN_BYTES = 1024  # a body of this size may stay unread without closing the connection


class HttpAsk:
    """An infer request as HTTP carries it; `chunks` is the reply's body once it is encoded.

    `fetch` gets a body that isn't here yet. `long`: if that stays unread, the connection can't be used again.
    """

    __slots__ = (
        "_body",
        "_fetch",
        "_fields",
        "_gone",
        "_header_length",
        "_timeout",
        "called",
        "chunks",
        "coding",
        "echo",
        "here",
        "json_length",
        "long",
        "request_id",
        "traceparent",
        "version",
    )

    def __init__(
        self,
        called: str,
        version: str,
        fields: HeaderMap,
        body: bytes,
        gone: Gone,
        fetch: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        get = fields.get
        self._fields = fields
        self.called = called
        self.version = version
        self.request_id = self.traceparent = ""
        self.echo = b""
        if b"x-request-id" in fields or b"traceparent" in fields:
            self.request_id = get(b"x-request-id", b"").decode("latin-1")
            self.traceparent = get(b"traceparent", b"").decode("latin-1")
            self.echo = _echo(fields)
        self.here = fetch is None
        self.long = fetch is not None and _may_be_unread(fields)
        self.chunks: list[oip.Chunk] = []
        self.json_length = 0
        self.coding = b""  # of the chunks
        self._header_length = get(b"inference-header-content-length")
        self._timeout = get(b"servery-timeout-ms")
        self._body = body
        self._gone = gone
        self._fetch = fetch

    @property
    def timeout_ns(self) -> int:
        return 0 if self._timeout is None else stated_timeout_ns(self._timeout)

    def header(self, name: str) -> str | None:
        value = self._fields.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def arrive(self) -> None:
        if self._fetch is not None:
            self._body = await self._fetch()
            self.here = True

    def decode(self) -> Inference:
        return oip.decode_infer(self._body, self._header_length)

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
        text: openai.OpenAiFace,
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
            caller = self._pipeline.identify(_key(fields))
            if b"content-encoding" in fields:
                ask = HttpAsk(*named, fields, b"", way.left, functools.partial(self._inflow.decoded, fields, body))
            else:
                ask = HttpAsk(*named, fields, body, way.left)
            return await self._answer(caller, ask, fields)
        except Refusal as refusal:
            return _refused(refusal, _echo(fields))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["raw_path"].startswith(openai.PREFIX):
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
            response = _refused(cut_short(), _echo(fields) + _CLOSE)
        except Refusal as refusal:
            response = _refused(refusal, _echo(fields) + (_CLOSE if _may_be_unread(fields) else b""))
        if response is None:
            return
        await send_response(send, response)

    async def _route(self, scope: Any, fields: HeaderMap, receive: Receive, gone: Gone) -> Response | None:
        method, path = scope["method"], _segments(scope["raw_path"])
        match path:
            case ["v2", "health", "live"]:
                _allow(method, "GET")
                return _json(200, b'{"live":true}', _echo(fields))
            case ["v2", "health", "ready"]:
                _allow(method, "GET")
                return self._ready(fields)
            case ["v2"]:
                _allow(method, "GET")
                self._pipeline.identify(_key(fields))
                body = oip.encode(oip.ServerMetadata("servery", __version__, EXTENSIONS))
                return _json(200, body, _echo(fields))
            case ["v2", "repository", *rest]:
                _allow(method, "POST")
                caller = self._pipeline.identify(_key(fields))
                body = await self._body(fields, receive)
                return _json(200, await over_http(self._repository, caller, rest, body), _echo(fields))
            case ["v2", "models", "stats"] if "stats" not in self._pipeline.table.entries:
                _allow(method, "GET")
                return await self._statistics("", "", fields)
            case ["v2", "models"]:
                _allow(method, "GET")
                self._pipeline.identify(_key(fields))
                return _json(200, oip.encode({"models": list(self._pipeline.table.entries)}), _echo(fields))
            case ["v2", "models", _, *_]:
                return await self._model(method, path[2:], fields, receive, gone)
            case ["servery", "v1", "apply"]:
                _allow(method, "POST")
                done = await self._repository.apply(self._pipeline.identify(_key(fields)))
                return _json(200, oip.encode({"epoch": done.epoch, "workers": done.workers}), _echo(fields))
            case ["servery", "v1", "feedback"]:
                _allow(method, "POST")
                caller = self._pipeline.identify(_key(fields))
                await self._pipeline.book(caller)
                accepted = take_feedback(self._pipeline, caller, await self._body(fields, receive))
                return _json(202, msgspec.json.encode(accepted), _echo(fields))
            case _:
                told = _absent(path) or "the APIs begin at /v2 and /v1"
                raise Refusal(Reason.NOT_FOUND, f"there is nothing at {scope['path'][:128]}; {told}")

    async def _model(
        self, method: str, parts: list[str], fields: HeaderMap, receive: Receive, gone: Gone
    ) -> Response | None:
        called, version, verb = _named(parts)
        if verb == "infer":
            _allow(method, "POST")
            caller = self._pipeline.identify(_key(fields))
            ask = HttpAsk(called, version, fields, b"", gone, functools.partial(self._body, fields, receive))
            return await self._answer(caller, ask, fields)
        _allow(method, "GET")
        if verb == "stats":
            return await self._statistics(called, version, fields)
        self._pipeline.identify(_key(fields))
        if verb == "config":
            return _json(200, encode_config(self._repository.config(called, version)), _echo(fields))
        entry = find_entry(self._pipeline.table, called, version)
        unready = entry.unready
        if verb == "ready":
            body = oip.encode(oip.Readiness(not unready, called, (unready,) if unready else ()))
            return _json(503 if unready else 200, body, _echo(fields))
        if unready and not entry.signature.inputs:
            raise Refusal(entry.refusal, f"'{called}' can't answer: {unready}")
        return _json(200, oip.encode_model_metadata(called, entry.signature, entry.versions), _echo(fields))

    async def _statistics(self, called: str, version: str, fields: HeaderMap) -> Response:
        caller = self._pipeline.identify(_key(fields))
        statistics = await self._repository.statistics(caller, called, version)
        return _json(200, encode_statistics(statistics), _echo(fields))

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
            unread = _CLOSE if not ask.here and ask.long else b""
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
        return _json(503 if reasons else 200, oip.encode(oip.Readiness(not reasons, reasons=shown)), _echo(fields))

    def _is_known(self, fields: HeaderMap) -> bool:
        key = _key(fields)
        keyring = self._pipeline.table.keyring
        return keyring.open or (key is not None and keyring.find(key) is not None)

    async def _body(self, fields: HeaderMap, receive: Receive) -> bytes:
        return await self._inflow.whole(fields, receive)


def _key(fields: HeaderMap) -> bytes | None:
    return presented_key(fields.get(b"authorization"), fields.get(b"x-api-key"))


def _echo(fields: HeaderMap) -> bytes:
    """Head lines that say back what the caller named its request."""
    lines = b""
    if b"x-request-id" in fields:
        lines += b"x-request-id: %b\r\n" % fields[b"x-request-id"]
    if b"traceparent" in fields:
        lines += b"traceparent: %b\r\n" % fields[b"traceparent"]
    return lines


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


def _allow(method: str, allowed: str) -> None:
    if method != allowed:
        raise MethodRefusal(method, allowed)


class MethodRefusal(Refusal):
    """A path that exists, with a method that it doesn't have."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(Reason.METHOD_NOT_ALLOWED, f"{method} is not possible here; use {allowed}")
        self.allowed = allowed


def _may_be_unread(fields: HeaderMap) -> bool:
    """Whether a body may be on its way that nobody will read: then the connection can't be used again."""
    length = fields.get(b"content-length", b"0")
    return b"transfer-encoding" in fields or len(length) > 9 or int(length) > _PLAIN_BYTES


def _json(status: int, body: bytes, lines: bytes, retry_after_s: float | None = None) -> Response:
    if status in RETRY_AFTER_S:
        lines += b"retry-after: %d\r\n" % math.ceil(retry_after_s or RETRY_AFTER_S[status])
    return Response(status, _JSON_HEAD % (len(body), lines), [body])


def _refused(refusal: Refusal, lines: bytes) -> Response:
    if refusal.reason is Reason.UNAUTHENTICATED:
        lines += b"www-authenticate: Bearer\r\n"
    if isinstance(refusal, MethodRefusal):
        lines += b"allow: %b\r\n" % refusal.allowed.encode()
    return _json(HTTP_STATUS[refusal.reason], oip.encode_error(refusal.message), lines, refusal.retry_after_s)

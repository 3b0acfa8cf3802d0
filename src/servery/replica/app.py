"""The app of a Replica: one Version over the Open Inference Protocol, on a socket of its own. No keys, no Records.

A caller that closes its connection gives its call up. What can't be loaded says why in v2/health/ready, for ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

from servery.host.asgi import Gone, Headers, Response, Way
from servery.host.shared import Shared
from servery.replica.running import Running
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Array, Call, Called
from servery.terms.tensors import Signature
from servery.wire import oip
from servery.wire import replica as wire
from servery.wire.status import HTTP_STATUS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON = b"content-type: application/json\r\ncontent-length: %d\r\n"
_ANSWER = b"content-type: application/octet-stream\r\ncontent-length: %d\r\n" + wire.JSON_LENGTH + b": %d\r\n"
_BY_WORD = {reason.word: reason for reason in Reason}


class ReplicaApp:
    """An App of host/asgi."""

    def __init__(self, running: Running, signature: Signature) -> None:
        self._running = running
        self._signature = signature
        self._datatypes = {spec.name: spec.datatype for spec in signature.outputs}
        self._outputs = [spec.name for spec in signature.outputs]
        version = running.version
        self._model = version.model
        self._path = f"/v2/models/{quote(version.model, safe='')}".encode()
        self._numbered = self._path + f"/versions/{version.number}".encode()
        self._infer_urls = frozenset((self._path + b"/infer", self._numbered + b"/infer"))

    def quick_urls(self) -> Container[bytes]:
        return self._infer_urls

    def error(self, message: str) -> bytes:
        return oip.encode_error(message)

    async def quick(self, url: bytes, headers: Headers, body: bytes, way: Way) -> Response | None:  # noqa: ARG002
        return await self._infer(dict(headers), body, way.left)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        path: bytes = scope["raw_path"]
        if path in self._infer_urls and scope["method"] == "POST":
            body = await _body(receive)
            response = None if body is None else await self._infer(dict(scope["headers"]), body, gone)
        else:
            response = self._told(scope["method"], path)
        if response is None:
            return
        headers = [tuple(line.split(b": ", 1)) for line in response.head.split(b"\r\n")[:-1]]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        last = len(response.chunks) - 1
        for at, chunk in enumerate(response.chunks):
            await send({"type": "http.response.body", "body": chunk, "more_body": at != last})

    def _told(self, method: str, path: bytes) -> Response:
        """What this Replica says of itself."""
        state = self._running.state
        if method != "GET":
            return _refused(Reason.METHOD_NOT_ALLOWED, f"{method} is not possible here", 0)
        if path == b"/v2/health/live":
            return _json(200, b'{"live":true}')
        if path in (b"/v2/health/ready", self._path + b"/ready", self._numbered + b"/ready"):
            return _json(200 if state.ready else 503, wire.encode_state(state))
        if path in (self._path, self._numbered):
            number = self._running.version.number
            return _json(200, oip.encode_model_metadata(self._model, self._signature, (number,)))
        return _refused(Reason.NOT_FOUND, f"this is a Replica of '{self._model}'; there is nothing at this path", 0)

    async def _infer(self, fields: dict[bytes, bytes], body: bytes, gone: Gone) -> Response | None:
        """The answer; None when the caller has left."""
        shared: Shared | None = None
        try:
            if wire.SHARED in fields:
                shared = Shared.opened(fields[wire.SHARED])
            call = self._call(fields, body, shared)
            called = await self._running.run(call, gone)
            return None if called is None else self._response(call, called, shared)
        except Refusal as refusal:
            return _refused(refusal.reason, refusal.message, 0)
        except (OSError, ValueError) as error:
            lines = b"%b: 1\r\n" % wire.UNSHARED
            return _json(503, oip.encode_error(f"memory can't be shared with this Replica: {error}"), lines)
        finally:
            if shared is not None:
                shared.close()

    def _call(self, fields: dict[bytes, bytes], body: bytes, shared: Shared | None) -> Call:
        """The call that was sent; Refusal."""
        if shared is not None:
            feeds, fetch = wire.decode_call(body, lambda size: shared.read(0, size))
        else:
            inference = oip.decode_infer(body, fields.get(wire.JSON_LENGTH))
            feeds = {tensor.name: tensor.array for tensor in inference.inputs}
            fetch = [wanted.name for wanted in inference.wanted] or self._outputs
        for name in fetch:
            if name not in self._datatypes:
                raise Refusal(Reason.INVALID_REQUEST, f"'{self._model}' has no output '{name}'")
        header = fields.get(wire.CALL)
        head = wire.CallHead(_rows(feeds), 0) if header is None else wire.decode_call_head(header)
        return Call(
            fetch,
            feeds,
            head.rows,
            self._running.deadline_ns(head.timeout_ns),
            head.tenant,
            head.priority,
            head.alone,
            head.parameters,
        )

    def _response(self, call: Call, called: Called, shared: Shared | None) -> Response:
        if called.failure:
            return _refused(_BY_WORD[called.failure], called.message, called.busy_ns, called.estimated)
        missing = [name for name in call.fetch if name not in called.outputs]
        if missing:
            return _refused(Reason.WRONG_ANSWER, f"it gave no output '{missing[0]}'", called.busy_ns)
        try:
            chunks, json_length = wire.encode_outputs(self._model, call.fetch, called.outputs, self._datatypes)
        except (TypeError, ValueError, AttributeError) as error:  # for instance texts where numbers were declared
            return _refused(Reason.WRONG_ANSWER, f"its outputs aren't what is declared: {error}", called.busy_ns)
        lines = b"%b: %d\r\n" % (wire.BUSY, called.busy_ns)
        size = sum([len(chunk) for chunk in chunks])
        if shared is not None and size - json_length >= wire.LARGE_BYTES:
            shared.write(chunks[1:], 0)  # in the place of the inputs: those were read
            lines += b"%b: 1\r\n" % wire.SHARED
            size, chunks = json_length, chunks[:1]
        return Response(200, _ANSWER % (size, json_length) + lines, chunks)


async def _body(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


def _rows(feeds: Mapping[str, Array]) -> int:
    """Rows of a call that states none: the first dimension."""
    return next((array.shape[0] for array in feeds.values() if array.ndim), 1)


def _json(status: int, body: bytes, lines: bytes = b"") -> Response:
    return Response(status, _JSON % len(body) + lines, [body])


def _refused(reason: Reason, message: str, busy_ns: int, estimated: bool = False) -> Response:
    body = oip.encode_error(message)
    lines = b"%b: %b\r\n%b: %d\r\n" % (wire.REASON, reason.word.encode(), wire.BUSY, busy_ns)
    if estimated:
        lines += wire.ESTIMATED + b": 1\r\n"
    return _json(HTTP_STATUS[reason], body, lines)

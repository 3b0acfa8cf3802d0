"""An infer request as gRPC carries it, and what its metadata say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from servery.gateway.identify import presented_key
from servery.gateway.receive import stated_timeout_ns
from servery.gateway.table import Entry
from servery.routing.assignment import ARM_HEADER
from servery.terms.reasons import Refusal
from servery.terms.request import Answer, Inference
from servery.wire import oip_grpc
from servery.wire.proto import open_inference_grpc_pb2 as pb
from servery.wire.status import HTTP_STATUS, RETRY_AFTER_S

Fields = Mapping[str, str]
Pairs = tuple[tuple[str, str], ...]

_ECHOED = ("x-request-id", "traceparent")
_ECHO_CHARS = 1024
# Clients take 8 KiB of metadata by default, and an error's message is a part of it, with what isn't ASCII escaped.
_MESSAGE_CHARS = 1000
_MESSAGE_BYTES = 4000
# All of printable ASCII but the percent sign.
_AS_IT_IS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class GrpcAsk:
    """An infer request; `response` is the answer once it is encoded. `leave` says that the caller has left."""

    __slots__ = ("_fields", "_gone", "_left", "_remaining_s", "_request", "_unreadable", "echo", "here", "response")

    def __init__(self, message: bytes, fields: Fields, remaining_s: float | None) -> None:
        self._fields = fields
        self._remaining_s = remaining_s
        self._unreadable: Refusal | None = None
        self._left = False
        self._gone: asyncio.Future[None] | None = None
        self.here = True
        self.response = pb.ModelInferResponse()
        self.echo: Pairs = ()
        if "x-request-id" in fields or "traceparent" in fields:
            self.echo = trailing((name, fields[name][:_ECHO_CHARS]) for name in _ECHOED if name in fields)
        try:
            self._request = oip_grpc.parse_infer(message)
        except Refusal as refusal:  # it is known who asks: there will be a Record of it
            self._request = pb.ModelInferRequest()
            self._unreadable = refusal

    @property
    def called(self) -> str:
        return self._request.model_name

    @property
    def version(self) -> str:
        """Refuses a message that couldn't be read."""
        if self._unreadable is not None:
            raise self._unreadable
        return self._request.model_version

    @property
    def id(self) -> str:
        """What the caller calls its request."""
        return self._request.id

    @property
    def timeout_ns(self) -> int:
        stated = self._fields.get("servery-timeout-ms")
        timeout_ns = 0 if stated is None else stated_timeout_ns(stated)
        if self._remaining_s is None:
            return timeout_ns
        remaining_ns = max(round(self._remaining_s * 1e9), 1)
        return min(timeout_ns, remaining_ns) if timeout_ns else remaining_ns

    @property
    def request_id(self) -> str:
        return self._fields.get("x-request-id", "")

    @property
    def traceparent(self) -> str:
        return self._fields.get("traceparent", "")

    def header(self, name: str) -> str | None:
        return self._fields.get(name)

    def carry(self, arm: str) -> None:
        """As of Arriving."""
        self.echo = (*self.echo, (ARM_HEADER, arm))

    async def arrive(self) -> None:
        """A message comes whole."""

    def decode(self) -> Inference:
        return oip_grpc.decode_infer(self._request)

    def encode(self, entry: Entry, inference: Inference, answer: Answer) -> None:
        self.response = oip_grpc.encode_infer(entry.name, entry.version, inference, answer)

    def leave(self) -> None:
        self._left = True
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def left(self) -> asyncio.Future[None]:
        self._gone = asyncio.get_running_loop().create_future()
        if self._left:
            self._gone.set_result(None)
        return self._gone


def key_of(fields: Fields) -> bytes | None:
    """The key that the metadata present."""
    authorization, api_key = fields.get("authorization"), fields.get("x-api-key")
    return presented_key(
        None if authorization is None else authorization.encode(), None if api_key is None else api_key.encode()
    )


def trailing(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """Metadata, which hold printable ASCII only: other characters and the percent sign are escaped as in a URL."""
    return tuple([(name, quote(value, safe=_AS_IT_IS)) for name, value in pairs])


def of_refusal(refusal: Refusal, more: Pairs) -> tuple[str, Pairs]:
    """The message and the metadata that go with the code of a Refusal."""
    message = refusal.message
    if len(message) > _MESSAGE_CHARS:
        message = message[:_MESSAGE_CHARS] + "…"
    while len(quote(message)) > _MESSAGE_BYTES:
        message = message[: len(message) // 2] + "…"
    pairs = (*more, ("servery-reason", refusal.reason.word))
    least_s = RETRY_AFTER_S.get(HTTP_STATUS[refusal.reason])
    if least_s is None:
        return message, pairs
    return message, (*pairs, ("retry-after", str(math.ceil(refusal.retry_after_s or least_s))))

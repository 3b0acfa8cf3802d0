"""Receive: bytes become an Inference that fits its Route, or a Refusal that names the tensor that doesn't."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterable
from typing import Protocol

from msgspec.structs import replace

from servery.gateway.table import Entry
from servery.gateway.texts import Speaker
from servery.gateway.trail import Trail
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Answer, Array, Inference, Request, Tensor
from servery.terms.tensors import TensorSpec
from servery.terms.text import Prompt
from servery.wire.tensors import from_raw


class Arriving(Protocol):
    """A request as a face receives it; `timeout_ns` is 0 where the face's own header states none."""

    @property
    def timeout_ns(self) -> int: ...
    @property
    def request_id(self) -> str: ...
    @property
    def traceparent(self) -> str: ...
    def header(self, name: str) -> str | None:
        """What the caller said in the header, or gRPC metadata, of this name in small letters."""
        ...

    def carry(self, arm: str) -> None:
        """Tell the caller what carries its arm on: with the reply, in the header `servery-arm`."""
        ...

    @property
    def here(self) -> bool:
        """Whether all of its bytes have arrived."""
        ...

    async def arrive(self) -> None:
        """Take the rest of its bytes off the socket, within bounds. Raises Refusal, or Left when the caller goes."""

    def left(self) -> Awaitable[None]:
        """Done when the caller has left."""
        ...


class Ask(Arriving, Protocol):
    """One in tensors. `encode` keeps the bytes it made for the face to send; it may refuse outputs that the face's form
    can't hold.
    """

    @property
    def called(self) -> str: ...
    @property
    def version(self) -> str: ...
    def decode(self) -> Inference: ...
    def encode(self, entry: Entry, inference: Inference, answer: Answer) -> None: ...


class TextAsk(Arriving, Speaker, Protocol):
    """One in text, which takes the answer to its caller as it comes."""

    @property
    def body(self) -> bytes:
        """What was sent, once it has arrived."""
        ...

    def decode(self) -> Prompt: ...


def receive(ask: Ask, entry: Entry, trail: Trail) -> Request:
    """Decode the ask and hold it against the Route's inputs, outputs and deadline."""
    inference = ask.decode()
    if inference.raw is not None:
        inference = _named(inference, inference.raw, entry)
    feeds, rows = _feeds(inference, entry)
    trail.rows = rows
    if inference.wanted:
        _check_wanted(inference, entry)
    allowed = entry.deadline_ns
    for stated in (ask.timeout_ns, inference.timeout_ns):
        if stated and stated < allowed:
            allowed = stated
    return Request(trail.id, trail.caller, inference, feeds, rows, trail.started_ns, trail.started_ns + allowed)


def stated_timeout_ns(header: bytes | str) -> int:
    """What a caller states in servery-timeout-ms, in ns; Refusal where that is no time."""
    try:
        timeout_ns = float(header) * 1e6
    except ValueError:
        timeout_ns = math.nan
    if not 0 < timeout_ns < math.inf:
        raise Refusal(Reason.INVALID_REQUEST, "servery-timeout-ms must be a number of milliseconds above 0")
    return max(round(timeout_ns), 1)


def _named(inference: Inference, raw: bytes, entry: Entry) -> Inference:
    """A body that is nothing but data, as the only input's: one free size follows from its length."""
    if len(entry.inputs) != 1:
        raise _bad(f"'{entry.name}' takes {_list(entry.inputs)}: name them; data alone is for models with one input")
    ((name, spec),) = entry.inputs.items()
    return replace(inference, inputs=(Tensor(name, spec.datatype, from_raw(spec, raw)),))


def _feeds(inference: Inference, entry: Entry) -> tuple[dict[str, Array], int]:
    feeds: dict[str, Array] = {}
    rows = -1
    for tensor in inference.inputs:
        spec = entry.inputs.get(tensor.name)
        if spec is None:
            if not entry.inputs and entry.unready:  # no artifact could be read: nobody knows its inputs
                raise Refusal(entry.refusal, f"'{entry.name}' can't answer: {entry.unready}")
            raise _bad(f"'{entry.name}' has no input '{tensor.name}'; it takes {_list(entry.inputs)}")
        if tensor.name in feeds:
            raise _bad(f"input '{tensor.name}' is given twice")
        array = tensor.array
        _check_fit(tensor, spec)
        if spec.by_row:
            if rows >= 0 and array.shape[0] != rows:
                raise _bad(
                    f"input '{tensor.name}' has {array.shape[0]} rows, the one before it {rows}; they must agree"
                )
            rows = array.shape[0]
        feeds[tensor.name] = array
    if len(feeds) != len(entry.inputs):
        missing = [name for name in entry.inputs if name not in feeds]
        raise _bad(f"input {_list(missing)} is missing; '{entry.name}' takes {_list(entry.inputs)}")
    return feeds, (1 if rows < 0 else rows)


def _check_fit(tensor: Tensor, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype:
        raise _bad(f"input '{spec.name}' is {spec.datatype}, but {tensor.datatype} was sent")
    shape, declared = tensor.array.shape, spec.shape
    if shape[1:] != declared[1:] or len(shape) != len(declared) or (shape and declared[0] not in (-1, shape[0])):
        if len(shape) == len(declared) and all(want in (-1, size) for size, want in zip(shape, declared, strict=True)):
            return
        raise _bad(f"input '{spec.name}' has shape {list(declared)} (-1: any size), but {list(shape)} was sent")


def _check_wanted(inference: Inference, entry: Entry) -> None:
    seen: set[str] = set()
    for wanted in inference.wanted:
        if wanted.name not in entry.outputs:
            raise _bad(f"'{entry.name}' has no output '{wanted.name}'; it gives {_list(entry.outputs)}")
        if wanted.name in seen:
            raise _bad(f"output '{wanted.name}' is asked for twice")
        seen.add(wanted.name)


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _bad(message: str) -> Refusal:
    return Refusal(Reason.INVALID_REQUEST, message)

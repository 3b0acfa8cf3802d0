"""Checks: calls that a new Version must answer as the manifest says, before anybody is given it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from servery.terms.reasons import Reason, Refusal
from servery.terms.rollouts import Check
from servery.terms.tensors import Signature, TensorSpec

if TYPE_CHECKING:
    from servery.terms.request import Array, Call, Called

_MOST_DEEP = 16
_TOLD = 200  # characters of a value


class Unfit(Exception):
    """A check that a Version can't be asked at all, in words. `where` is the part of it that is wrong."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.where = where
        self.message = message


class Prepared(msgspec.Struct, frozen=True):
    """A check as a call, and what must come of it."""

    feeds: dict[str, Array]
    rows: int
    expected: dict[str, Array]
    within: float
    refused: bool

    def call(self, fetch: tuple[str, ...], deadline_ns: int) -> Call:
        """The call, by its deadline (steady)."""
        from servery.terms.request import Call  # noqa: PLC0415 numpy: only where there are checks

        return Call(fetch, self.feeds, self.rows, deadline_ns)


def prepared(check: Check, signature: Signature) -> Prepared:
    """A check against what a Version takes and gives. Unfit."""
    known = [spec.name for spec in signature.inputs]
    if missing := [name for name in known if name not in check.inputs]:
        raise Unfit("inputs", f"it has no value for the input {missing[0]!r}")
    feeds = {name: _array(name, value, signature.input(name), "inputs") for name, value in check.inputs.items()}
    rows = {len(feeds[spec.name]) for spec in signature.inputs if spec.by_row}
    if len(rows) > 1:
        raise Unfit("inputs", "its inputs have different numbers of rows")
    expected = {name: _array(name, value, signature.output(name), "outputs") for name, value in check.outputs.items()}
    return Prepared(feeds, rows.pop() if rows else 1, expected, check.within, check.refused)


def problem(check: Prepared, called: Called) -> str:
    """What of an answer isn't as it must be ("": it is)."""
    if check.refused:
        return "" if called.failure == Reason.INVALID_REQUEST.word else "it wasn't refused as invalid"
    if called.failure:
        return f"{called.failure}: {called.message}"[:_TOLD]
    for name, expected in check.expected.items():
        answered = called.outputs.get(name)
        if answered is None:
            return f"it gave no output {name!r}"
        if not alike(answered, expected, check.within):
            said = f" within {check.within:g}" if check.within else ""
            return f"{name} is {_told(answered)}, not {_told(expected)}{said}"
    return ""


def alike(one: Array, other: Array, within: float) -> bool:
    """Whether two outputs say the same: the same shape, texts equal, numbers no further apart than `within`."""
    from servery.wire.near import near  # noqa: PLC0415 numpy

    return one.shape == other.shape and bool(near(one, other, within).all())


def _array(name: str, value: Any, spec: TensorSpec | None, where: str) -> Array:
    from servery.wire.tensors import from_json  # noqa: PLC0415 numpy

    if spec is None:
        raise Unfit(where, f"the model has no {where.removesuffix('s')} {name!r}")
    shape = _shape(value)
    if len(shape) != len(spec.shape) or any(size not in (-1, has) for size, has in zip(spec.shape, shape, strict=True)):
        raise Unfit(where, f"{name!r} has the shape {shape}, and the model's is {list(spec.shape)}")
    flat = value if shape else [value]
    try:
        return from_json(name, spec.datatype, shape, msgspec.json.encode(flat))
    except Refusal as refusal:
        raise Unfit(where, refusal.message) from None


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list | tuple) and len(shape) < _MOST_DEEP:
        items = cast(Sequence[Any], value)
        shape.append(len(items))
        if not items:
            break
        value = items[0]
    return shape


def _told(array: Array) -> str:
    text = str(array.tolist())
    return text if len(text) <= _TOLD else f"{text[:_TOLD]}…"


def fetched(checks: Mapping[int, Prepared]) -> tuple[str, ...]:
    """The outputs that these checks look at."""
    return tuple(dict.fromkeys(name for check in checks.values() for name in check.expected))

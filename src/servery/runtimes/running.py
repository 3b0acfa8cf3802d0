"""What every runtime does alike: how it fails, and how it is warmed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from servery.terms.request import Array
from servery.terms.tensors import Signature, TensorSpec
from servery.wire.tensors import DTYPES

_WARM_RUNS = 12
_PROBE_ROWS = 32
_LONG_NS = 1_000_000_000  # calls that take this long together are enough

Run = Callable[[Sequence[str], dict[str, Array]], dict[str, Array]]


class CannotRun(Exception):
    """The artifact can't be loaded or doesn't run; the message says why."""


def first_line(error: BaseException) -> str:
    """What an exception says, in a line of at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def warm_up(run: Run, signature: Signature, clock_ns: Callable[[], int]) -> tuple[float, float]:
    """Run a few times on zeros, or ones; the time of a call as (ns fixed, ns per row), by two points.

    A model with free dimensions beside the rows may refuse size 1 there: then its time is unknown (0, inf).
    """
    fill = 0
    try:
        one = probe(run, signature, filled(signature, 1, fill), clock_ns)
    except CannotRun:  # for instance a division
        fill = 1
        one = probe(run, signature, filled(signature, 1, fill), clock_ns)
    if one is None:
        return 0.0, float("inf")
    if not any(spec.by_row for spec in signature.inputs):
        return one, 0.0
    many = probe(run, signature, filled(signature, _PROBE_ROWS, fill), clock_ns)
    per_row = one if many is None else max(many - one, 0.0) / (_PROBE_ROWS - 1)
    return max(one - per_row, 0.0), per_row


def probe(run: Run, signature: Signature, feeds: dict[str, Array], clock_ns: Callable[[], int]) -> float | None:
    """The usual time of a call with these feeds, in ns; None where it fails, and may for its size alone. CannotRun."""
    fetch = [spec.name for spec in signature.outputs]
    took: list[int] = []
    for _ in range(_WARM_RUNS):
        start = clock_ns()
        try:
            run(fetch, feeds)
        except CannotRun:
            if any(-1 in spec.shape[1:] for spec in signature.inputs):
                return None
            raise
        took.append(clock_ns() - start)
        if sum(took) > _LONG_NS:
            break
    return float(np.median(took[len(took) // 2 :]))


def filled(signature: Signature, rows: int, fill: int) -> dict[str, Array]:
    """Inputs of so many rows that hold nothing but `fill`; free dimensions beside the rows have size 1."""
    return {spec.name: _filled(spec, rows, fill) for spec in signature.inputs}


def _filled(spec: TensorSpec, rows: int, fill: int) -> Array:
    shape = [1 if size == -1 else size for size in spec.shape]
    if spec.by_row:
        shape[0] = rows
    if spec.datatype == "BYTES":
        return np.full(shape, b"1" * fill, dtype=object)
    return np.full(shape, fill, DTYPES[spec.datatype])

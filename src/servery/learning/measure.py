"""Ask a tier's model what it says of labelled examples, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.learning.examples import Examples, Unusable, right
from servery.routing.confidence import confidences
from servery.stats.risk import Floats
from servery.terms.manifest import Confidence
from servery.terms.request import Array
from servery.terms.tensors import Signature

_ROWS = 256  # of a call that only wants answers
_CALLS = 200  # that are timed
_WARM_CALLS = 5
_LONG_NS = 3_000_000_000  # of timed calls together are enough


class Runtime(Protocol):
    """Runs one Version."""

    def run(self, fetch: Sequence[str], feeds: dict[str, Array], /) -> dict[str, Array]: ...


class Asked(msgspec.Struct, frozen=True):
    """What is asked of a tier: the output that answers, and the one that says how sure it is (none: it isn't asked)."""

    tier: str
    signature: Signature
    answer: str
    confidence: Confidence | None


class Measured(msgspec.Struct, frozen=True):
    """By row how sure the tier was and whether it was right; the usual time of a row in seconds."""

    sure: Floats
    right: NDArray[np.bool_]
    row_s: float


def measure(
    runtime: Runtime,
    asked: Asked,
    examples: Examples,
    rows_per_call: int,
    clock_ns: Callable[[], int],
    done: Callable[[int], None],
) -> Measured:
    """Every example once, then some again in calls of `rows_per_call` for the time. `done` is told rows; Unusable.

    A model that raises does so here.
    """
    fetch = [asked.answer]
    if asked.confidence is not None and asked.confidence.output != asked.answer:
        fetch.append(asked.confidence.output)
    rows, step = len(examples.labels), 1 if asked.signature.one_row else _ROWS
    sure: list[float] = []
    correct: list[NDArray[np.bool_]] = []
    for start in range(0, rows, step):
        end = min(start + step, rows)
        outputs = runtime.run(fetch, examples.part(start, end))
        answers = outputs[asked.answer]
        if answers.size != end - start:
            raise Unusable(f"the output `{asked.answer}` of the tier {asked.tier!r} has not one value a row")
        correct.append(right(answers, examples.labels[start:end]))
        if asked.confidence is not None:
            said = confidences(outputs[asked.confidence.output], asked.confidence, end - start)
            if said is None:
                raise Unusable(
                    f"the output `{asked.confidence.output}` of the tier {asked.tier!r} doesn't say how sure it is"
                )
            sure.extend(said)
        done(end - start)
    row_s = _row_s(runtime, fetch, examples, 1 if asked.signature.one_row else min(rows_per_call, rows), clock_ns)
    return Measured(np.array(sure or [np.nan] * rows), np.concatenate(correct), row_s)


def _row_s(
    runtime: Runtime, fetch: Sequence[str], examples: Examples, rows_per_call: int, clock_ns: Callable[[], int]
) -> float:
    """The median over some calls: one that another process held up doesn't count."""
    took: list[int] = []
    last = len(examples.labels) - rows_per_call
    for call in range(_WARM_CALLS + _CALLS):
        start = (call * rows_per_call) % (last + 1)
        feeds = examples.part(start, start + rows_per_call)
        began = clock_ns()
        runtime.run(fetch, feeds)
        if call >= _WARM_CALLS:
            took.append(clock_ns() - began)
            if sum(took) > _LONG_NS:
                break
    return float(np.median(took)) / rows_per_call / 1e9

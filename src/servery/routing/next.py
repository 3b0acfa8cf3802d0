"""The one decision of the request path: given what was tried, what is next?

`choose` is its first call; `execute` performs what it returns and calls it again.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Sequence

import msgspec

from servery.terms.reasons import Reason
from servery.terms.record import Role

Rows = tuple[int, ...]


class Step(msgspec.Struct, frozen=True):
    """A Tier as the decision sees it. `accept` is the threshold of confidence (None: every answer is good enough)."""

    tier: str
    accept: float | None = None
    region: str = ""


class Kind(enum.Enum):
    FIXED = "fixed"
    STATIC = "static"
    CASCADE = "cascade"
    COMPLEXITY = "complexity"


class Plan(msgspec.Struct, frozen=True):
    """A Route as the decision sees it. `fallback`: who is asked where a step fails (None: all, as they are declared)."""

    kind: Kind
    steps: tuple[Step, ...]
    fallback: tuple[int, ...] | None = None


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What is so for this Request now. `closed` are the steps whose region its caller forbids; times are steady ns.

    `first` is the step that a `static` policy, or a prompt's score, chose for it.
    """

    rows: int
    deadline_ns: int
    closed: frozenset[int] = frozenset()
    first: int = 0


class Tried(msgspec.Struct, frozen=True, gc=False):
    """An Attempt that ended. `rows` None: all of them. `confidences`: one per row sent, None where none are given."""

    step: int
    rows: Rows | None
    failure: Reason | None = None
    confidences: Sequence[float] | None = None


class Try(msgspec.Struct, frozen=True, gc=False):
    step: int
    rows: Rows | None
    role: Role


class Settle(msgspec.Struct, frozen=True, gc=False):
    """Answer with what there is: for each row the Attempt (an index into `tried`) whose answer stands.

    `by_row` None: the last Attempt answers all rows. `degraded` says why a row's answer is less sure than wanted.
    """

    by_row: Rows | None = None
    degraded: Reason | None = None


class Refuse(msgspec.Struct, frozen=True, gc=False):
    reason: Reason


Decision = Try | Settle | Refuse

# What most Requests need, made once.
_TRY_THE_FIRST = Try(0, None, Role.SERVE)
_SETTLE_FOR_THE_LAST = Settle()


def next(plan: Plan, tried: Sequence[Tried], facts: Facts, now: int) -> Decision:  # noqa: A001 the design's own name
    """Try a step, settle for what was answered, or refuse.

    A failed step's rows go on in the order of `fallback`, those of an unsure one in that of the steps; never to a step
    that was tried. When no step is left or the deadline has passed, rows that were answered below their threshold
    keep the best answer so far, and the answer is marked as degraded.
    """
    if not tried:
        return _first(plan, facts, now)
    last = tried[-1]
    left = _left(plan, last)
    if left == () and last.rows is None:
        return _SETTLE_FOR_THE_LAST
    step = None if left == () else _step_after(plan, tried, facts)
    if step is not None and now < facts.deadline_ns:
        return Try(step, left, Role.SERVE if last.failure is None else Role.FALLBACK)
    return _settle(tried, facts, wanting=left != (), late=step is not None)


def _first(plan: Plan, facts: Facts, now: int) -> Decision:
    if now >= facts.deadline_ns:
        return Refuse(Reason.DEADLINE_EXCEEDED)
    first, closed = facts.first, facts.closed
    if not closed and first == 0:
        return _TRY_THE_FIRST
    if first not in closed:
        return Try(first, None, Role.SERVE)
    order = range(len(plan.steps)) if plan.kind in (Kind.FIXED, Kind.CASCADE) else _fallback(plan, first)
    step = _open(order, closed, ())
    return Refuse(Reason.NO_CANDIDATE) if step is None else Try(step, None, Role.SERVE)


def _step_after(plan: Plan, tried: Sequence[Tried], facts: Facts) -> int | None:
    last = tried[-1]
    order = range(last.step + 1, len(plan.steps)) if last.failure is None else _fallback(plan, facts.first)
    return _open(order, facts.closed, [attempt.step for attempt in tried])


def _fallback(plan: Plan, first: int) -> Sequence[int]:
    """Who is asked where a step fails. By default a prompt goes up from where it belongs, and only then down."""
    if plan.fallback is not None:
        return plan.fallback
    if plan.kind is Kind.COMPLEXITY:
        return (*range(first, len(plan.steps)), *range(first - 1, -1, -1))
    return range(len(plan.steps))


def _open(order: Sequence[int], closed: Container[int], tried: Container[int]) -> int | None:
    for step in order:
        if step not in closed and step not in tried:
            return step
    return None


def _left(plan: Plan, last: Tried) -> Rows | None:
    """The rows that still want an answer: () none, None all."""
    if last.failure is not None:
        return last.rows
    threshold = plan.steps[last.step].accept
    if plan.kind is not Kind.CASCADE or threshold is None or last.confidences is None:
        return ()
    if last.rows is None:
        below = tuple(row for row, sure in enumerate(last.confidences) if not sure >= threshold)
        return None if below and len(below) == len(last.confidences) else below
    return tuple(row for row, sure in zip(last.rows, last.confidences, strict=True) if not sure >= threshold)


def _settle(tried: Sequence[Tried], facts: Facts, wanting: bool, late: bool) -> Decision:
    """The last answer of each row stands; without one for every row there is no answer.

    `wanting`: rows still want a better answer. `late`: a step was left for them, but no time.
    """
    by_row = [-1] * facts.rows
    for index, attempt in enumerate(tried):
        if attempt.failure is None:
            for row in range(facts.rows) if attempt.rows is None else attempt.rows:
                by_row[row] = index
    failures = [attempt.failure for attempt in tried if attempt.failure is not None]
    failure = Reason.DEADLINE_EXCEEDED if late else failures[-1] if failures else None
    if -1 in by_row or len(failures) == len(tried):
        return Refuse(failure or Reason.MODEL_FAILED)
    return Settle(tuple(by_row), failure if wanting else None)

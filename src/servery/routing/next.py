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
    """A Tier as the decision sees it. `accept` is the threshold of confidence (None: every answer is good enough).

    `twice`: its confidence is the agreement of two answers, so it is asked once more, for a check.
    """

    tier: str
    accept: float | None = None
    region: str = ""
    twice: bool = False


class Kind(enum.Enum):
    FIXED = "fixed"
    STATIC = "static"
    CASCADE = "cascade"
    COMPLEXITY = "complexity"


class Plan(msgspec.Struct, frozen=True):
    """A Route as the decision sees it. `fallback`: who is asked where a step fails (None: all, as they are declared);
    `retries`: how often the same step is, before others.
    """

    kind: Kind
    steps: tuple[Step, ...]
    fallback: tuple[int, ...] | None = None
    retries: int = 0


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What is so for this Request now. `closed` are the steps that can't be asked, such as those whose region its caller
    forbids; times are steady ns.

    `first` is the step that a `static` policy, or a prompt's score, chose for it. `draw`, from 0 to 1, spreads retries;
    `hedge_ns` is by step how long to wait before it is asked a second time beside the first (0, or none: never). `denied` is why
    steps are closed that the policy would have asked, where that is to be told with an answer that is less sure.
    """

    rows: int
    deadline_ns: int
    closed: frozenset[int] = frozenset()
    first: int = 0
    draw: float = 0.0
    hedge_ns: tuple[int, ...] = ()
    denied: Reason | None = None


class Tried(msgspec.Struct, frozen=True, gc=False):
    """An Attempt, which has ended unless `under_way`. `rows` None: all of them. `confidences`: one per row sent, None
    where none are given.

    `again`: what failed may succeed a moment later, and may be asked again. `lost`: given up, as another was faster.
    """

    step: int
    rows: Rows | None
    failure: Reason | None = None
    confidences: Sequence[float] | None = None
    role: Role = Role.SERVE
    again: bool = False
    lost: bool = False
    under_way: bool = False
    began_ns: int = 0


class Try(msgspec.Struct, frozen=True, gc=False):
    """Ask a step for these rows (None: all), not before `at_ns`."""

    step: int
    rows: Rows | None
    role: Role
    at_ns: int = 0


class Wait(msgspec.Struct, frozen=True, gc=False):
    """Nothing is to be done before an Attempt ends, or this moment comes."""

    until_ns: int


class Settle(msgspec.Struct, frozen=True, gc=False):
    """Answer with what there is: for each row the Attempt (an index into `tried`) whose answer stands.

    `by_row` None: the last Attempt answers all rows. `degraded` says why a row's answer is less sure than wanted.
    """

    by_row: Rows | None = None
    degraded: Reason | None = None


class Refuse(msgspec.Struct, frozen=True, gc=False):
    reason: Reason


Decision = Try | Wait | Settle | Refuse

# The first retry waits for up to so long, the next one for up to twice that: callers that failed together don't come back so.
_BACKOFF_NS = 100_000_000
# Where an answer may be too unsure, and another step is asked for a better one.
_UNSURE = (Kind.CASCADE, Kind.COMPLEXITY)

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
    if facts.hedge_ns or tried[-1].under_way:
        under_way = [attempt for attempt in tried if attempt.under_way]
        if under_way:
            return _beside(under_way, tried, facts, now)
    at = len(tried) - 1
    while tried[at].lost:
        at -= 1
    last = tried[at]
    if last.again and (retry := _retry(plan, last, tried, facts, now)) is not None:
        return retry
    if plan.steps[last.step].twice and last.failure is None and last.role is not Role.CHECK and now < facts.deadline_ns:
        return Try(last.step, last.rows, Role.CHECK)
    left = _left(plan, last)
    if left == () and last.rows is None:
        if last.role is not Role.CHECK:
            return _SETTLE_FOR_THE_LAST if tried[-1] is last else Settle((at,) * facts.rows)
        return _settle(tried, facts, wanting=False, late=False)
    step = None if left == () else _step_after(plan, last, tried, facts)
    if step is not None and now < facts.deadline_ns:
        return Try(step, left, Role.SERVE if last.failure is None else Role.FALLBACK)
    return _settle(tried, facts, wanting=left != (), late=step is not None)


def settle(tried: Sequence[Tried], facts: Facts) -> Decision:
    """What there is, when no more may be asked, or why there is nothing."""
    return _settle(tried, facts, wanting=True, late=False)


def _beside(under_way: Sequence[Tried], tried: Sequence[Tried], facts: Facts, now: int) -> Decision:
    """A second call of the same step when the first takes unusually long; then whoever is first."""
    first = under_way[0]
    wait_ns = facts.hedge_ns[first.step] if facts.hedge_ns else 0
    if wait_ns and not any(attempt.role is Role.HEDGE for attempt in tried) and first.role is not Role.CHECK:
        at_ns = first.began_ns + wait_ns
        if now >= at_ns:
            return Try(first.step, first.rows, Role.HEDGE)
        if at_ns < facts.deadline_ns:
            return Wait(at_ns)
    return Wait(facts.deadline_ns)


def _retry(plan: Plan, last: Tried, tried: Sequence[Tried], facts: Facts, now: int) -> Try | None:
    """The same step once more, after a pause (exponential, with full jitter)."""
    before = sum(attempt.step == last.step and attempt.role is not Role.HEDGE for attempt in tried)
    if before > plan.retries:
        return None
    at_ns = now + round(facts.draw * (_BACKOFF_NS << (before - 1)))
    return Try(last.step, last.rows, Role.RETRY, at_ns) if at_ns < facts.deadline_ns else None


def first_step(plan: Plan, facts: Facts) -> int | None:
    """Who is asked first; None where nobody can be."""
    first, closed = facts.first, facts.closed
    if first not in closed:
        return first
    order = range(len(plan.steps)) if plan.kind in (Kind.FIXED, Kind.CASCADE) else _fallback(plan, first)
    return _open(order, closed, ())


def explored(plan: Plan, facts: Facts, share: float, lot: float) -> tuple[Facts, float, bool]:
    """What is so when, of a `share` of Requests, the first step is drawn evenly from those that are open; the probability with
    which that step is asked first; and whether it was drawn. `lot` is drawn from 0 to 1. At least one step must be open.
    """
    picked = first_step(plan, facts)
    assert picked is not None, "the caller has seen to it"
    if not share:
        return facts, 1.0, False
    open_ = [step for step in range(len(plan.steps)) if step not in facts.closed]
    even, drawn = share / len(open_), lot < share
    step = open_[min(int(lot / share * len(open_)), len(open_) - 1)] if drawn else picked
    chance = even + (1 - share if step == picked else 0.0)
    return (msgspec.structs.replace(facts, first=step) if drawn else facts), chance, drawn


def chances(plan: Plan, facts: Facts, share: float) -> tuple[float, ...]:
    """By step, the probability with which `explored` asks it first; all 0 where no step is open."""
    picked, steps = first_step(plan, facts), range(len(plan.steps))
    if picked is None:
        return (0.0,) * len(plan.steps)
    even = share / len([step for step in steps if step not in facts.closed])
    return tuple([0.0 if step in facts.closed else even + (1 - share) * (step == picked) for step in steps])


def _first(plan: Plan, facts: Facts, now: int) -> Decision:
    if now >= facts.deadline_ns:
        return Refuse(Reason.DEADLINE_EXCEEDED)
    if not facts.closed and facts.first == 0:
        return _TRY_THE_FIRST
    step = first_step(plan, facts)
    return Refuse(Reason.NO_CANDIDATE) if step is None else Try(step, None, Role.SERVE)


def _step_after(plan: Plan, last: Tried, tried: Sequence[Tried], facts: Facts) -> int | None:
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
    if plan.kind not in _UNSURE or threshold is None or last.confidences is None:
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
        if attempt.failure is None and not attempt.lost and attempt.role is not Role.CHECK:
            for row in range(facts.rows) if attempt.rows is None else attempt.rows:
                by_row[row] = index
    failures = [attempt.failure for attempt in tried if attempt.failure is not None]
    failure = Reason.DEADLINE_EXCEEDED if late else failures[-1] if failures else facts.denied
    if -1 in by_row or len(failures) == len(tried):
        return Refuse(failure or Reason.MODEL_FAILED)
    return Settle(tuple(by_row), failure if wanting else None)

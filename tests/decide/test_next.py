"""The one decision of the request path: by tables, and whole Requests through a world that fails as it likes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.routing.next import Decision, Facts, Kind, Plan, Refuse, Settle, Step, Tried, Try, Wait, next  # noqa: A004
from servery.terms.reasons import Reason
from servery.terms.record import Role

FAILURES = [Reason.MODEL_FAILED, Reason.WRONG_ANSWER, Reason.NO_ROOM, Reason.WARMING, Reason.MODEL_UNAVAILABLE]
CASCADE = Plan(Kind.CASCADE, (Step("cheap", 0.9), Step("mid", 0.8), Step("premium")))
FIXED = Plan(Kind.FIXED, (Step("cheap", 0.9), Step("premium")))
STATIC = Plan(Kind.STATIC, (Step("cheap"), Step("mid"), Step("premium")))
ORDERED = Plan(Kind.STATIC, STATIC.steps, (1, 0))
HARD = Plan(Kind.COMPLEXITY, STATIC.steps)
ALONE = Plan(Kind.STATIC, STATIC.steps, ())
TWO = Facts(2, 100)
PREMIUM = Facts(2, 100, first=2)

Table = list[tuple[str, Plan, list[Tried], Facts, int, Decision]]

DECISIONS: Table = [
    ("the first step comes first", CASCADE, [], TWO, 0, Try(0, None, Role.SERVE)),
    ("a closed step is left out", CASCADE, [], Facts(2, 100, frozenset({0})), 0, Try(1, None, Role.SERVE)),
    (
        "why better steps are closed is told with an unsure answer",
        CASCADE,
        [Tried(0, None, None, [0.95, 0.1])],
        Facts(2, 100, frozenset({1, 2}), denied=Reason.RATE_LIMITED),
        0,
        Settle((0, 0), Reason.RATE_LIMITED),
    ),
    (
        "and not with a sure one",
        CASCADE,
        [Tried(0, None, None, [0.95, 0.9])],
        Facts(2, 100, frozenset({1, 2}), denied=Reason.RATE_LIMITED),
        0,
        Settle(),
    ),
    ("all closed", FIXED, [], Facts(1, 100, frozenset({0, 1})), 0, Refuse(Reason.NO_CANDIDATE)),
    ("too late to begin", FIXED, [], TWO, 100, Refuse(Reason.DEADLINE_EXCEEDED)),
    ("all sure", CASCADE, [Tried(0, None, None, [0.9, 1.0])], TWO, 0, Settle()),
    ("fixed asks for no confidence", FIXED, [Tried(0, None, None, [0.0, 0.0])], TWO, 0, Settle()),
    ("no confidence is given", CASCADE, [Tried(0, None)], TWO, 0, Settle()),
    ("a score picks", HARD, [], Facts(1, 100, first=1), 0, Try(1, None, Role.SERVE)),
    ("what can't be asked is skipped upwards", HARD, [], Facts(1, 100, frozenset({1}), 1), 0, Try(2, None, Role.SERVE)),
    ("and then downwards", HARD, [], Facts(1, 100, frozenset({1, 2}), 1), 0, Try(0, None, Role.SERVE)),
    (
        "a failed one's stand-in is a dearer one",
        HARD,
        [Tried(1, None, Reason.UPSTREAM_CUT)],
        Facts(1, 100, first=1),
        0,
        Try(2, None, Role.FALLBACK),
    ),
    (
        "or else a cheaper one",
        HARD,
        [Tried(1, None, Reason.UPSTREAM_CUT), Tried(2, None, Reason.UPSTREAM_BUSY)],
        Facts(1, 100, first=1),
        0,
        Try(0, None, Role.FALLBACK),
    ),
    ("one goes on", CASCADE, [Tried(0, None, None, [0.9, 0.89])], TWO, 0, Try(1, (1,), Role.SERVE)),
    ("all go on", CASCADE, [Tried(0, None, None, [0.1, 0.1])], TWO, 0, Try(1, None, Role.SERVE)),
    ("NaN goes on", CASCADE, [Tried(0, None, None, [math.nan, 0.99])], TWO, 0, Try(1, (0,), Role.SERVE)),
    ("a failed step's rows go on", FIXED, [Tried(0, None, Reason.NO_ROOM)], TWO, 0, Try(1, None, Role.FALLBACK)),
    (
        "the rows of a failed part go on",
        CASCADE,
        [Tried(0, None, None, [0.9, 0.1]), Tried(1, (1,), Reason.MODEL_FAILED)],
        TWO,
        0,
        Try(2, (1,), Role.FALLBACK),
    ),
    (
        "lateness is no reason where no step was left",
        FIXED,
        [Tried(0, None, Reason.NO_ROOM), Tried(1, None, Reason.MODEL_FAILED)],
        TWO,
        100,
        Refuse(Reason.MODEL_FAILED),
    ),
    (
        "each row has its own answer",
        CASCADE,
        [Tried(0, None, None, [0.9, 0.1]), Tried(1, (1,), None, [0.8])],
        TWO,
        0,
        Settle((0, 1)),
    ),
    (
        "where no step is left, the best so far stands",
        CASCADE,
        [Tried(0, None, None, [0.9, 0.1]), Tried(1, (1,), Reason.NO_ROOM), Tried(2, (1,), Reason.MODEL_FAILED)],
        TWO,
        0,
        Settle((0, 0), Reason.MODEL_FAILED),
    ),
    (
        "after the deadline, the best so far stands",
        CASCADE,
        [Tried(0, None, None, [0.9, 0.1])],
        TWO,
        100,
        Settle((0, 0), Reason.DEADLINE_EXCEEDED),
    ),
    (
        "the fallback's answer is as good as any",
        FIXED,
        [Tried(0, None, Reason.NO_ROOM), Tried(1, None)],
        TWO,
        0,
        Settle(),
    ),
    (
        "nobody answered: the last failure is told",
        FIXED,
        [Tried(0, None, Reason.NO_ROOM), Tried(1, None, Reason.MODEL_FAILED)],
        TWO,
        0,
        Refuse(Reason.MODEL_FAILED),
    ),
    (
        "nobody answered in time",
        FIXED,
        [Tried(0, None, Reason.MODEL_FAILED)],
        TWO,
        100,
        Refuse(Reason.DEADLINE_EXCEEDED),
    ),
    ("the chosen step comes first", STATIC, [], PREMIUM, 0, Try(2, None, Role.SERVE)),
    ("the first may be chosen", STATIC, [], TWO, 0, Try(0, None, Role.SERVE)),
    ("one answer is enough", STATIC, [Tried(2, None)], PREMIUM, 0, Settle()),
    ("the others as declared", STATIC, [Tried(2, None, Reason.NO_ROOM)], PREMIUM, 0, Try(0, None, Role.FALLBACK)),
    (
        "and not the one that failed",
        STATIC,
        [Tried(0, None, Reason.NO_ROOM), Tried(1, None, Reason.NO_ROOM)],
        TWO,
        0,
        Try(2, None, Role.FALLBACK),
    ),
    ("the order is the manifest's", ORDERED, [Tried(2, None, Reason.NO_ROOM)], PREMIUM, 0, Try(1, None, Role.FALLBACK)),
    (
        "to its end, and no further",
        ORDERED,
        [Tried(2, None, Reason.NO_ROOM), Tried(1, None, Reason.NO_ROOM), Tried(0, None, Reason.MODEL_FAILED)],
        PREMIUM,
        0,
        Refuse(Reason.MODEL_FAILED),
    ),
    ("no fallback", ALONE, [Tried(2, None, Reason.NO_ROOM)], PREMIUM, 0, Refuse(Reason.NO_ROOM)),
    (
        "the chosen one is closed",
        ORDERED,
        [],
        Facts(2, 100, frozenset({2}), 2),
        0,
        Try(1, None, Role.SERVE),
    ),
    (
        "the chosen one is closed, and there is no fallback",
        ALONE,
        [],
        Facts(2, 100, frozenset({2}), 2),
        0,
        Refuse(Reason.NO_CANDIDATE),
    ),
    (
        "a fixed route without fallback begins at its first open step",
        Plan(Kind.FIXED, FIXED.steps, ()),
        [],
        Facts(2, 100, frozenset({0})),
        0,
        Try(1, None, Role.SERVE),
    ),
    (
        "a fixed route's own order",
        Plan(Kind.FIXED, STATIC.steps, (2, 1)),
        [Tried(0, None, Reason.NO_ROOM)],
        TWO,
        0,
        Try(2, None, Role.FALLBACK),
    ),
    (
        "a cascade's failed rows may skip a step",
        Plan(Kind.CASCADE, CASCADE.steps, (2,)),
        [Tried(0, None, Reason.NO_ROOM)],
        TWO,
        0,
        Try(2, None, Role.FALLBACK),
    ),
    (
        "and unsure rows don't come back to what was tried",
        Plan(Kind.CASCADE, CASCADE.steps, (2, 1)),
        [Tried(0, None, Reason.NO_ROOM), Tried(2, None, Reason.NO_ROOM), Tried(1, None, None, [0.9, 0.1])],
        TWO,
        0,
        Settle((2, 2), Reason.NO_ROOM),
    ),
    (
        "a cascade without fallback keeps the unsure answer",
        Plan(Kind.CASCADE, CASCADE.steps, ()),
        [Tried(0, None, None, [0.9, 0.1]), Tried(1, (1,), Reason.NO_ROOM)],
        TWO,
        0,
        Settle((0, 0), Reason.NO_ROOM),
    ),
    ("no rows are all answered", CASCADE, [Tried(0, None, None, [])], Facts(0, 100), 0, Settle()),
]


@pytest.mark.parametrize(("plan", "tried", "facts", "now", "decision"), [row[1:] for row in DECISIONS],
                         ids=[row[0] for row in DECISIONS])  # fmt: skip
def test_the_table(plan: Plan, tried: list[Tried], facts: Facts, now: int, decision: Decision) -> None:
    assert next(plan, tried, facts, now) == decision


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    accepts = draw(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=5))
    steps = tuple(Step(f"t{at}", accept) for at, accept in enumerate(accepts))
    fallback = draw(st.none() | st.lists(st.integers(0, len(steps) - 1), unique=True).map(tuple))
    return Plan(draw(st.sampled_from(Kind)), steps, fallback)


confidence = st.floats(0, 1) | st.just(math.nan)


class World:
    """What happens to one Request: each step fails or answers, and each call takes its time."""

    def __init__(self, plan: Plan, facts: Facts, draw: Callable[..., Any]) -> None:
        self.plan, self.facts, self._draw = plan, facts, draw
        self.now = 0
        self.tried: list[Tried] = []
        self.tries: list[Try] = []

    def perform(self, decision: Try) -> None:
        count = self.facts.rows if decision.rows is None else len(decision.rows)
        self.tries.append(decision)
        self.now += self._draw(st.integers(0, 60))
        failure = self._draw(st.none() | st.sampled_from(FAILURES))
        sure = None
        if failure is None and self.plan.steps[decision.step].accept is not None and self._draw(st.booleans()):
            sure = self._draw(st.lists(confidence, min_size=count, max_size=count))
        self.tried.append(Tried(decision.step, decision.rows, failure, sure))

    def run(self) -> Settle | Refuse:
        for _ in range(len(self.plan.steps) + 1):
            decision = next(self.plan, self.tried, self.facts, self.now)
            assert not isinstance(decision, Wait)
            if not isinstance(decision, Try):
                return decision
            assert self.now < self.facts.deadline_ns
            self.perform(decision)
        raise AssertionError("no end within one call per step")

    def wants_more(self, at: int) -> set[int]:
        """The rows whose answer from Attempt `at` was less sure than wanted."""
        tried = self.tried[at]
        accept = self.plan.steps[tried.step].accept
        if (
            self.plan.kind not in (Kind.CASCADE, Kind.COMPLEXITY)
            or accept is None
            or tried.failure
            or tried.confidences is None
        ):
            return set()
        return {row for row, sure in zip(self.sent(at), tried.confidences, strict=True) if not sure >= accept}

    def sent(self, at: int) -> list[int]:
        rows = self.tried[at].rows
        return list(range(self.facts.rows)) if rows is None else list(rows)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, Settle | Refuse]:
    plan = draw(plans())
    closed = draw(st.frozensets(st.integers(0, len(plan.steps) - 1)))
    first = draw(st.integers(0, len(plan.steps) - 1)) if plan.kind is Kind.STATIC else 0
    facts = Facts(draw(st.integers(0, 6)), draw(st.integers(0, 150)), closed, first)
    world = World(plan, facts, draw)
    return world, world.run()


@given(worlds())
def test_steps_are_tried_once_and_never_closed(ran: tuple[World, Settle | Refuse]) -> None:
    world, _ = ran
    steps = [attempt.step for attempt in world.tries]
    assert len(steps) == len(set(steps))
    assert not set(steps) & world.facts.closed
    if world.plan.kind is not Kind.STATIC and world.plan.fallback is None:
        assert steps == sorted(steps)


@given(worlds())
def test_what_failed_goes_on_in_the_order_of_fallback(ran: tuple[World, Settle | Refuse]) -> None:
    world, end = ran
    plan, facts = world.plan, world.facts
    order = range(len(plan.steps)) if plan.fallback is None else plan.fallback
    if plan.fallback is None and plan.kind is Kind.COMPLEXITY:
        order = [*order[facts.first :], *order[: facts.first][::-1]]
    for at, before in enumerate(world.tried):
        tried = {attempt.step for attempt in world.tried[: at + 1]}
        left = [step for step in order if step not in tried | facts.closed]
        if before.failure and at + 1 < len(world.tries):
            assert world.tries[at + 1].step == left[0]
        elif before.failure and left:
            assert world.now >= facts.deadline_ns
    if world.tries and facts.first not in facts.closed:
        assert world.tries[0].step == facts.first
    if isinstance(end, Refuse) and not world.tries and facts.deadline_ns:
        chosen = plan.kind in (Kind.STATIC, Kind.COMPLEXITY)
        assert set([facts.first, *order] if chosen else range(len(plan.steps))) <= facts.closed


@given(worlds())
def test_every_row_is_answered_by_one_attempt_that_was_sent_it(ran: tuple[World, Settle | Refuse]) -> None:
    world, end = ran
    if isinstance(end, Refuse):
        return
    by_row = end.by_row
    if by_row is None:
        assert world.tried[-1].rows is None
        assert world.tried[-1].failure is None
        return
    assert len(by_row) == world.facts.rows
    for row, at in enumerate(by_row):
        assert world.tried[at].failure is None
        assert row in world.sent(at)
        later = range(at + 1, len(world.tried))
        assert not any(row in world.sent(other) and world.tried[other].failure is None for other in later)


@given(worlds())
def test_a_row_goes_on_only_when_it_failed_or_is_not_sure(ran: tuple[World, Settle | Refuse]) -> None:
    world, _ = ran
    for at in range(1, len(world.tried)):
        before = world.tried[at - 1]
        want = set(world.sent(at - 1)) if before.failure else world.wants_more(at - 1)
        assert set(world.sent(at)) == want
        assert world.tries[at].role is (Role.FALLBACK if before.failure else Role.SERVE)


@given(worlds())
def test_it_refuses_only_when_a_row_has_no_answer(ran: tuple[World, Settle | Refuse]) -> None:
    world, end = ran
    answered = {row for at, tried in enumerate(world.tried) if not tried.failure for row in world.sent(at)}
    some_attempt = any(not tried.failure for tried in world.tried)
    assert isinstance(end, Settle) == (some_attempt and answered == set(range(world.facts.rows)))
    if isinstance(end, Refuse) and not world.tried:
        late = world.facts.deadline_ns == 0
        assert end.reason is (Reason.DEADLINE_EXCEEDED if late else Reason.NO_CANDIDATE)
    elif isinstance(end, Refuse):
        told = {tried.failure for tried in world.tried}
        assert end.reason in told | {Reason.DEADLINE_EXCEEDED}


@given(worlds())
def test_degraded_only_when_a_row_wanted_more(ran: tuple[World, Settle | Refuse]) -> None:
    world, end = ran
    if not isinstance(end, Settle):
        return
    last = len(world.tried) - 1
    by_row = end.by_row or (last,) * world.facts.rows
    unsure = {row for row, at in enumerate(by_row) if row in world.wants_more(at)}
    if end.degraded is not None:
        assert unsure
        assert end.degraded in {tried.failure for tried in world.tried} | {Reason.DEADLINE_EXCEEDED}
    if unsure and world.tried[last].failure:
        assert end.degraded is not None


@given(worlds())
def test_only_a_cascade_splits(ran: tuple[World, Settle | Refuse]) -> None:
    world, end = ran
    if world.plan.kind not in (Kind.CASCADE, Kind.COMPLEXITY):
        assert all(attempt.rows is None for attempt in world.tries)
        assert isinstance(end, Refuse) or len(set(end.by_row or ())) <= 1


@given(plans(), st.lists(st.just(math.nan), min_size=1, max_size=4))
def test_nan_never_passes_a_threshold(plan: Plan, sure: list[float]) -> None:
    decision = next(plan, [Tried(0, None, None, sure)], Facts(len(sure), 10), 0)
    if plan.kind in (Kind.CASCADE, Kind.COMPLEXITY) and plan.steps[0].accept is not None and len(plan.steps) > 1:
        assert decision == Try(1, None, Role.SERVE)

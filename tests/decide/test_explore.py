"""Exploring: who is drawn, and whether the propensities are the frequencies with which that happens."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.routing import next as routing
from servery.routing.next import Facts, Kind, Plan, Step, Try, chances, explored, first_step

STEPS = tuple(Step(f"t{at}") for at in range(4))
LOTS = 4_000


@given(
    st.sampled_from(Kind),
    st.integers(0, 3),
    st.frozensets(st.integers(0, 3), max_size=3),
    st.floats(0, 0.5),
)
def test_a_propensity_is_how_often_that_step_is_asked_first(
    kind: Kind, first: int, closed: frozenset[int], share: float
) -> None:
    plan, facts = Plan(kind, STEPS), Facts(1, 10**12, closed, first)
    seen: Counter[int] = Counter()
    told_of: dict[int, float] = {}
    for at in range(LOTS):
        told, chance, drawn = explored(plan, facts, share, at / LOTS)
        decision = routing.next(plan, (), told, 0)
        assert isinstance(decision, Try)
        assert decision.step not in closed
        assert drawn or decision.step == first_step(plan, facts)
        seen[decision.step] += 1
        assert told_of.setdefault(decision.step, chance) == chance
    assert {step: count / LOTS for step, count in seen.items()} == pytest.approx(told_of, abs=2 / LOTS)
    if share > 4 / LOTS:
        assert seen.keys() == set(range(4)) - closed
        assert sum(told_of.values()) == pytest.approx(1)
    foretold = chances(plan, facts, share)
    assert {step: foretold[step] for step in told_of} == pytest.approx(told_of)
    assert sum(foretold) == pytest.approx(1)


def test_without_a_share_nothing_is_drawn() -> None:
    facts = Facts(1, 10**12, first=2)
    assert explored(Plan(Kind.COMPLEXITY, STEPS), facts, 0, 0.0) == (facts, 1.0, False)


def test_a_step_that_is_closed_passes_its_chance_on() -> None:
    facts = Facts(1, 10**12, frozenset({2}), 2)
    told, chance, _ = explored(Plan(Kind.COMPLEXITY, STEPS), facts, 0.3, 0.9)
    assert (first_step(Plan(Kind.COMPLEXITY, STEPS), told), chance) == (3, pytest.approx(0.8))

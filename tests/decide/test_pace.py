"""What of a Route may move, between which values, and where what was seen of it is counted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.routing.pace import Layout, levels, pace_of
from servery.terms.routes import Accept, Ceiling, Policy, Route, Tier

BOUNDS = st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)).map(sorted)


def route(policy: Policy, *accepts: Accept | None, share: tuple[float, float] | None = (0.5, 0.7)) -> Route:
    tiers = [Tier(f"t{at}", f"m{at}", accept, share if at == 0 else None) for at, accept in enumerate(accepts)]
    return Route(tuple(tiers), policy)


MOVES = Accept(0.8, (0.5, 0.9))
CHECKED = Accept(0.8, (0.5, 0.9), "logprob")
SCORED = Policy("complexity", thresholds=(0.3,), ranges=((0.1, 0.6),))


@given(BOUNDS, st.integers(4, 300))
def test_levels_ascend_from_end_to_end_through_what_is_declared(bounds: list[float], most: int) -> None:
    low, declared, high = bounds
    found = levels(declared, (low, high), most)
    assert list(found) == sorted(set(found))
    assert declared in found
    assert len(found) <= most + 3
    if low < high:
        assert (found[0], found[-1]) == (low, high)
    assert levels(declared, None, most) == (declared,)


def test_levels_lie_closer_where_confidences_crowd() -> None:
    found = levels(0.95, (0.5, 0.9999), 256)
    assert sum(level > 0.99 for level in found) > 40


@pytest.mark.parametrize(
    ("declared", "in_text", "dials"),
    [
        (route(Policy("cascade"), MOVES, None), False, [(0, False)]),
        (route(Policy("cascade"), MOVES, Accept(0.7), None), False, [(0, False), (1, False)]),
        (route(Policy("cascade"), CHECKED, None), True, [(0, False)]),
        (route(SCORED, None, None), True, [(0, True)]),
        (route(SCORED, CHECKED, None), True, [(0, True), (0, False)]),
        (route(Policy("complexity", thresholds=(0.3,)), CHECKED, None), True, [(0, True), (0, False)]),
        # What nothing would move, or nothing lets move.
        (route(Policy("cascade"), MOVES, None, share=None), False, None),
        (route(Policy("cascade"), Accept(0.8), None), False, None),
        (route(Policy("cascade"), Accept(0.8, (0.8, 0.8)), None), False, None),
        (route(Policy("complexity", thresholds=(0.3,)), None, None), True, None),
        (route(Policy(), MOVES, None), False, None),
    ],
)
def test_what_moves_is_what_has_a_range_where_there_is_a_promise(
    declared: Route, in_text: bool, dials: list[tuple[int, bool]] | None
) -> None:
    pace = pace_of(declared, in_text)
    assert (None if pace is None else [(dial.tier, dial.enters) for dial in pace.dials]) == dials


def test_a_mean_ceiling_is_a_promise_and_a_routers_own_threshold_counts() -> None:
    declared = Route(
        (Tier("a", "a"), Tier("b", "b")),
        Policy("complexity", router="r.npz", ranges=((-0.2, 0.4),)),
        ceiling=Ceiling(500),
    )
    pace = pace_of(declared, True, 0.12)
    assert pace is not None
    assert (pace.most_pico, pace.declared) == (500e6, (0.12,))


def test_another_declaration_has_another_digest() -> None:
    one = pace_of(route(Policy("cascade"), MOVES, None), False)
    same = pace_of(route(Policy("cascade"), MOVES, None), False)
    other = pace_of(route(Policy("cascade"), Accept(0.81, (0.5, 0.9)), None), False)
    assert one is not None
    assert same is not None
    assert other is not None
    assert one.of == same.of != other.of


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_a_number_is_counted_between_the_levels_that_it_lies_between(score: float, sure: float) -> None:
    pace = pace_of(route(SCORED, CHECKED, None), True)
    assert pace is not None
    layout = Layout(pace)
    entering, accepting = pace.dials
    cell = (layout.at_score(score) - layout.entered) // 3
    assert [at < cell for at in range(len(entering.levels))] == [score > level for level in entering.levels]
    first, levels_ = layout.judged(0)
    assert levels_ == accepting.levels
    cell = (layout.at_confidence(0, sure) - first) // 2
    assert [at < cell for at in range(len(accepting.levels))] == [sure >= level for level in accepting.levels]
    assert layout.at_confidence(0, math.nan) == first
    assert layout.size == first + 2 * (len(levels_) + 1)

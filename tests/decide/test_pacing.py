"""Pacing: when thresholds move, where they go, and when they stay."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.gateway.watch import Watch
from servery.routing.next import Kind
from servery.routing.pace import Pace, pace_of
from servery.routing.pacing import Pacer
from servery.terms.record import Attempt, Candidate, Choice, Role
from servery.terms.routes import Accept, Ceiling, Policy, Route, Tier
from worlds.pacing import Ask, answer

NS = 10**9
DAY = 86_400 * NS
LOW, HIGH = 0.6, 0.8


def cascade(
    share: tuple[float, float] | None = (LOW, HIGH),
    mean: float | None = None,
    bounds: tuple[float, float] = (0.1, 0.95),
) -> Route:
    tiers = (Tier("cheap", "a", Accept(0.6, bounds, "logprob"), share), Tier("dear", "b"))
    return Route(tiers, Policy("cascade"), ceiling=None if mean is None else Ceiling(mean))


class Traffic:
    """Asks of a Route, which are told to its Pacer in parts. `sure` draws how sure the cheap tier is."""

    def __init__(self, route: Route, seed: int = 0, at: tuple[float, ...] = ()) -> None:
        pace = pace_of(route, True)
        assert pace is not None
        self.pace: Pace = pace
        self.pacer = Pacer(pace, at)
        self.draw = random.Random(seed)
        self.now_ns = 0
        self.total = 0
        self.stood: list[tuple[int, tuple[float, ...]]] = []
        self._watch = Watch(pace)

    def ask(self, count: int, sure: Callable[[random.Random], float], part: int = 25) -> None:
        for start in range(0, count, part):
            for _ in range(min(part, count - start)):
                self._one(sure(self.draw))
            self.now_ns += NS
            self.pacer.see(self._watch.take())
            self.pacer.decide(self.now_ns)
            self.stood.append((self.total, self.pacer.thresholds))

    def _one(self, sure: float) -> None:
        cost = (1_000.0, 10_000.0)
        tried, tier = answer(Kind.CASCADE, self.pace, self.pacer.thresholds, Ask(0.0, (sure, 1.0), cost, cost))
        names = self.pace.tiers
        attempts = [
            Attempt(Role.SERVE, names[one.step], "", "", 1, int(one.step == tier), 0, int(cost[one.step]))
            for one in tried
        ]
        candidates = tuple(Candidate(name, "", int(pico)) for name, pico in zip(names, cost, strict=True))
        self._watch.note(attempts, tried, Choice(1.0, candidates), True)
        self.total += 1

    @property
    def at(self) -> float:
        return self.pacer.thresholds[0]

    def moves(self) -> list[tuple[int, float]]:
        """After how many requests it moved, and where to."""
        found, last = list[tuple[int, float]](), self.pace.declared
        for total, stood in self.stood:
            if stood != last:
                found.append((total, stood[0]))
                last = stood
        return found


def even(low: float, high: float) -> Callable[[random.Random], float]:
    return lambda draw: draw.uniform(low, high)


def test_without_traffic_thresholds_are_those_that_are_declared() -> None:
    traffic = Traffic(cascade())
    assert traffic.pacer.decide(NS) is None
    assert traffic.pacer.thresholds == (0.6,)
    stands = traffic.pacer.stands()
    assert (stands.requests, stands.shares, stands.mean_pico, stands.unkept) == (0, (), 0.0, ())


@pytest.mark.parametrize("seed", range(5))
def test_what_keeps_its_promises_stays_where_it_is(seed: int) -> None:
    traffic = Traffic(cascade(), seed)
    traffic.ask(10_000, even(0.3, 1.3))
    assert traffic.moves() == []
    assert traffic.pacer.stands().shares[0] == pytest.approx(0.7, abs=0.03)


def test_little_evidence_moves_nothing() -> None:
    traffic = Traffic(cascade())
    traffic.ask(175, even(0, 0.5))  # nobody is sure
    assert traffic.moves() == []
    traffic.ask(50, even(0, 0.5))
    assert traffic.at < 0.6


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_band_is_mended_by_the_nearest_place_with_room_to_spare(seed: int) -> None:
    traffic = Traffic(cascade(), seed)
    traffic.ask(6_000, even(0, 1))  # four of ten are sure; the band begins at 0.4, and its middle is 0.3
    assert 0.28 <= traffic.at <= 0.39
    assert traffic.moves()[0][0] <= 300
    traffic = Traffic(cascade(), seed)
    traffic.ask(6_000, even(0.5, 1))  # eight of ten are sure: the band ends at 0.6, and its middle is 0.65
    traffic.ask(6_000, even(0.6, 1))  # all are: it ends at 0.68, and its middle is 0.72
    assert 0.68 < traffic.at <= 0.73


def test_dollars_go_before_shares_and_what_cant_be_kept_is_told() -> None:
    # All go on from 0.6; to keep half of the rows from the dear tier the mean must be 6,000 pico-dollars, not 3,000.
    traffic = Traffic(cascade((0.3, 0.5), 0.003))
    traffic.ask(4_000, even(0, 1))
    stands = traffic.pacer.stands()
    assert stands.mean_pico <= 3_000
    assert stands.mean_pico >= 2_400
    assert stands.shares[0] > 0.5
    (told,) = stands.unkept
    assert "0.3 to 0.5 of the rows for cheap" in told
    assert len(traffic.moves()) <= 6


def test_a_range_bounds_the_closest_that_can_be_had() -> None:
    traffic = Traffic(cascade(bounds=(0.5, 0.7)))
    traffic.ask(2_000, even(0, 1))
    assert traffic.at == pytest.approx(0.5, abs=0.003)
    assert traffic.pacer.unkept != ()
    traffic.ask(3_000, even(0.3, 1.3))
    assert traffic.pacer.unkept == ()


@pytest.mark.parametrize("seed", range(5))
def test_when_the_mix_comes_back_so_does_the_threshold(seed: int) -> None:
    traffic = Traffic(cascade(), seed)
    traffic.ask(4_000, even(0, 1))
    assert traffic.at < 0.4
    traffic.ask(8_000, even(0.3, 1.3))
    assert abs(traffic.at - 0.6) < 0.08


def test_a_day_without_traffic_is_forgotten() -> None:
    traffic = Traffic(cascade())
    traffic.ask(1_000, even(0, 1))
    assert traffic.at < 0.5
    assert traffic.pacer.decide(traffic.now_ns + DAY - NS) is None
    moved = traffic.pacer.decide(traffic.now_ns + DAY + NS)
    assert moved is not None
    assert moved.thresholds == traffic.pacer.thresholds == (0.6,)


def test_it_goes_on_from_where_the_thresholds_stood() -> None:
    assert Traffic(cascade(), at=(0.3,)).at == pytest.approx(0.3, abs=0.01)
    assert Traffic(cascade(), at=(0.3, 0.4)).at == 0.6  # of another declaration
    assert Traffic(cascade(), at=(-5.0,)).at == 0.1


def test_what_has_no_place_is_left_out() -> None:
    traffic = Traffic(cascade())
    traffic.pacer.see({-1: 5.0, 10**9: 5.0})
    assert traffic.pacer.decide(NS) is None


def test_where_all_are_equally_sure_it_settles_on_one_side() -> None:
    """No threshold gives the band: all of the rows, or none."""
    traffic = Traffic(cascade())
    traffic.ask(6_000, lambda _: 0.5)
    assert len(traffic.moves()) <= 2
    assert traffic.pacer.unkept != ()


@given(st.integers(0, 10_000), st.lists(st.tuples(st.integers(100, 3_000), st.floats(0, 0.7)), min_size=2, max_size=8))
@settings(max_examples=12, deadline=None)
def test_however_the_mix_swings_a_threshold_turns_five_times_in_ten_thousand_at_most(
    seed: int, mixes: list[tuple[int, float]]
) -> None:
    traffic = Traffic(cascade((0.65, 0.75)), seed)
    while traffic.total < 12_000:
        for count, low in mixes:
            traffic.ask(count, even(low, low + 0.6), 50)
    places = [0.6, *(at for _, at in traffic.moves())]
    ways = [math.copysign(1, after - before) for before, after in pairwise(places)]
    turns = [
        total for (total, _), way, before in zip(traffic.moves()[1:], ways[1:], ways, strict=False) if way != before
    ]
    for first in turns:
        assert sum(first <= total < first + 10_000 for total in turns) <= 5
    assert all(0.1 <= at <= 0.95 for at in places)

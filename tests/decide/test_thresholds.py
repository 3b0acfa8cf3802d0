"""Thresholds from a sample: against brute force, and by what is promised, in simulated worlds whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.learning.calibrate import calibrate
from servery.learning.thresholds import (
    Result,
    Sample,
    Share,
    Wanted,
    count,
    curve,
    evaluate,
    frontier,
    levels_of,
    parted,
    search,
    split,
)
from servery.routing.next import Facts, Kind, Plan, Settle, Step, Tried, Try
from servery.routing.next import next as decide

RISK = 0.1
WORLD_ROWS = 20_000


def world(tiers: int = 3, rows: int = WORLD_ROWS, seed: int = 3) -> Sample:
    """Rows of different difficulty; later tiers are better and dearer, and all say roughly how sure they are."""
    draw = np.random.default_rng(seed)
    hard = draw.random(rows) ** 2
    chance = np.array([1 - hard * 0.5 / (tier + 1) ** 1.5 for tier in range(tiers)])
    sure = np.clip(chance + draw.normal(0, 0.08, chance.shape), 0, 1)
    return Sample(sure, draw.random(chance.shape) < chance, tuple(1e-6 * 5.0**tier for tier in range(tiers)))


@st.composite
def samples(draw: st.DrawFn) -> tuple[Sample, tuple[np.ndarray, ...]]:
    tiers, rows = draw(st.integers(2, 4)), draw(st.integers(1, 12))
    marks = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, float("nan")])
    sure = np.array(draw(st.lists(st.lists(marks, min_size=rows, max_size=rows), min_size=tiers, max_size=tiers)))
    right = np.array(
        draw(st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=tiers, max_size=tiers))
    )
    usd = tuple(draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, 8.0]), min_size=tiers, max_size=tiers)))
    some = st.lists(st.sampled_from([0.0, 0.25, 0.4, 0.5, 1.0]), min_size=1, max_size=4, unique=True)
    levels = tuple(np.array(sorted(draw(some))) for _ in range(tiers - 1))
    return Sample(sure, right, usd), levels


def by_hand(sample: Sample, thresholds: tuple[float, ...]) -> Result:
    """Row by row, through the decision that serves callers."""
    steps = (*(Step("t", threshold) for threshold in thresholds), Step("last"))
    plan = Plan(Kind.CASCADE, steps)
    answered, right, usd = [0] * len(steps), 0, 0.0
    for row in range(sample.rows):
        tried: list[Tried] = []
        while isinstance(decision := decide(plan, tried, Facts(1, 1), 0), Try):
            tried.append(Tried(decision.step, None, None, [float(sample.sure[decision.step][row])]))
            usd += sample.usd[decision.step]
        assert isinstance(decision, Settle)
        answered[tried[-1].step] += 1
        right += bool(sample.right[tried[-1].step][row])
    return Result(thresholds, sample.rows, right, tuple(answered), usd / sample.rows)


@settings(deadline=None, max_examples=60)
@given(samples())
def test_the_grid_counts_what_the_router_would_do(drawn: tuple[Sample, tuple[np.ndarray, ...]]) -> None:
    sample, levels = drawn
    grid = count(sample, levels)
    for at, thresholds in enumerate(itertools.product(*[level.tolist() for level in levels])):
        told = by_hand(sample, thresholds)
        found = evaluate(sample, thresholds)
        assert (found.right, found.answered) == (told.right, told.answered)
        assert found.usd == pytest.approx(told.usd)
        assert grid.thresholds(at) == thresholds
        assert grid.rows - int(grid.wrong.ravel()[at]) == told.right
        assert tuple(int(part.ravel()[at]) for part in grid.answered) == told.answered
        assert grid.usd.ravel()[at] == pytest.approx(told.usd)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_the_frontier_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    doubt, sought = np.array([one for one, _ in points], float), np.array([other for _, other in points], float)
    path = [points[at] for at in frontier(doubt, sought)]
    unbeaten = {
        one for one in points if not any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in points)
    }
    assert set(path) == unbeaten
    assert path == sorted(path)


@settings(deadline=None, max_examples=60)
@given(samples())
def test_levels_stay_within_their_range(drawn: tuple[Sample, tuple[np.ndarray, ...]]) -> None:
    sample, _ = drawn
    ranges = ((0.3, 0.6),) * (len(sample.usd) - 1)
    for level in levels_of(sample, ranges):
        assert 0.3 in level
        assert 0.6 in level
        assert level.min() == 0.3
        assert level.max() == 0.6


WANTED = [
    (Wanted(accuracy=0.9), 3),
    (Wanted(accuracy=0.88), 2),
    (Wanted(usd=8e-6), 3),
    (Wanted(shares=(Share(0, 0.3, 0.6),)), 3),
    (Wanted(accuracy=0.9, shares=(Share(2, 0.0, 0.4),)), 3),
]


def holds(wanted: Wanted, truth: Result) -> bool:
    return (
        (wanted.accuracy is None or truth.accuracy >= wanted.accuracy)
        and (wanted.usd is None or truth.usd <= wanted.usd)
        and all(one.low <= truth.answered[one.tier] / truth.rows <= one.high for one in wanted.shares)
    )


@pytest.mark.parametrize(("wanted", "tiers"), WANTED)
def test_what_is_promised_holds_as_often_as_promised(wanted: Wanted, tiers: int) -> None:
    """The world is the truth, samples are drawn from it. Where nothing is chosen, nothing is promised."""
    population = world(tiers)
    draws = np.random.default_rng(17)
    trials, broken, chosen = 200, 0, 0
    for _ in range(trials):
        sample = population.only(draws.integers(0, population.rows, 400))  # in an order of its own
        path, test = parted(sample, np.arange(400))
        found = search(split(path, test, ((0.0, 1.0),) * (tiers - 1)), wanted, RISK)
        if found.thresholds is not None:
            chosen += 1
            broken += not holds(wanted, evaluate(population, found.thresholds))
    assert chosen > trials / 2  # or the promise would be kept by silence
    assert broken <= RISK * trials + 3 * (RISK * (1 - RISK) * trials) ** 0.5


def test_what_merely_looks_good_enough_is_not() -> None:
    """The same world, without the tests: the cheapest thresholds that were accurate enough on the sample."""
    population, wanted = world(), 0.9
    draws = np.random.default_rng(17)
    broken = 0
    for _ in range(100):
        sample = population.only(draws.integers(0, population.rows, 400))
        grid = count(sample, levels_of(sample, ((0.0, 1.0),) * 2))
        costs = np.where(grid.wrong <= 0.1 * grid.rows, grid.usd, np.inf)
        broken += evaluate(population, grid.thresholds(int(costs.argmin()))).accuracy < wanted
    assert broken > 40


def test_more_examples_get_closer_to_the_best() -> None:
    population = world()
    best = min(usd for usd, share in curve(count(population, levels_of(population, ((0, 1),) * 2)))
               if share >= 0.87)  # fmt: skip
    costs: list[float] = []
    for rows in (400, 3_000, 20_000):
        sample = population.only(np.random.default_rng(5).permutation(population.rows)[:rows])
        found = calibrate(sample, ((0.0, 1.0),) * 2, (0.9, 0.9), Wanted(accuracy=0.87), RISK, 0)
        assert found.after is not None
        costs.append(evaluate(population, found.after.thresholds).usd)
    assert costs[0] > costs[2]
    assert costs[2] < 1.15 * best


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_a_threshold_stays_in_its_range(seed: int, band: list[float]) -> None:
    low, high = band
    found = calibrate(world(2, 500, seed), ((low, high),), (low,), Wanted(usd=1), RISK, seed)
    assert found.after is not None
    assert low <= found.after.thresholds[0] <= high


def test_what_is_out_of_reach_is_told_with_what_is_not() -> None:
    ranges, current = ((0.0, 1.0),) * 2, (0.9, 0.9)
    sample = world(rows=600)
    for wanted in (Wanted(accuracy=0.999), Wanted(usd=1e-7), Wanted(shares=(Share(0, 0.5, 0.52),))):
        found = calibrate(sample, ranges, current, wanted, RISK, 0)
        assert found.after is None
        assert found.best is not None
        assert calibrate(sample, ranges, current, found.best, RISK, 0).after is not None
        if wanted.accuracy is not None:
            assert 0.85 < (found.best.accuracy or 0) < 0.999
    impossible = Wanted(usd=1e-7, shares=(Share(0, 1.0, 1.0),))
    assert calibrate(sample, ranges, current, impossible, RISK, 0).best is None


def test_the_same_sample_gives_the_same_thresholds() -> None:
    sample = world(rows=900)
    once, again = (calibrate(sample, ((0.0, 1.0),) * 2, (0.9, 0.9), Wanted(accuracy=0.85), 0.05, 7) for _ in "12")
    assert once == again


def test_tiers_that_cost_nothing_more() -> None:
    """One price for all, and as many tiers as a route may have."""
    free = world(2, 400)
    free = Sample(free.sure, free.right, (0.0, 0.0))
    assert calibrate(free, ((0.0, 1.0),), (0.5,), Wanted(usd=0.0), RISK, 0).after is not None
    many = world(16, 300)
    parts = split(many, many, ((0.0, 1.0),) * 15)
    assert parts.path.wrong.size < 2_000_000
    assert search(parts, Wanted(accuracy=0.5), RISK).thresholds is not None

"""How many times slower a candidate's tail is: counted exactly, honest at every look, unimpressed by what hits both arms."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.stats.quantile_harm import QuantileHarm
from servery.stats.sketch import LIMIT, RATIO, Sketch, index_of

Draws = np.random.Generator


def sketch_of(sample: np.ndarray) -> Sketch:
    sketch = Sketch()
    for value in sample.tolist():
        sketch.add(value)
    return sketch


def latencies(draws: Draws, n: int) -> np.ndarray:
    return draws.lognormal(15, 1.0, n)


def learned(draws: Draws, margin: float = 0.25) -> QuantileHarm:
    return QuantileHarm(0.9, margin).after(0.0, sketch_of(latencies(draws, 1000)), Sketch())


def watched(
    harm: QuantileHarm, draws: Draws, ratio: float, looks: int, share: float = 0.5
) -> tuple[QuantileHarm, int, int]:
    """The looks at which the candidate was first found worse, and first passed; the number of looks where it wasn't."""
    worse = passed = looks
    for look in range(looks):
        candidate = draws.binomial(100, share)
        incumbent = sketch_of(latencies(draws, 100 - candidate))
        harm = harm.after(share, incumbent, sketch_of(ratio * latencies(draws, candidate)))
        bounds = harm.bounds(0.05, 0.05)
        worse = min(worse, look if bounds.low >= harm.margin else looks)
        passed = min(passed, look if bounds.high <= harm.margin else looks)
    return harm, worse, passed


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from((0.05, 0.25, 1.0)), st.sampled_from((0.5, 0.9, 0.99)))
def test_values_are_counted_where_the_ratios_say(seed: int, margin: float, quantile: float) -> None:
    draws = np.random.default_rng(seed)
    first = QuantileHarm(quantile, margin).after(0.0, sketch_of(latencies(draws, 3000)), Sketch())
    arms = [latencies(draws, 50), latencies(draws, 40)]
    (tail,) = first.after(0.3, *map(sketch_of, arms)).tails
    incumbent, candidate = ([index_of(value) for value in arm] for arm in arms)
    for side, mark in ((tail.worse, math.ceil), (tail.passed, math.floor)):
        own = mark(math.log1p(margin) / math.log(RATIO))
        assert side.incumbent == sum(one > side.index for one in incumbent)
        assert sum(one > side.index + own for one in candidate) in side.candidate
        assert list(side.candidate) == sorted(side.candidate, reverse=side is tail.worse)
    assert (tail.incumbent, tail.candidate) == (50, 40)


def test_it_finds_a_slower_tail_and_passes_an_equal_one() -> None:
    draws = np.random.default_rng(4)
    harm, worse, passed = watched(learned(draws), draws, 2.0, 60)
    assert (worse < 30, passed) == (True, 60)
    assert 0.25 < harm.bounds(0.05, 0.05).low < 1 < harm.bounds(0.05, 0.05).high
    harm, worse, passed = watched(learned(draws), draws, 1.0, 120)
    assert (worse, passed < 120) == (120, True)
    assert harm.bounds(0.05, 0.05).low < 0 < harm.bounds(0.05, 0.05).high <= 0.25


def test_bounds_and_evidence_agree() -> None:
    draws = np.random.default_rng(5)
    harm, _, _ = watched(learned(draws), draws, 1.4, 15)
    for alpha in (0.9, 0.5, 0.1, 0.01, 0.001):
        bounds = harm.bounds(alpha, alpha)
        assert (bounds.low >= 0.25) == (harm.evidence(1) >= math.log(1 / alpha))
        assert (bounds.high <= 0.25) == (harm.evidence(-1) >= math.log(1 / alpha))
    assert msgspec.json.decode(msgspec.json.encode(harm), type=QuantileHarm) == harm


def test_what_hits_both_arms_is_no_harm_even_while_the_share_changes() -> None:
    """Latency rises tenfold when the candidate's share rises: pooled over time the candidate would look slow."""
    draws = np.random.default_rng(6)
    harm = learned(draws)
    for step, share in enumerate((0.05, 0.3, 0.5)):
        for _ in range(40):
            candidate = draws.binomial(200, share)
            incumbent, other = (10**step * latencies(draws, n) for n in (200 - candidate, candidate))
            harm = harm.after(share, sketch_of(incumbent), sketch_of(other))
            assert harm.evidence(1) < math.log(1 / 0.01)
    assert harm.bounds(0.05, 0.05).high <= 0.25
    # And x follows: the last tail compares near the quantile as it is now.
    last = harm.tails[-1]
    assert last.worse.incumbent / last.incumbent == pytest.approx(0.1, rel=0.4)


def test_no_data_is_no_news() -> None:
    draws = np.random.default_rng(7)
    bounds = QuantileHarm(0.95, 0.1).bounds(0.05, 0.05)
    assert (bounds.low, bounds.high) == (-1.0, float(LIMIT))
    harm = learned(draws)
    assert harm.after(0.5, Sketch(), Sketch()) == harm
    for _ in range(50):  # the candidate gets nothing
        harm = harm.after(0.05, sketch_of(latencies(draws, 100)), Sketch())
    assert harm.evidence(1) < 1
    assert harm.evidence(-1) < 1


def test_until_the_incumbents_quantile_is_known_windows_only_teach() -> None:
    draws = np.random.default_rng(8)
    harm = QuantileHarm(0.9, 0.25)
    sizes: list[int] = []
    for _ in range(8):
        harm = harm.after(0.5, sketch_of(latencies(draws, 50)), sketch_of(latencies(draws, 50)))
        sizes.append(sum(tail.incumbent for tail in harm.tails))
    assert sizes == [0, 0, 0, 0, 50, 100, 150, 200]


def test_equal_values_pass_and_slower_ones_are_found() -> None:
    """All of one arm in one bin: x lies at one edge of it to show that it has passed, at the other to show that it is worse."""
    same = sketch_of(np.full(1000, 5e6))
    equal = slower = QuantileHarm(0.95, 0.25).after(0.0, same, Sketch())
    for _ in range(10):
        equal = equal.after(0.5, sketch_of(np.full(50, 5e6)), sketch_of(np.full(50, 5e6)))
        slower = slower.after(0.5, sketch_of(np.full(50, 5e6)), sketch_of(np.full(50, 7e6)))
    assert equal.bounds(0.01, 0.01).high <= 0.25
    assert equal.evidence(1) < 1
    assert slower.bounds(0.01, 0.01).low >= 0.25


def test_a_margin_may_be_nothing() -> None:
    draws = np.random.default_rng(9)
    start = QuantileHarm(0.5, 0.0, effect=0.3).after(0.0, sketch_of(latencies(draws, 500)), Sketch())
    harm, worse, _ = watched(start, draws, 1.5, 80)
    assert worse < 80
    assert 0 < harm.bounds(0.05, 0.05).low < 0.5


def test_tails_grow_with_the_logarithm() -> None:
    draws = np.random.default_rng(10)
    harm = learned(draws)
    for look in range(400):
        arms = sketch_of(latencies(draws, 60)), sketch_of(latencies(draws, 20))
        harm = harm.after((0.25, 0.26)[look % 2], *arms)
    assert len(harm.tails) < 40
    assert sum(tail.candidate for tail in harm.tails) == 8000
    assert len(msgspec.json.encode(harm)) < 30_000

"""One arm against a level: exact for zeros and ones, honest at every look, and quantiles with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.stats.shares import log_evidence, quantile_bounds, share_bounds, slower_evidence
from servery.stats.sketch import LIMIT, RATIO, Sketch
from servery.stats.windows import Bounds

levels = st.floats(0.001, 0.999)
signs = st.sampled_from((1, -1))


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(0, 500), levels, levels, signs, st.floats(1e-4, 0.5))
def test_no_next_value_is_expected_to_add_to_false_evidence(
    hits: int, misses: int, level: float, chance: float, sign: int, effect: float
) -> None:
    true = sign * min(sign * chance, sign * level)
    n = hits + misses
    before = log_evidence(np.array([hits, hits, hits + 1]), n, level, sign, effect)[0]
    missed, hit = log_evidence(np.array([hits, hits + 1]), n + 1, level, sign, effect)
    assert true * math.exp(hit - before) + (1 - true) * math.exp(missed - before) <= 1 + 1e-9


@settings(deadline=None)
@given(st.integers(1, 10**6), st.data())
def test_bounds_hold_the_share_and_mirror(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    bounds, mirrored = share_bounds(hits, n, 0.01, 0.05), share_bounds(n - hits, n, 0.05, 0.01)
    assert 0 <= bounds.low <= hits / n <= bounds.high <= 1
    assert (bounds.low, bounds.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low))


def test_bounds_get_narrower() -> None:
    assert share_bounds(0, 0, 0.05, 0.05).low == 0
    assert share_bounds(0, 0, 0.05, 0.05).high == 1
    widths = [share_bounds(n // 10, n, 0.025, 0.025) for n in (10, 100, 1000, 10_000, 100_000)]
    assert [round(one.high - one.low, 2) for one in widths] == [0.63, 0.2, 0.06, 0.02, 0.01]


def sketch_of(sample: np.ndarray) -> Sketch:
    sketch = Sketch()
    for value in sample.tolist():
        sketch.add(value)
    return sketch


def test_a_quantile_lies_where_it_is_told_to() -> None:
    """Watched after each of 40 windows, in 100 worlds: at most one in five bounds is ever wrong, on each side."""
    draws = np.random.default_rng(2)
    true = math.exp(10)  # the median
    wrong, bounds = np.zeros(2), Bounds(0, 0)
    for _ in range(100):
        sketch, missed = Sketch(), np.zeros(2, bool)
        for _ in range(40):
            sketch.merge(sketch_of(draws.lognormal(10, 1.5, 25)))
            bounds = quantile_bounds(sketch, 0.5, 0.2, 0.2)
            missed |= (bounds.low >= true, bounds.high <= true / RATIO)
        wrong += missed
    assert (wrong / 100 <= 0.2).all()
    assert (wrong > 0).all()
    assert bounds.low < true < bounds.high
    assert bounds.high / bounds.low < 1.5


def test_quantiles_without_values_are_anywhere() -> None:
    nothing = quantile_bounds(Sketch(), 0.95, 0.05, 0.05)
    assert (nothing.low, nothing.high) == (0.0, float(LIMIT))
    few = quantile_bounds(sketch_of(np.array([5.0, 7.0])), 0.95, 0.05, 0.05)
    assert (few.low, few.high) == (0.0, float(LIMIT))
    same = quantile_bounds(sketch_of(np.full(1000, 1000.0)), 0.95, 0.05, 0.05)
    assert same.low < 1000 <= same.high
    assert same.high / same.low == pytest.approx(RATIO)


def test_the_quantile_against_a_bound_of_its_own() -> None:
    sketch = sketch_of(np.linspace(1_000, 2_000, 2_000))  # the 95th of 100 is 1,950
    wanted = math.log(1 / 0.01)
    assert slower_evidence(sketch, 0.95, 1_850, 1) > wanted
    assert slower_evidence(sketch, 0.95, 2_050, -1) > wanted
    for bound in (1_930, 1_950, 1_970):
        assert slower_evidence(sketch, 0.95, bound, 1) < wanted
        assert slower_evidence(sketch, 0.95, bound, -1) < wanted
    assert slower_evidence(Sketch(), 0.95, 100, 1) == pytest.approx(0)

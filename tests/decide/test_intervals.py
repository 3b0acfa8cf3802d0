"""Intervals and quantiles against published values and definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.stats.intervals import wilson
from servery.stats.quantiles import quantile, rank


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        # Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_limits(hits: int, trials: int, low: float, high: float) -> None:
    interval = wilson(hits, trials)
    assert interval is not None
    assert interval.low == pytest.approx(low, abs=6e-5)
    assert interval.high == pytest.approx(high, abs=6e-5)


def test_no_trials_say_nothing() -> None:
    assert wilson(0, 0) is None


@given(st.integers(1, 10**9), st.data())
def test_wilson_holds_the_share_and_mirrors(trials: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, trials))
    interval, mirrored = wilson(hits, trials), wilson(trials - hits, trials)
    assert interval is not None
    assert mirrored is not None
    assert 0 <= interval.low <= hits / trials <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-9)


def test_a_quantile_needs_ten_samples_above_it() -> None:
    assert [rank(count, 95) for count in (199, 200, 201)] == [None, 189, 190]
    assert [rank(count, 50) for count in (0, 1, 19, 20, 21)] == [None, None, None, 9, 10]
    assert quantile(range(1, 1_001), 99) == 990


@given(st.lists(st.integers(0, 10**12), min_size=20, max_size=400), st.integers(1, 99))
def test_a_quantile_has_its_part_of_the_sample_at_or_below(sample: list[int], percent: int) -> None:
    sample.sort()
    value = quantile(sample, percent)
    if value is None:
        return
    assert sum(one <= value for one in sample) * 100 >= percent * len(sample)
    assert sum(one < value for one in sample) * 100 < percent * len(sample)

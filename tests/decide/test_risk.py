"""P-values and bounds of finite samples: against exact sums, and by what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.stats.risk import (
    binomial_cdf,
    p_at_least,
    p_at_most,
    p_mean_at_most,
    passing,
)

levels = st.floats(0.001, 0.999)


def exact(hits: int, trials: int, level: float) -> float:
    return math.fsum(math.comb(trials, k) * level**k * (1 - level) ** (trials - k) for k in range(hits + 1))


@settings(deadline=None)
@given(st.integers(1, 120), levels)
def test_the_distribution_is_the_exact_one(trials: int, level: float) -> None:
    told = binomial_cdf(trials, level)
    assert told == pytest.approx([exact(k, trials, level) for k in range(trials + 1)], abs=1e-12)


def test_certain_and_impossible_hits() -> None:
    assert binomial_cdf(3, 0).tolist() == [1, 1, 1, 1]
    assert binomial_cdf(3, 1).tolist() == [0, 0, 0, 1]
    assert p_at_most(np.array([0, 3]), 0, 0.5).tolist() == [1, 1]


@settings(deadline=None)
@given(st.integers(1, 200), levels, st.data())
def test_both_sides_mirror_each_other(trials: int, level: float, data: st.DataObject) -> None:
    hits = np.array([data.draw(st.integers(0, trials))])
    assert p_at_least(hits, trials, level) == pytest.approx(p_at_most(trials - hits, trials, 1 - level))


@pytest.mark.parametrize("level", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("risk", [0.01, 0.05, 0.2])
def test_the_exact_test_errs_at_most_as_often_as_it_may(level: float, risk: float) -> None:
    """Where the chance of a hit is exactly the level, a p-value below the risk is as rare as the risk says."""
    for trials in (1, 30, 400):
        p = p_at_most(np.arange(trials + 1), trials, level)
        chance = np.diff(np.concatenate(([0.0], binomial_cdf(trials, level))))
        assert chance[p <= risk].sum() <= risk + 1e-12


@pytest.mark.parametrize(("level", "alpha", "beta"), [(0.05, 0.2, 3.8), (0.3, 3, 7), (0.5, 1, 1), (0.7, 0.7, 0.3)])
def test_the_test_of_a_mean_errs_at_most_as_often_as_it_may(level: float, alpha: float, beta: float) -> None:
    draws = np.random.default_rng(1)
    for trials in (20, 200):
        means = draws.beta(alpha, beta, (4000, trials)).mean(axis=1)
        assert (p_mean_at_most(means, trials, level) <= 0.1).mean() <= 0.1


@settings(deadline=None)
@given(st.integers(1, 300), levels, st.floats(0, 1), st.floats(0, 1))
def test_a_smaller_mean_is_never_more_doubtful(trials: int, level: float, one: float, other: float) -> None:
    low, high = p_mean_at_most(np.array(sorted((one, other))), trials, level)
    assert 0 <= low <= high + 1e-12 <= 1 + 2e-12
    assert high >= exact(min(math.floor(trials * max(one, other)), trials), trials, level) - 1e-9 or trials * level > 1


def test_means_at_the_ends() -> None:
    assert p_mean_at_most(np.array([0.0, 0.5, 1.0]), 10, 1.0).tolist() == [0, 0, 0]
    assert p_mean_at_most(np.array([0.0, 1.0]), 10, 0.0).tolist() == [1, 1]


def test_testing_stops_at_the_first_that_fails() -> None:
    assert passing([0.01, 0.05, 0.2, 0.01], 0.05) == 2
    assert passing([0.2, 0.01], 0.05) == 0
    assert passing([0.01], 0.05) == 1
    assert passing([], 0.05) == 0

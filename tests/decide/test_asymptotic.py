"""Differences by unit: against sums done by hand, with less error where the past explains it, and honest over many looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.stats.asymptotic import (
    Estimate,
    UnitSums,
    bounds,
    mean_difference,
    ratio_difference,
    relative,
    width,
)

Floats = np.ndarray
Difference = Callable[[UnitSums, UnitSums], Estimate | None]


def unit_sums(x: Floats, y: Floats | None = None, z: Floats | None = None) -> UnitSums:
    """Of one arm, with one value for each unit."""
    second, third = (x * 0 if one is None else one for one in (y, z))
    return UnitSums(
        len(x), float(x.sum()), float(second.sum()), float(third.sum()),
        float(x @ x), float(second @ second), float(third @ third),
        float(x @ second), float(x @ third), float(second @ third),
    )  # fmt: skip


def users(draws: np.random.Generator, n: int, worse: float = 0.0) -> tuple[Floats, Floats, Floats]:
    """Of n users: dollars, requests, and dollars before. A user's price and its number of requests differ widely, and belong together."""
    price = draws.lognormal(0, 0.5, n)
    requests = 1.0 + draws.poisson(4 * price)
    before = price * (1 + draws.poisson(4 * price))
    return price * requests * draws.uniform(0.8, 1.2, n) * (1 + worse), requests, before


def test_sums_are_those_of_the_units() -> None:
    draws = np.random.default_rng(1)
    x, y, z = users(draws, 60)
    whole = unit_sums(x[:20], y[:20], z[:20]).plus(unit_sums(x[20:], y[20:], z[20:]))
    values = {"x": x, "y": y, "z": z}
    for one, other in ("xx", "xy", "zx", "yz", "zz"):
        assert whole.covariance(one, other) == pytest.approx(np.cov(values[one], values[other])[0, 1])
    assert whole.n == 60
    assert UnitSums(1, 5, 0, 0, 25).covariance("x", "x") == 0


def test_a_mean_without_a_past_is_welchs() -> None:
    draws = np.random.default_rng(2)
    one, other = draws.normal(3, 1, 50), draws.normal(4, 2, 80)
    told = mean_difference(unit_sums(one), unit_sums(other))
    assert told is not None
    assert told.value == pytest.approx(other.mean() - one.mean())
    assert told.error == pytest.approx(math.sqrt(one.var(ddof=1) / 50 + other.var(ddof=1) / 80))
    assert (told.units, told.explained) == (130, 0)


@pytest.mark.parametrize("kind", [mean_difference, ratio_difference])
def test_the_error_is_the_true_scatter(kind: Difference) -> None:
    """Over 1,500 worlds; and what was known before takes much of it away, without moving the value."""
    draws = np.random.default_rng(3)
    plain: list[Estimate] = []
    adjusted: list[Estimate] = []
    for _ in range(1500):
        arms = users(draws, 300), users(draws, 200)
        for found, told in (
            (plain, kind(*(unit_sums(x, y) for x, y, _ in arms))),
            (adjusted, kind(*(unit_sums(*arm) for arm in arms))),
        ):
            assert told is not None
            found.append(told)
    for told in (plain, adjusted):
        values = np.array([one.value for one in told])
        errors = np.array([one.error for one in told])
        assert values.std() == pytest.approx(np.sqrt((errors**2).mean()), rel=0.05)
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(1500)
    explained = 1 - np.var([one.value for one in adjusted]) / np.var([one.value for one in plain])
    assert np.mean([one.explained for one in adjusted]) == pytest.approx(explained, abs=0.05)
    assert explained > 0.3


def test_relative_harm_has_its_own_error() -> None:
    draws = np.random.default_rng(4)
    values: list[float] = []
    errors: list[float] = []
    for _ in range(1500):
        incumbent, candidate = (unit_sums(*users(draws, 300, worse)[:2]) for worse in (0, 0.2))
        rate = incumbent.x / incumbent.y
        alone = ratio_difference(incumbent, UnitSums(10**9, 1, 1))  # an arm without error leaves the incumbent's
        told = relative(ratio_difference(incumbent, candidate), rate, alone.error if alone else 0)
        assert told is not None
        values.append(told.value)
        errors.append(told.error)
    assert np.mean(values) == pytest.approx(0.2, abs=0.01)
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.05)


def test_little_says_nothing() -> None:
    few, some = UnitSums(1, 1, 1, 0, 1, 1), unit_sums(np.ones(5), np.ones(5))
    assert mean_difference(few, some) is None
    assert ratio_difference(some, few) is None
    assert ratio_difference(some, unit_sums(np.ones(5))) is None
    assert relative(None, 1, 1) is None
    assert relative(Estimate(1, 1, 5), 0, 1) is None
    assert bounds(None, 0.05, 0.05, 1000, 0) is None
    assert bounds(Estimate(0, 1, 999), 0.05, 0.05, 1000, 1000) is None
    assert bounds(Estimate(0, 1, 1000), 0.05, 0.05, 1000, 1000) is not None


@settings(deadline=None)
@given(st.floats(1e-5, 0.2), st.integers(100, 10**6))
def test_one_side_is_narrowest_near_where_it_is_tuned(alpha: float, tuned: int) -> None:
    """As a multiple of what one look would need, and never less than it."""
    units = tuned * np.geomspace(0.01, 100, 81)
    widths = [width(float(n), alpha, tuned) for n in units]
    assert 0.1 * tuned <= units[int(np.argmin(widths))] <= 10 * tuned
    assert min(widths) ** 2 >= 2 * math.log(1 / alpha) - 1e-9


@pytest.mark.parametrize("harm", [0.0, 0.3])
def test_false_alarms_over_many_looks_of_users_who_come_again(harm: float) -> None:
    """Users arrive for 60 days and each comes again for a week; 400 worlds, watched daily, held against the true harm."""
    draws = np.random.default_rng(5)
    wrong = np.zeros(2)
    for _ in range(400):
        arms = [users(draws, 3000, worse)[:2] for worse in (0.0, harm)]
        true = harm * np.exp(0.5**2 / 2) * (1 + 4 * np.exp(1.5 * 0.5**2)) / (1 + 4 * np.exp(0.5**2 / 2))
        arrived = draws.integers(0, 60, 3000)
        missed = np.zeros(2, bool)
        for day in range(6, 67):
            part = np.clip((day - arrived) / 7, 0, 1)
            told = ratio_difference(*(unit_sums((x * part)[part > 0], (y * part)[part > 0]) for x, y in arms))
            limits = bounds(told, 0.05, 0.05, 3000, 500)
            if limits is not None:
                missed |= (limits.low >= true, limits.high <= true)
        wrong += missed
    assert (wrong / 400 <= 0.05).all()

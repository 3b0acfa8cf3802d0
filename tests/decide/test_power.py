"""Numbers of observations: against published ones and simulation; delays of sequences against the sequences themselves."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.stats.mean_harm import MeanHarm
from servery.stats.power import (
    Plan,
    fixed_n,
    fixed_n_of_share,
    forecast,
    forecast_asymptotic,
    quantile_variance,
    ratio_variance,
)
from servery.stats.windows import Window, hits

DRAWS = np.random.default_rng(1).standard_normal((2000, 400))


def test_the_textbooks_number() -> None:
    """Two means half a standard deviation apart, 5 % two-sided, 80 %: 63 an arm; shares of 10 and 15 %: 686 an arm."""
    assert fixed_n(Plan(0.025), 0.5, 1, 1) == 126
    assert fixed_n_of_share(Plan(0.025), 0.10, 0.05) == pytest.approx(2 * 686, abs=10)


@given(st.floats(0.001, 0.2), st.floats(0.5, 0.95), st.floats(0.01, 0.99))
def test_the_number_follows_from_the_error(alpha: float, power: float, share: float) -> None:
    plan = Plan(alpha, power, share)
    n = fixed_n(plan, 0.01, 2.0, 3.0)
    error = math.sqrt(3.0 / (n * share) + 2.0 / (n * (1 - share)))
    assert 0.01 / error == pytest.approx(NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power), rel=1e-3)


@pytest.mark.parametrize(("base", "harm", "margin"), [(0.001, 0.0, 0.005), (0.001, 0.015, 0.005), (0.2, 0.0, 0.05)])
def test_the_number_for_shares_has_the_power(base: float, harm: float, margin: float) -> None:
    """Simulated: the score test with the variance under what is ruled out, at one share of 20 %."""
    plan = Plan(0.05, 0.8, 0.2)
    n = fixed_n_of_share(plan, base, harm, margin)
    draws, seen = np.random.default_rng(2), 0
    for _ in range(2000):
        b = int(draws.binomial(n, plan.share))
        first, second = draws.binomial(n - b, base) / (n - b), draws.binomial(b, base + harm) / b
        seen += score(first, second, margin, n - b, b) * math.copysign(1, harm - margin) > NormalDist().inv_cdf(0.95)
    assert seen / 2000 == pytest.approx(0.8, abs=0.05)


def score(first: float, second: float, margin: float, a: int, b: int) -> float:
    """Of Farrington and Manning: the likeliest shares with this difference, on a grid."""
    grid = np.geomspace(1e-6, 0.5, 20_000)
    other = grid + margin
    likely = a * (first * np.log(grid) + (1 - first) * np.log(1 - grid))
    likely += b * (second * np.log(other) + (1 - second) * np.log(1 - other))
    at = int(likely.argmax())
    spread = grid[at] * (1 - grid[at]) / a + other[at] * (1 - other[at]) / b
    return float((second - first - margin) / math.sqrt(spread))


def test_variances_for_ratios_and_quantiles() -> None:
    draws = np.random.default_rng(3)
    y = draws.gamma(4, 1, (4000, 200))
    x = 2 * y + draws.normal(0, 1, y.shape)
    spread = ratio_variance(2.0, 4.0, 4 * 4.0 + 1, 4.0, 2 * 4.0)
    assert (x.sum(axis=1) / y.sum(axis=1)).var() * 200 == pytest.approx(spread, rel=0.05)
    middle = np.median(draws.normal(0, 1, (4000, 401)), axis=1)
    assert middle.var() * 401 == pytest.approx(quantile_variance(0.5, NormalDist().pdf(0)), rel=0.06)


@pytest.mark.parametrize(("sign", "relative"), [(-1, 1.0), (1, 1.0), (1, 4.0)])
def test_the_forecast_is_what_happens(sign: int, relative: float) -> None:
    plan, base, margin = Plan(0.01, 0.8, 0.5), 0.2, 0.04
    harm = margin + sign * relative * margin
    told = forecast(plan, sign, relative, DRAWS)
    n = fixed_n_of_share(plan, base, harm, margin)
    draws, taken = np.random.default_rng(4), []
    size = math.ceil(n / 40)
    for _ in range(100):
        sequence, looks = MeanHarm(margin), 0
        while sequence.evidence(sign) < math.log(1 / plan.alpha):
            b = int(draws.binomial(size, 0.5))
            arms = hits(int(draws.binomial(size - b, base)), size - b), hits(int(draws.binomial(b, base + harm)), b)
            sequence, looks = sequence.after(Window(0.5, *arms)), looks + 1
        taken.append(looks * size / n)
    assert told.mean == pytest.approx(np.mean(taken), rel=0.2)
    assert told.most == pytest.approx(np.quantile(taken, 0.8), rel=0.25)


def test_looking_all_the_time_takes_at_most_half_as_much_again() -> None:
    for alpha in (0.05, 0.01, 0.0025):
        for sign, relative in ((-1, 1.0), (1, 1.0), (1, 2.0), (1, 4.0)):
            told = forecast(Plan(alpha), sign, relative, DRAWS)
            assert told.mean < 1.5
            assert told.mean < told.most < 2.3
            assert told.never < 0.01
        assert forecast_asymptotic(Plan(alpha), 1.0, DRAWS).mean < 1.5


def test_what_is_too_small_is_never_seen() -> None:
    assert forecast(Plan(0.01), 1, 0.01, DRAWS).never > 0.9
    assert forecast_asymptotic(Plan(0.01), 1e-4, DRAWS).mean > forecast_asymptotic(Plan(0.01), 1.0, DRAWS).mean

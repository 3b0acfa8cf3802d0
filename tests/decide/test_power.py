"""Numbers of observations: against published ones and simulation; delays of sequences against the sequences themselves."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.stats.asymptotic import Estimate, bounds
from servery.stats.power import Plan, fixed_n, forecast

DRAWS = np.random.default_rng(1).standard_normal((2000, 400))


def test_the_textbooks_number() -> None:
    """Two means half a standard deviation apart, 5 % two-sided, 80 %: 63 an arm."""
    assert fixed_n(Plan(0.025), 0.5, 1, 1) == 126


@given(st.floats(0.001, 0.2), st.floats(0.5, 0.95), st.floats(0.01, 0.99))
def test_the_number_follows_from_the_error(alpha: float, power: float, share: float) -> None:
    plan = Plan(alpha, power, share)
    n = fixed_n(plan, 0.01, 2.0, 3.0)
    error = math.sqrt(3.0 / (n * share) + 2.0 / (n * (1 - share)))
    assert 0.01 / error == pytest.approx(NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power), rel=1e-3)


def test_the_forecast_is_what_happens() -> None:
    plan = Plan(0.025)
    n = fixed_n(plan, 0.1, 1.0, 1.0)
    told = forecast(plan, 1.0, DRAWS)
    draws, taken, size = np.random.default_rng(4), [], math.ceil(n / 60)
    for _ in range(150):
        seen, total = 0, 0.0
        while True:
            seen += size
            total += draws.normal(0.1 * size, math.sqrt(4 * size))
            found = bounds(Estimate(total / seen, math.sqrt(4 / seen), seen), 0.025, 0.025, n, 0)
            if (found is not None and found.low > 0) or seen > 8 * n:
                break
        taken.append(seen / n)
    assert told.mean == pytest.approx(np.mean(taken), rel=0.2)
    assert told.most == pytest.approx(np.quantile(taken, 0.8), rel=0.3)


def test_looking_all_the_time_takes_at_most_half_as_much_again() -> None:
    for alpha in (0.05, 0.01, 0.0025):
        told = forecast(Plan(alpha), 1.0, DRAWS)
        assert told.mean < 1.5
        assert told.mean < told.most < 2.3
        assert told.never < 0.01


def test_one_that_is_tuned_for_far_fewer_sees_it_later() -> None:
    assert forecast(Plan(0.01), 1e-4, DRAWS).mean > forecast(Plan(0.01), 1.0, DRAWS).mean

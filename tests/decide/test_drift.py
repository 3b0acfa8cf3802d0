"""Drift: p-values that mean what they say, alarms as rare as declared, and shifts found that were promised to be seen."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from servery.stats.bins import BUCKETS, MISSING, bin_of, bucket_of
from servery.stats.drift import alarms, aligned, chi_square_p, compare

Draws = np.random.Generator
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def compared(draws: Draws, shift: float, ordered: bool, n: int = 2000, m: int = 500) -> tuple[float, float, float]:
    """p, distance and what would be seen, of latencies that are `shift` times longer, or of classes drawn that much more often."""
    if ordered:
        reference, window = (
            Counter(bin_of(value) for value in draws.lognormal(15 + moved, 1, size).tolist())
            for moved, size in ((0, n), (math.log(shift), m))
        )
        found = compare(*aligned(reference, window), 0.01, ordered=True)
    else:
        shares = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.06, 0.03, 0.007, 0.002, 0.001])
        moved = shares * np.where(np.arange(10) == 1, shift, 1)
        found = compare(
            draws.multinomial(n, shares).tolist(),
            draws.multinomial(m, moved / moved.sum()).tolist(),
            0.01,
            ordered=False,
        )
    assert found is not None
    return found.p, found.distance, found.seen


@settings(deadline=None)
@given(st.floats(1e-3, 400), st.integers(1, 200))
def test_chi_square_is_the_known_one(value: float, freedom: int) -> None:
    assert chi_square_p(value, freedom) == pytest.approx(
        float(scipy_stats.chi2.sf(value, freedom)), rel=1e-8, abs=1e-12
    )
    assert chi_square_p(value, 0) == chi_square_p(0, freedom) == 1


@pytest.mark.parametrize("ordered", [True, False])
def test_without_drift_small_p_values_are_rare(ordered: bool) -> None:
    draws = np.random.default_rng(1)
    p = np.array([compared(draws, 1.0, ordered)[0] for _ in range(1500)])
    for level in (0.1, 0.02):
        assert (p <= level).mean() <= level + 3 * math.sqrt(level / 1500)
    assert (p <= 0.1).any()


@pytest.mark.parametrize("ordered", [True, False])
def test_what_would_have_been_seen_is_seen(ordered: bool) -> None:
    """The shift whose true distance is the one that was promised is found in about 80 of 100 windows, or more."""
    draws = np.random.default_rng(2)
    promised = compared(draws, 1.0, ordered)[2]
    shift = 1.0
    while compared(np.random.default_rng(3), shift, ordered, 50_000, 50_000)[1] < promised:
        shift *= 1.05
    found = [compared(draws, shift, ordered)[0] <= 0.01 for _ in range(300)]
    assert np.mean(found) >= 0.75


def test_a_rule_of_thumb_for_psi_fires_without_drift() -> None:
    """PSI above 0.1 with 100 values in ten bins: in most windows that are as the reference was; by its p-value in one of 100."""
    draws, psi, p = np.random.default_rng(4), list[float](), list[float]()
    for _ in range(500):
        found = compare(
            draws.multinomial(100, [0.1] * 10).tolist(),
            draws.multinomial(100, [0.1] * 10).tolist(),
            0.01,
            ordered=False,
        )
        assert found is not None
        psi.append(found.psi)
        p.append(found.p)
    assert np.mean(np.array(psi) > 0.1) > 0.7
    assert np.mean(np.array(p) <= 0.01) <= 0.03


def test_alarms_come_as_rarely_as_stated_over_all_features() -> None:
    """Thirty features that go together in threes, a false alarm once in twenty windows; two of them drifting are found."""
    draws = np.random.default_rng(5)
    alarmed, found, wrong = 0, 0, list[float]()
    for _ in range(600):
        p = np.repeat(draws.random(10), 3)
        alarmed += alarms(p.tolist(), 20).any()
        p[:2] = draws.random(2) * 1e-4
        flags = alarms(p.tolist(), 20)
        found += int(flags[:2].sum())
        wrong.append(float(flags[3:].sum() / flags.sum()))
    assert alarmed / 600 <= 0.05 + 3 * math.sqrt(0.05 / 600)
    assert found == 1200
    assert np.mean(wrong) <= 0.05


@given(FLOATS, FLOATS)
def test_bins_rise_with_their_values(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert bin_of(low) <= bin_of(high)
    assert bin_of(-one) == -bin_of(one)
    if 1e-8 < abs(one) < 1e14:
        assert abs(bin_of(one * 1.02) - bin_of(one)) in (1, 2, 3)


def test_what_is_no_number_has_a_bin_of_its_own() -> None:
    assert {bin_of(value) for value in (math.nan, math.inf, -math.inf)} == {MISSING}
    assert bin_of(-1e300) > MISSING
    assert bin_of(0.0) == bin_of(1e-300) == 0
    assert all(0 <= bucket_of(str(at).encode()) < BUCKETS for at in range(1000))


def test_bins_are_put_side_by_side() -> None:
    assert aligned({3: 1, -2: 5}, {0: 2, 3: 4}) == ([5, 0, 1], [0, 2, 4])

"""Drift: p-values that mean what they say, alarms as rare as declared, and shifts found that were promised to be seen."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from servery.stats.drift import MeanShift, alarms, binned, chi_square_p, compare, edges, mean_shift
from servery.stats.sketch import Sketch
from servery.stats.windows import Sums, hits
from streams import sketch_of, sums_of

Draws = np.random.Generator


def compared(draws: Draws, shift: float, ordered: bool, n: int = 2000, m: int = 500) -> tuple[float, float, float]:
    """p, distance and what would be seen, of latencies that are `shift` times longer, or of classes drawn that much more often."""
    if ordered:
        reference = sketch_of(draws.lognormal(15, 1, n))
        ends = edges(reference)
        found = compare(
            binned(reference, ends),
            binned(sketch_of(draws.lognormal(15 + math.log(shift), 1, m)), ends),
            0.01,
            ordered=True,
        )
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
    while compared(np.random.default_rng(3), shift, ordered, 200_000, 200_000)[1] < promised:
        shift *= 1.02
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


def test_bins_are_parts_of_the_reference() -> None:
    draws = np.random.default_rng(6)
    reference = sketch_of(draws.lognormal(15, 1, 10_000))
    ends = edges(reference, 10)
    parts = binned(reference, ends)
    assert (len(ends), len(parts), sum(parts)) == (9, 10, 10_000)
    assert max(parts) < 1300
    other = sketch_of(draws.lognormal(18, 1, 500))
    assert sum(binned(other, ends)) == 500
    assert binned(other, ends)[-1] > 400
    assert binned(other, ()) == (500,)
    assert edges(Sketch()) == ()
    same = sketch_of(np.full(100, 7.0))
    assert binned(same, edges(same)) == (100, 0)


def test_what_was_never_there_before_is_drift() -> None:
    new = compare([500, 500, 0], [40, 40, 20], 0.001, ordered=False)
    assert new is not None
    assert new.p < 1e-9
    assert new.distance == pytest.approx(0.2)
    odd = compare([9_990, 0, 0, 10], [990, 4, 4, 2], 0.001, ordered=False)  # each rare, together not
    assert odd is not None
    assert odd.p < 1e-4
    assert compare([], [1], 0.01, ordered=True) is None
    assert compare([1, 2], [0, 0], 0.01, ordered=False) is None
    one = compare([100], [100], 0.01, ordered=False)
    assert one is not None
    assert (one.p, one.seen) == (1, 1)
    few = compare([3, 0, 1], [1, 1, 0], 0.01, ordered=False)
    assert few is not None
    assert few.p == 1
    rare = compare([995, 5], [98, 2], 0.01, ordered=False)
    assert rare is not None
    assert rare.p == pytest.approx(2 * float(scipy_stats.hypergeom.sf(1, 1100, 7, 100)))


def first_alarm(watch: MeanShift, windows: np.ndarray, n: int) -> int:
    for number, one in enumerate(windows, 1):
        watch = watch.after(hits(float(one), n))
        if watch.alarm:
            return number
    return len(windows)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("base", [0.01, 0.7])
def test_the_time_between_false_alarms_is_at_least_the_stated_one(sign: int, base: float) -> None:
    """At the level itself, which is the hardest; 60 worlds, at least 50 windows of 40 on average."""
    draws, watch = np.random.default_rng(7), MeanShift(base, sign, 50, 0.05, base * (1 - base))
    times = [first_alarm(watch, draws.binomial(40, base, 600), 40) for _ in range(60)]
    assert np.mean(times) >= 50
    assert min(times) < 600


def test_a_change_is_found_whenever_it_comes() -> None:
    """Accuracy falls from 90 to 85 %, after a long time in which it didn't; and by as much as was promised to be seen."""
    draws = np.random.default_rng(8)
    watch = mean_shift(hits(9_000, 10_000), -1, between=1000, effect=0.05)
    assert watch.level == pytest.approx(0.891)
    late = np.concatenate([draws.binomial(100, 0.9, 300), draws.binomial(100, 0.85, 200)])
    assert 300 < first_alarm(watch, late, 100) < 340
    fallen = watch.level - watch.seen(20 * 100)
    times = np.array([first_alarm(watch, draws.binomial(100, fallen, 60), 100) for _ in range(100)])
    assert 0.7 <= (times <= 20).mean() <= 1


def test_costs_that_rise_are_found_in_their_own_units() -> None:
    draws = np.random.default_rng(9)
    reference = sums_of(np.minimum(draws.pareto(1.5, 20_000), 50.0))
    watch = mean_shift(reference, 1, between=1000, effect=0.5, cap=50.0)
    windows = 0
    while not watch.alarm:
        watch, windows = watch.after(sums_of(np.minimum(1.5 * draws.pareto(1.5, 200), 50.0))), windows + 1
    assert windows < 60
    assert msgspec.json.decode(msgspec.json.encode(watch), type=MeanShift) == watch


def test_no_data_is_no_alarm() -> None:
    watch = mean_shift(hits(0, 500), 1, between=10, effect=0.01)
    for _ in range(100):
        watch = watch.after(Sums())
    assert not watch.alarm
    for _ in range(3):
        watch = watch.after(hits(3, 20))
    assert watch.alarm

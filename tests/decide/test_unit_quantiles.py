"""An arm's quantile beside the control's, by the unit: how sure it is depends on units, and nothing is said beyond what was seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from servery.control.compare import compare
from servery.stats.sketch import RATIO, index_of
from servery.stats.unit_quantiles import Tallied, bin_of, quantile_of, slower, slower_bounds
from servery.terms.experiments import Arm, Design, Metric
from servery.terms.rollouts import Verdict

RISKS = (0.025, 0.025)
P90 = Metric("latency", 0.1, quantile=0.9)


def tallied(seed: int, units: int, visits: int, alike: float, scale: float = 1.0, quantile: float = 0.9) -> Tallied:
    """Lognormal seconds, of whose logarithms the variance 1 lies to this part between units."""
    draws = np.random.default_rng(seed)
    logs = math.sqrt(alike) * draws.standard_normal((units, 1)) + math.sqrt(1 - alike) * draws.standard_normal(
        (units, visits)
    )
    index = np.vectorize(index_of)(scale * np.exp(logs) * 1e9)
    at, counts = np.unique(index, return_counts=True)
    bins = tuple(zip(at.tolist(), counts.tolist(), strict=True))
    x = (index >= bin_of(bins, quantile)).sum(axis=1).astype(float)
    y = np.full(units, float(visits))
    return Tallied(units, x=x.sum(), y=y.sum(), xx=x @ x, yy=float(y @ y), xy=x @ y, bins=bins)


def test_a_quantile_is_known_to_its_bin() -> None:
    found = quantile_of(tallied(1, 40_000, 1, 0.0), 0.9)
    assert found == pytest.approx(math.exp(1.2816), rel=0.03)
    assert bin_of(((3, 1), (5, 8), (9, 1)), 0.9) == 5
    assert bin_of(((3, 1), (5, 8), (9, 1)), 0.91) == 9
    assert quantile_of(Tallied(), 0.9) == 0


def test_the_error_is_what_repeated_samples_have() -> None:
    """Alike within units, so that the error is over three times that of as many requests with nothing in common."""
    pairs = [(tallied(seed, 1000, 20, 0.8), tallied(seed + 500, 1000, 20, 0.8)) for seed in range(60)]
    found = [slower(*pair, 0.9) for pair in pairs]
    logs = np.array([math.log1p(one.value) for one in found if one is not None])
    errors = np.array([one.error for one in found if one is not None])
    assert len(logs) == 60
    assert logs.std() == pytest.approx(errors.mean(), rel=0.35)
    unlike = slower(tallied(1, 20_000, 1, 0.0), tallied(2, 20_000, 1, 0.0), 0.9)
    assert unlike is not None
    assert errors.mean() > 2.5 * unlike.error


def test_bounds_hold_the_truth_and_are_one_sided_as_they_are_asked() -> None:
    control, arm = tallied(1, 4000, 3, 0.5), tallied(2, 4000, 3, 0.5, scale=1.5)
    found = slower_bounds(control, arm, 0.9, RISKS, tuned=8000, least=1000)
    assert found is not None
    assert 0.2 < found.low < 0.5 < found.high < 0.9
    back = slower_bounds(arm, control, 0.9, RISKS, tuned=8000, least=1000)
    assert back is not None
    assert (1 + back.low) * (1 + found.high) == pytest.approx(1)
    surer = slower_bounds(control, arm, 0.9, (0.001, 0.025), tuned=8000, least=1000)
    assert surer is not None
    assert surer.low < found.low
    assert surer.high == found.high


def test_nothing_is_said_too_early_or_beyond_what_was_seen() -> None:
    some = tallied(1, 600, 1, 0.0, quantile=0.999), tallied(2, 600, 1, 0.0, quantile=0.999)
    assert slower_bounds(*some, 0.999, RISKS, tuned=2000, least=1000) is None
    few = tallied(1, 400, 9, 0.0), tallied(2, 400, 9, 0.0)
    assert slower_bounds(*few, 0.9, RISKS, tuned=2000, least=1000) is None
    assert slower_bounds(*few, 0.9, RISKS, tuned=2000, least=800) is not None
    assert slower(Tallied(), few[0], 0.9) is None


def test_where_all_take_as_long_a_bin_is_what_stays_open() -> None:
    same = Tallied(1000, x=1000, y=1000, xx=1000, yy=1000, xy=1000, bins=((900, 1000),))
    found = slower_bounds(same, same, 0.9, RISKS, tuned=2000, least=1000)
    assert found is not None
    assert 0 < found.high < RATIO - 1
    assert found.low < 0


def test_an_experiment_is_decided_by_it() -> None:
    design = Design("r", (Arm("old", 0.5), Arm("new", 0.5)), P90)
    (worse,) = compare(design, [{"old": tallied(1, 4000, 3, 0.5), "new": tallied(2, 4000, 3, 0.5, scale=1.5)}])
    assert (worse.verdict, worse.metric) == (Verdict.WORSE, "latency p90")
    assert worse.value / worse.control - 1 == pytest.approx(worse.harm)
    (open_,) = compare(design, [{"old": tallied(1, 4000, 3, 0.5)}])
    assert open_.verdict is Verdict.NOT_YET

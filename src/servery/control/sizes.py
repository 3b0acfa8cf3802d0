"""How many units an Experiment needs, and how long that takes: forecast before it starts. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from servery.stats.asymptotic import UnitSums
from servery.stats.bets import Floats
from servery.stats.power import Plan, fixed_n, forecast
from servery.terms.experiments import Design, Metric


class Baseline(msgspec.Struct, frozen=True):
    """What units are like without the experiment: their mean (of a ratio its value), the variance of one, and how many come a day."""

    mean: float
    variance: float
    units_a_day: float


class Size(msgspec.Struct, frozen=True):
    """What it takes to see a difference of the margin in one arm. Units are those of the arm and the control together.

    `fixed` with one look at the end, `mean` and `most` (in 80 of 100 cases) when one looks all the time; `days` are for `most`.
    """

    arm: str
    gap: float
    fixed: int
    mean: int
    most: int
    days: float


def baseline_of(metric: Metric, sums: UnitSums, days: float) -> Baseline:
    """From unit sums that were seen in so many days. ValueError where they say nothing."""
    if sums.n < 2 or (metric.per == "request" and not sums.y):
        raise ValueError("too little was seen to say what is normal")
    if metric.per == "unit":
        return Baseline(sums.x / sums.n, sums.covariance("x", "x"), sums.n / days)
    ratio, scale = sums.x / sums.y, sums.n / sums.y
    spread = sums.covariance("x", "x") - 2 * ratio * sums.covariance("x", "y") + ratio**2 * sums.covariance("y", "y")
    return Baseline(ratio, spread * scale**2, sums.n / days)


def sizes(design: Design, baseline: Baseline, power: float, draws: Floats) -> Sequence[Size]:
    """For each arm; `draws` as `stats.power.forecast` wants them. ValueError where nothing varies, or no margin is left."""
    metric, control = design.primary, design.arms[0]
    gap = metric.margin * (abs(baseline.mean) if metric.relative else 1.0)
    if not baseline.variance > 0 or not gap > 0:
        raise ValueError("what was seen doesn't vary at all, so nothing can be forecast from it")
    found: list[Size] = []
    for arm in design.arms[1:]:
        both = control.share + arm.share
        plan = Plan(design.false_winners / (len(design.arms) - 1) / 2, power, arm.share / both)
        fixed = fixed_n(plan, gap, baseline.variance, baseline.variance)
        delay = forecast(plan, design.units / fixed, draws)
        taken = [max(math.ceil(times * fixed), design.min_units) for times in (delay.mean, delay.most)]
        a_day = baseline.units_a_day * both
        found.append(Size(arm.name, gap, fixed, *taken, days=taken[1] / a_day if a_day else math.inf))
    return found

"""How many observations it takes: with one look at the end, and when one looks all the time."""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.stats.asymptotic import width
from servery.stats.bets import PASSED, WORSE, Floats

_HORIZON = 8.0  # times the fixed number up to which a forecast looks


class Plan(msgspec.Struct, frozen=True):
    """The one-sided risk, the chance to see the effect, and the candidate's share of what is observed."""

    alpha: float
    power: float = 0.8
    share: float = 0.5

    @property
    def wanted(self) -> float:
        """How many standard errors the effect must be."""
        return _normal(1 - self.alpha) + _normal(self.power)


def fixed_n(plan: Plan, gap: float, incumbent: float, candidate: float) -> int:
    """Observations of both arms together, looked at once, to see that means differ by `gap`; the arms' variances are given.

    A gap is the distance from what is to be ruled out: from the margin, or from no harm.
    """
    return math.ceil(plan.wanted**2 * _spread(plan, incumbent, candidate) / gap**2)


def fixed_n_of_share(plan: Plan, incumbent: float, harm: float, margin: float = 0.0) -> int:
    """The same for shares such as error rates: the incumbent's is given, the candidate's is `harm` more; `margin` is to be ruled out.

    Farrington and Manning (1990), Test statistics and sample size formulae for comparative binomial trials, Statistics in
    Medicine 9: where a margin is large beside the share, the variance under what is ruled out is far from the true one.
    """
    candidate = incumbent + harm
    near = _nearest(incumbent, candidate, margin, plan.share)
    ruled_out = _spread(plan, near * (1 - near), (near + margin) * (1 - near - margin))
    true = _spread(plan, incumbent * (1 - incumbent), candidate * (1 - candidate))
    root = _normal(1 - plan.alpha) * math.sqrt(ruled_out) + _normal(plan.power) * math.sqrt(true)
    return math.ceil(root**2 / (harm - margin) ** 2)


def ratio_variance(ratio: float, y: float, xx: float, yy: float, xy: float) -> float:
    """Variance by unit for `fixed_n` of Σx/Σy, by the delta method: the mean of y, the (co)variances of x and y over units."""
    return (xx - 2 * ratio * xy + ratio**2 * yy) / y**2


def quantile_variance(quantile: float, density: float) -> float:
    """Variance by value for `fixed_n` of a quantile; `density` is that of the values at it (of their logarithms, for ratios).

    Bahadur (1966), A note on quantiles in large samples.
    """
    return quantile * (1 - quantile) / density**2


class Delay(msgspec.Struct, frozen=True):
    """When a sequence that is looked at all the time sees the effect, in multiples of the fixed n: on average, and in 80 of 100 cases.

    `never` is the part that hadn't seen it at eight times the fixed n.
    """

    mean: float
    most: float
    never: float


def forecast(plan: Plan, sign: int, relative: float, draws: Floats) -> Delay:
    """Of `MeanHarm` and `QuantileHarm`, in the limit of small effects: shown to be worse (sign 1), or to have passed (-1).

    `relative` is the true gap in multiples of the effect that the sequence is tuned for. `draws` are standard normal, one row
    for each imagined run, one column for each of its looks (about 400 are enough).
    """
    bets = WORSE if sign > 0 else PASSED
    at, time = _paths(plan, draws)
    logs = np.full(at.shape, -np.inf)
    for size, part in zip(bets.sizes, bets.parts, strict=True):
        bet = size * plan.wanted / relative
        logs = np.logaddexp(logs, bet * at - bet * bet * time / 2 + math.log(part))
    return _delay(logs >= math.log(1 / plan.alpha), time)


def forecast_asymptotic(plan: Plan, tuned: float, draws: Floats) -> Delay:
    """The same for `asymptotic.bounds`, tuned for so many times the fixed n."""
    at, time = _paths(plan, draws)
    limits = np.array([math.sqrt(one) * width(one, plan.alpha, tuned) for one in time])
    return _delay(at >= limits, time)


def _paths(plan: Plan, draws: Floats) -> tuple[Floats, Floats]:
    """Sums of observations whose variance by fixed n is 1."""
    step = _HORIZON / draws.shape[1]
    time: Floats = np.cumsum(np.full(draws.shape[1], step))
    return np.cumsum(draws, axis=1) * math.sqrt(step) + plan.wanted * time, time


def _delay(crossed: NDArray[np.bool_], time: Floats) -> Delay:
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), len(time) - 1)
    taken = time[first]
    return Delay(float(taken.mean()), float(np.quantile(taken, 0.8)), float(1 - crossed.any(axis=1).mean()))


def _normal(chance: float) -> float:
    return NormalDist().inv_cdf(chance)


def _spread(plan: Plan, incumbent: float, candidate: float) -> float:
    return candidate / plan.share + incumbent / (1 - plan.share)


def _nearest(incumbent: float, candidate: float, margin: float, share: float) -> float:
    """Of all pairs of shares that differ by `margin` the incumbent's in the likeliest, by bisection."""
    low, high = max(0.0, -margin), min(1.0, 1 - margin)
    for _ in range(100):
        middle = (low + high) / 2
        other = middle + margin
        slope = (1 - share) * (middle - incumbent) / (middle * (1 - middle))
        slope += share * (other - candidate) / (other * (1 - other))
        low, high = (middle, high) if slope < 0 else (low, middle)
    return (low + high) / 2

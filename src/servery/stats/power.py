"""How many observations it takes to see an effect: with one look at the end, and when one looks all the time."""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.stats.asymptotic import width
from servery.stats.bets import Floats

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
    """Observations of both arms together, looked at once, to see that means differ by `gap`; the arms' variances are given."""
    spread = candidate / plan.share + incumbent / (1 - plan.share)
    return math.ceil(plan.wanted**2 * spread / gap**2)


class Delay(msgspec.Struct, frozen=True):
    """When a sequence that is looked at all the time sees the effect, in multiples of the fixed n: on average, and in 80 of 100 cases.

    `never` is the part that hadn't seen it at eight times the fixed n.
    """

    mean: float
    most: float
    never: float


def forecast(plan: Plan, tuned: float, draws: Floats) -> Delay:
    """Of `asymptotic.bounds`, tuned for so many times the fixed n.

    `draws` are standard normal, one row for each imagined run, one column for each of its looks (about 400 are enough).
    """
    step = _HORIZON / draws.shape[1]
    time: Floats = np.cumsum(np.full(draws.shape[1], step))
    at = np.cumsum(draws, axis=1) * math.sqrt(step) + plan.wanted * time
    limits = np.array([math.sqrt(one) * width(one, plan.alpha, tuned) for one in time])
    return _delay(at >= limits, time)


def _delay(crossed: NDArray[np.bool_], time: Floats) -> Delay:
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), len(time) - 1)
    taken = time[first]
    return Delay(float(taken.mean()), float(np.quantile(taken, 0.8)), float(1 - crossed.any(axis=1).mean()))


def _normal(chance: float) -> float:
    return NormalDist().inv_cdf(chance)

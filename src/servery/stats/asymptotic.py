"""Differences of means and of ratios between arms of units (users, sessions), with covariates; valid at every look, in the limit.

A unit is assigned once and may come often: its requests belong together, so a unit is one observation, with the sums over
its requests so far. Nothing is known about how large those get, so what holds is a central limit theorem that holds at all
times: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Time-uniform central limit theory and asymptotic confidence
sequences, Annals of Statistics 52 (6) (arXiv 2103.06476). Below a declared number of units nothing is told.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from servery.stats.windows import Bounds


class UnitSums(msgspec.Struct, frozen=True):
    """Over the units of one arm: of x (what is measured), y (what it is divided by), z (known before the start), and products.

    For a mean per unit y stays 0. For a ratio such as dollars per request x and y are the unit's own sums of both.
    """

    n: int = 0
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    zz: float = 0.0
    xy: float = 0.0
    xz: float = 0.0
    yz: float = 0.0

    def plus(self, other: UnitSums) -> UnitSums:
        mine, others = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return UnitSums(*(one + more for one, more in zip(mine, others, strict=True)))

    def covariance(self, one: str, other: str) -> float:
        """Between two of x, y and z, over the units; 0 for fewer than two."""
        product = getattr(self, one + other) if one <= other else getattr(self, other + one)
        if self.n < 2:
            return 0.0
        return (product - getattr(self, one) * getattr(self, other) / self.n) / (self.n - 1)


class Estimate(msgspec.Struct, frozen=True):
    """Of a harm: its value, its standard error, from so many units; `explained` is the part of the variance that z took away."""

    value: float
    error: float
    units: int
    explained: float = 0.0


def mean_difference(incumbent: UnitSums, candidate: UnitSums) -> Estimate | None:
    """Candidate's mean of x per unit - incumbent's. Adjusted by z wherever z varies; None with fewer than two units an arm."""
    if min(incumbent.n, candidate.n) < 2:
        return None
    return _difference(*(_Arm(one, one.x / one.n, 1.0, 0.0) for one in (incumbent, candidate)))


def ratio_difference(incumbent: UnitSums, candidate: UnitSums) -> Estimate | None:
    """Candidate's Σx/Σy - incumbent's, by the delta method; None too where an arm's Σy is 0.

    Deng, Knoblich and Lu (2018), Applying the delta method in metric analytics, KDD.
    """
    arms = (incumbent, candidate)
    if min(one.n for one in arms) < 2 or any(one.y == 0 for one in arms):
        return None
    # Near the truth a ratio moves as the mean of (x - ratio · y) / mean of y.
    return _difference(*(_Arm(one, one.x / one.y, one.n / one.y, -one.x * one.n / one.y**2) for one in arms))


def relative(estimate: Estimate | None, incumbent: float, error: float) -> Estimate | None:
    """The same harm as a part of the incumbent's value, whose standard error is `error`; None where that is 0."""
    if estimate is None or incumbent == 0:
        return None
    value = estimate.value / incumbent
    # The candidate's own part of the error, and the incumbent's, which also moves what is divided by.
    candidate = max(estimate.error**2 - error**2, 0.0)
    spread = math.sqrt(candidate + ((1 + value) * error) ** 2) / abs(incumbent)
    return Estimate(value, spread, estimate.units, estimate.explained)


def bounds(estimate: Estimate | None, low: float, high: float, tuned: int, least: int) -> Bounds | None:
    """(low, high) with these risks, in the limit at any look; narrowest around `tuned` units; None below `least` units."""
    if estimate is None or estimate.units < least:
        return None
    return Bounds(
        estimate.value - estimate.error * width(estimate.units, low, tuned),
        estimate.value + estimate.error * width(estimate.units, high, tuned),
    )


def width(units: float, alpha: float, tuned: float) -> float:
    """Of one side, in standard errors (the paper's proposition B.1, tuned by its equation for the two-sided one at 2α)."""
    loud = -2 * math.log(min(2 * alpha, 0.5))
    scaled = units * (loud + math.log(1 + loud)) / tuned
    return math.sqrt(2 * (scaled + 1) / scaled * math.log1p(math.sqrt(scaled + 1) / (2 * alpha)))


class _Arm(NamedTuple):
    """Its sums and its value, whose error is that of the mean over units of a·x + b·y."""

    sums: UnitSums
    value: float
    a: float
    b: float

    @property
    def variance(self) -> float:
        x, xy, y = (self.sums.covariance(*pair) for pair in ("xx", "xy", "yy"))
        return self.a**2 * x + 2 * self.a * self.b * xy + self.b**2 * y

    @property
    def shared(self) -> float:
        """Covariance with z."""
        return self.a * self.sums.covariance("x", "z") + self.b * self.sums.covariance("y", "z")


def _difference(incumbent: _Arm, candidate: _Arm) -> Estimate:
    """Of two arms' values, less what z explains of it.

    CUPED: Deng, Xu, Kohavi and Walker (2013), Improving the sensitivity of online controlled experiments, WSDM.
    """
    arms = (incumbent, candidate)
    known = sum((one.sums.n - 1) * one.sums.covariance("z", "z") for one in arms)
    slope = sum((one.sums.n - 1) * one.shared for one in arms) / known if known > 0 else 0.0
    before, after = (one.value - slope * one.sums.z / one.sums.n for one in arms)
    plain = sum(one.variance / one.sums.n for one in arms)
    taken = sum((2 * slope * one.shared - slope**2 * one.sums.covariance("z", "z")) / one.sums.n for one in arms)
    error = math.sqrt(max(plain - taken, 0.0))
    return Estimate(after - before, error, incumbent.sums.n + candidate.sums.n, taken / plain if plain > 0 else 0.0)

"""How many times slower an arm's quantile is than the control's, where a unit's requests belong together; valid at every look, in the limit.

Requests of one unit are alike, so how sure a quantile is depends on units, not on requests. The interval of an arm is Woodruff's
(1952, Confidence intervals for medians and other position measures, Journal of the American Statistical Association 47):
that of the share of requests above the quantile, read off as times at the arm's own distribution. The share is a ratio of sums over
units, whose error is that of the delta method (Deng, Knoblich and Lu 2018, Applying the delta method in metric analytics, KDD), and it
is as wide as `asymptotic.width` has it. Both arms' intervals are put together on the scale of logarithms by MOVER (Zou and Donner
2008, Construction of confidence limits about effect measures: a general approach, Statistics in Medicine 27: square and add).

Times are counted in the bins of `sketch`, each 2 % wide; bounds are rounded outwards to edges of bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from servery.stats.asymptotic import Estimate, UnitSums, width
from servery.stats.sketch import ERROR, RATIO, edge
from servery.stats.windows import Bounds

_BIN = math.log(RATIO)
Bins = Sequence[tuple[int, int]]  # of `sketch`, in order, each with its count


class Tallied(UnitSums, frozen=True):
    """Over the units of one arm: x is how many of a unit's requests lie in the quantile's bin or above, y how many were
    answered; `bins` counts those of all units.
    """

    bins: tuple[tuple[int, int], ...] = ()


def bin_of(bins: Bins, share: float) -> int:
    """The bin of the smallest value with at least this share of all at or below it. ValueError without values."""
    if not bins:
        raise ValueError("nothing was counted")
    wanted, seen = share * sum(count for _, count in bins), 0
    for index, count in bins:
        seen += count
        if seen >= wanted:
            return index
    return bins[-1][0]


def quantile_of(tallied: Tallied, quantile: float) -> float:
    """In seconds, to 1 %; 0 where nothing was counted."""
    return edge(bin_of(tallied.bins, quantile)) * (1 - ERROR) / 1e9 if tallied.bins else 0.0


def slower(control: Tallied, arm: Tallied, quantile: float) -> Estimate | None:
    """By how much of the control's the arm's quantile is greater. The error is that of the logarithm, by both bounds at two
    standard errors; None with fewer than two units an arm, or where those leave what was seen.
    """
    both = [_log_bounds(one, quantile, 2.0) for one in (control, arm)]
    if both[0] is None or both[1] is None:
        return None
    error = math.hypot(*((high - low) / 4 for low, _, high in (both[0], both[1])))
    return Estimate(math.expm1(both[1][1] - both[0][1]), error, control.n + arm.n)


def slower_bounds(
    control: Tallied, arm: Tallied, quantile: float, risks: tuple[float, float], tuned: int, least: int
) -> Bounds | None:
    """Of the same harm, (low, high) with these risks, in the limit at any look; narrowest around `tuned` units. None below
    `least` units, and where they leave what was seen.
    """
    units = control.n + arm.n
    if units < least:
        return None
    edges: list[float] = []
    for side, risk in zip((-1, 1), risks, strict=True):
        wide = width(units, risk, tuned)
        first, second = (_log_bounds(one, quantile, wide) for one in (control, arm))
        if first is None or second is None:
            return None
        towards = first[1] - first[1 + -side], second[1] - second[1 + side]
        edges.append(math.expm1(second[1] - first[1] + side * math.hypot(*towards)))
    return Bounds(*edges)


def _log_bounds(tallied: Tallied, quantile: float, wide: float) -> tuple[float, float, float] | None:
    """Logarithms of (low, value, high) of an arm's quantile, so many standard errors apart."""
    if tallied.n < 2 or not tallied.y:
        return None
    reach = wide * _error(tallied, quantile)
    if not 0 < quantile - reach < quantile + reach < 1:
        return None
    low, value, high = (bin_of(tallied.bins, quantile + by) for by in (-reach, 0.0, reach))
    return (low - 1) * _BIN, (value - 0.5) * _BIN, high * _BIN


def _error(tallied: Tallied, quantile: float) -> float:
    """Of the share at or above the quantile's bin, and at least that of as many requests which have nothing in common."""
    share = tallied.x / tallied.y
    x, xy, y = (tallied.covariance(*pair) for pair in ("xx", "xy", "yy"))
    variance = (x - 2 * share * xy + share**2 * y) * tallied.n / tallied.y**2
    return math.sqrt(max(variance, quantile * (1 - quantile) / tallied.y))

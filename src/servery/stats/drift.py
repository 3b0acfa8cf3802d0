"""Whether what comes in has changed, with thresholds that follow from how often one wants to be alarmed for nothing.

Whoever asks states the time between false alarms. Windows are compared with a reference: each feature of each window has a
p-value under "nothing changed", so the chance of a false alarm in a window is its length over that time, for all together.

A threshold on a distance itself (PSI above 0.1) is none of that: without any change PSI is about (1/n + 1/m)·χ²(bins - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.stats.bets import Floats

_POWER = 0.8
_TERMS = 500
_EXACT = 1e-15
_RARE = 5.0  # fewer expected than this in a bin, and it joins the others that are rare


class Drift(msgspec.Struct, frozen=True):
    """`distance` is the greatest difference of cumulative shares (ordered) or half the sum of differences of shares (else); `psi`
    is told for those who know it; `seen` is the distance that would have been noticed in 80 of 100 windows like this."""

    distance: float
    psi: float
    p: float
    seen: float


def compare(reference: Sequence[int], window: Sequence[int], alpha: float, *, ordered: bool) -> Drift | None:
    """Counts in the same bins, of the reference and of a window; None without counts. `alpha` is the risk that `seen` is told for.

    Ordered bins (numbers) are compared by Kolmogorov and Smirnov's distance with the bound of Dvoretzky, Kiefer and
    Wolfowitz for two samples (Wei and Dudley 2012, Statistics & Probability Letters 82 (3)), others (categories) by χ².
    """
    first, second = (np.asarray(one, np.float64) for one in (reference, window))
    n, m = float(first.sum()), float(second.sum())
    if not n or not m:
        return None
    size = n * m / (n + m)
    psi = _psi(first, second)
    if ordered:
        distance = float(np.abs(np.cumsum(first) / n - np.cumsum(second) / m).max())
        p = min(1.0, 2 * math.exp(-2 * size * distance**2))
        seen = math.sqrt(math.log(2 / alpha) / (2 * size)) + NormalDist().inv_cdf(_POWER) / (2 * math.sqrt(size))
        return Drift(distance, psi, p, min(seen, 1.0))
    distance = float(np.abs(first / n - second / m).sum() / 2)
    # What is too rare for χ² counts as one class more, which is compared with all others exactly.
    rare = (first + second) * min(n, m) / (n + m) < _RARE
    freedom = max(int((~rare).sum()) - 1, 0)
    parts = 2 if freedom and rare.any() else 1
    p = chi_square_p(_chi_square(first[~rare], second[~rare]), freedom)
    if rare.any():
        p = min(p, _exact_p(round(first[rare].sum()), round(second[rare].sum()), round(n), round(m)))
    seen = _seen_by_chi_square(max(freedom, int(rare.any())), alpha / parts, size)
    return Drift(distance, psi, min(1.0, parts * p), min(seen, 1.0))


def aligned(reference: Mapping[int, int], window: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """Counts of both in the same bins, by rising number."""
    bins = sorted(reference.keys() | window.keys())
    return [reference.get(one, 0) for one in bins], [window.get(one, 0) for one in bins]


def alarms(p_values: Sequence[float], windows_between: float) -> NDArray[np.bool_]:
    """Which features of one window drifted, if a false alarm may come once in so many windows, by any of them.

    Benjamini and Hochberg's procedure at the level 1/windows: where nothing drifted that is the chance of any alarm; where some
    did, at most that part of the alarms is expected to be false.
    """
    return benjamini_hochberg(p_values) <= 1 / windows_between


def benjamini_hochberg(p_values: Sequence[float], *, any_dependence: bool = False) -> Floats:
    """Adjusted p-values: of those at or below q a part of at most q is expected to be false findings.

    Benjamini and Hochberg (1995) for tests that are independent or go together; with `any_dependence` the greater ones of
    Benjamini and Yekutieli (2001), which hold always.
    """
    given = np.asarray(p_values, np.float64)
    order = np.argsort(given, kind="stable")
    ranks = np.arange(1, len(given) + 1)
    factor = float((1 / ranks).sum()) if any_dependence else 1.0
    stepped = np.minimum.accumulate((given[order] * factor * len(given) / ranks)[::-1])[::-1]
    return _back(np.minimum(stepped, 1.0), order)


def _back(ordered: Floats, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats:
    adjusted = np.empty(len(ordered))
    adjusted[order] = ordered
    return adjusted


def chi_square_p(value: float, freedom: int) -> float:
    """The chance that χ² with so many degrees of freedom exceeds the value; 1 for none.

    The upper incomplete gamma function by its series or its continued fraction (Numerical Recipes, section 6.2).
    """
    a, x = freedom / 2, value / 2
    if freedom < 1 or x <= 0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        for step in range(1, _TERMS):
            term *= x / (a + step)
            total += term
            if term < _EXACT * total:
                break
        return max(0.0, 1 - front * total)
    b, d = x + 1 - a, 1 / (x + 1 - a)
    c, product = 1e300, d
    for step in range(1, _TERMS):
        part = -step * (step - a)
        b += 2
        d, c = 1 / (part * d + b), b + part / c
        product *= d * c
        if abs(d * c - 1) < _EXACT:
            break
    return front * product


def _psi(first: Floats, second: Floats) -> float:
    """Population stability index, with half a count more in each bin."""
    shares = [(one + 0.5) / (one.sum() + 0.5 * len(one)) for one in (first, second)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _exact_p(first: int, second: int, n: int, m: int) -> float:
    """Of "as frequent in both", for so many hits of n and of m: twice the lesser tail of the hypergeometric distribution."""
    hits = first + second
    counts = range(max(0, hits - n), min(hits, m) + 1)
    logs = np.array([_choices(m, count) + _choices(n, hits - count) for count in counts])
    chances = np.exp(logs - logs.max())
    place = second - counts.start
    lesser = min(float(chances[: place + 1].sum()), float(chances[place:].sum()))
    return min(1.0, 2 * lesser / float(chances.sum()))


def _choices(of: int, count: int) -> float:
    """Logarithm of the number of ways to choose."""
    return math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)


def _chi_square(first: Floats, second: Floats) -> float:
    if len(first) < 2:
        return 0.0
    both = (first + second) / (first.sum() + second.sum())
    return sum(float(((one - both * one.sum()) ** 2 / (both * one.sum())).sum()) for one in (first, second))


def _seen_by_chi_square(freedom: int, alpha: float, size: float) -> float:
    """Half the sum of differences of shares with which χ² surely passes its threshold in 80 of 100 windows.

    Of such a distance t the excess of χ² is at least 4·t²·size (Cauchy and Schwarz); χ² with an excess is taken as normal.
    """
    if freedom < 1:
        return 1.0
    threshold = _least(lambda value: chi_square_p(value, freedom) <= alpha)
    normal = NormalDist().inv_cdf(_POWER)
    excess = _least(lambda one: freedom + one - normal * math.sqrt(2 * (freedom + 2 * one)) >= threshold)
    return math.sqrt(excess / (4 * size))


def _least(holds: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    while not holds(high) and high < 1e9:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high

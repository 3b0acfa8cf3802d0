"""Confidence sequences for one arm: how large a share is, and where a quantile lies. Valid at every look.

A share is held against a level by bets that one side of it would lose, as in `bets`; for zeros and ones that is the mixture
of likelihood ratios of Howard and Ramdas (2022), Sequential estimation of quantiles with applications to A/B testing and
best-arm identification, Bernoulli 28 (3), with a ladder of alternatives in the place of a beta density. What is told holds for
the average of the chances so far, whatever they were (by Hoeffding's argument, 1963, theorem 1): load may rise and fall.
"""

from __future__ import annotations

import math

import numpy as np

from servery.stats.bets import Floats, ladder
from servery.stats.sketch import LIMIT, Sketch, edge
from servery.stats.windows import Bounds

_MOST = 0.98  # of what a bet may lose at once
_PART = 1 / 4  # of the part above a quantile: a change that matters
_STEPS = 40
_BETS = ladder(-5, 5, 0, 0.6)


def log_evidence(hits: Floats, n: float, level: float, sign: int, effect: float) -> Floats:
    """Logarithms of the evidence that the chance of a hit is above `level` (sign 1), or below it (sign -1).

    For each number of hits among n. `effect` is the distance from `level` for which the bets are sized.
    """
    loss = level if sign > 0 else 1 - level
    size = sign * np.minimum(np.array(_BETS.sizes) * effect / (level * (1 - level)), _MOST / loss)
    hits = np.asarray(hits)[..., None]
    logs = hits * np.log1p(size * (1 - level)) + (n - hits) * np.log1p(-size * level)
    greatest = logs.max(axis=-1, keepdims=True)
    return greatest[..., 0] + np.log(np.exp(logs - greatest) @ np.array(_BETS.parts))


def share_bounds(hits: float, n: float, low: float, high: float, effect: float = 0.0) -> Bounds:
    """Of a chance: `low` and `high` are the risks that the bounds of these names are wrong, at any look.

    Narrowest when they are about `effect` from the share; by default a quarter of it, or of what it lacks to 1.
    """
    return Bounds(_ruled_out(hits, n, low, 1, effect), 1 - _ruled_out(n - hits, n, high, 1, effect))


def _ruled_out(hits: float, n: float, alpha: float, sign: int, effect: float) -> float:
    """The greatest level of which it is ruled out that the chance lies below it."""
    wanted = math.log(1 / alpha)
    ruled_out, open_ = 0.0, hits / n if n else 0.0
    for _ in range(_STEPS):
        level = (ruled_out + open_) / 2
        if not 0 < level < 1:
            break
        size = effect or _PART * min(level, 1 - level)
        if log_evidence(np.array([hits]), n, level, sign, size)[0] >= wanted:
            ruled_out = level
        else:
            open_ = level
    return ruled_out


def slower_evidence(sketch: Sketch, quantile: float, bound: float, sign: int) -> float:
    """Logarithm of the evidence that the quantile lies above `bound` (sign 1), or below it (sign -1).

    Values in the bin that holds the bound are counted for the other side.
    """
    sure, most = sketch.below(bound)
    n, part = sketch.count, 1 - quantile
    above = n - most if sign > 0 else n - sure
    return float(log_evidence(np.array(above), n, part, sign, _PART * part))


def quantile_bounds(sketch: Sketch, quantile: float, low: float, high: float) -> Bounds:
    """Where a quantile lies, to the edges of bins; `low` and `high` are the risks of the bounds, at any look."""
    span = sketch.span()
    if span is None:
        return Bounds(0.0, float(LIMIT))
    first, last = max(span[0] - 1, 0), span[1]
    above = sketch.count - np.array(sketch.cumulative(first, last), np.float64)
    part = 1 - quantile
    greater = log_evidence(above, sketch.count, part, 1, _PART * part) >= math.log(1 / low)
    less = log_evidence(above, sketch.count, part, -1, _PART * part) >= math.log(1 / high)
    # Fewer lie above a greater edge: the first are ruled out as too low, the last as too high.
    under = int(np.count_nonzero(greater))
    over = int(np.count_nonzero(less))
    return Bounds(
        edge(first + under - 1) if under else 0.0,
        edge(last + 1 - over) if over else float(LIMIT),
    )

"""How a declared risk is shared out, and what many p-values say together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from servery.stats.bets import Floats


def shared_out(risk: float, weights: Sequence[float], steps: int = 1) -> tuple[float, ...]:
    """A risk for each guard, in proportion to its weight, so that the chance that any is wrong in any step is at most `risk`.

    For worse, where one wrong guard suffices to roll back. Sequences that go on over the steps of a rollout (MeanHarm,
    QuantileHarm) need no part for each: leave `steps` at 1. For passed each guard may have the whole risk: all must pass, so
    the chance that a candidate passes which is worse by one of them is at most that guard's.
    """
    if not 0 < risk < 1 or steps < 1 or not weights or min(weights) <= 0:
        raise ValueError("a risk lies between 0 and 1, weights are above 0, and there is at least one step")
    whole = math.fsum(weights) * steps
    return tuple(risk * weight / whole for weight in weights)


def p_value(log_evidence: float) -> float:
    """Valid at every look, if it is the greatest evidence so far."""
    return min(1.0, math.exp(-log_evidence)) if log_evidence > 0 else 1.0


def bonferroni(p_values: Sequence[float]) -> Floats:
    """Adjusted p-values: those at or below α are all true findings with a chance of 1 - α, whatever depends on what."""
    return np.minimum(np.asarray(p_values, np.float64) * len(p_values), 1.0)


def holm(p_values: Sequence[float]) -> Floats:
    """As `bonferroni`, and never greater. Holm (1979), A simple sequentially rejective multiple test procedure."""
    given = np.asarray(p_values, np.float64)
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    return _back(np.minimum(stepped, 1.0), order)


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

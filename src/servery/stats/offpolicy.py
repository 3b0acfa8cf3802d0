"""What another policy would have been worth on recorded traffic, from the chances with which each choice was made.

Each choice counts as often as the other policy would make it more often than the one that made it: by w = the other's
chance of it / its propensity. IPS is the mean of w·r (Horvitz and Thompson 1952); self-normalised is Σw·r / Σw, which
scatters less (Swaminathan and Joachims 2015, The self-normalized estimator for counterfactual learning, NeurIPS 28); doubly
robust starts from a prediction of r and needs w for what that misses only (Dudík, Langford and Li 2011, Doubly robust policy
evaluation and learning, ICML). Where the propensities are true, each is right in the limit, whatever the predictions are.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.stats.bets import Floats

_THIN = 100  # effective choices below which an interval is an anecdote
_HEAVY = 0.1  # of all weight on one choice
_CERTAIN = 1 - 1e-9


class Logged(msgspec.Struct, frozen=True):
    """One value for each recorded choice: what it was worth, its propensity, and the other policy's chance of the same choice.

    `predicted` is what this choice was expected to be worth, `expected` what the other policy's choices were, both by
    a model that hasn't seen this choice's worth. `units` numbers whose choice it was, where choices of one unit belong together.
    `bounds` are the least and the greatest worth that there can be, where that is known.
    """

    worth: Floats
    propensity: Floats
    chance: Floats
    predicted: Floats | None = None
    expected: Floats | None = None
    units: NDArray[np.int64] | None = None
    bounds: tuple[float, float] | None = None


class Value(msgspec.Struct, frozen=True):
    """Of a policy, per choice, with an interval."""

    value: float
    low: float
    high: float


class Valued(msgspec.Struct, frozen=True):
    """`gain` is the best estimate's (doubly robust, or self-normalised) over what was recorded; `effective` says how many choices
    of the other policy's own would tell as much, `largest` which part of all weight is on one; `warnings` what to mistrust it for."""

    recorded: Value
    ips: Value
    self_normalised: Value
    doubly_robust: Value | None
    gain: Value
    effective: float
    largest: float
    warnings: tuple[str, ...]


def refusal(logged: Logged) -> str | None:
    """Why this log can't tell, or None."""
    if len(logged.worth) < 2:
        return "fewer than two choices were recorded"
    if not (logged.propensity > 0).all() or (logged.propensity > 1).any():
        return "a recorded choice has a propensity that isn't above 0 and at most 1"
    if (logged.propensity >= _CERTAIN).all():
        return "every choice was certain (propensity 1), so nothing was tried that the other policy might do"
    if not (logged.chance > 0).any():
        return "the other policy would have made none of the recorded choices"
    return None


def evaluate(logged: Logged, confidence: float = 0.95) -> Valued:
    """The value of the other policy on this log; a ValueError where `refusal` says why not."""
    reason = refusal(logged)
    if reason is not None:
        raise ValueError(reason)
    weight = logged.chance / logged.propensity
    heavy = _by_unit(logged, weight)
    effective = float(heavy.sum() ** 2 / (heavy @ heavy))
    taken = weight * logged.worth
    ips, own = float(taken.mean()), float(taken.sum() / weight.sum())
    recorded = float(logged.worth.mean())
    # What one choice moves an estimate by, times their number.
    moved = weight * (logged.worth - own) / weight.mean()
    robust, better, best = None, moved, own
    if logged.predicted is not None and logged.expected is not None:
        parts = logged.expected + weight * (logged.worth - logged.predicted)
        best = float(parts.mean())
        better = parts - best
        robust = _interval(logged, best, better, effective, confidence)
    return Valued(
        _interval(logged, recorded, logged.worth - recorded, len(weight), confidence),
        _interval(logged, ips, taken - ips, effective, confidence),
        _interval(logged, own, moved, effective, confidence),
        robust,
        _interval(logged, best - recorded, better - (logged.worth - recorded), effective, confidence),
        effective,
        float(weight.max() / weight.sum()),
        _warnings(weight, effective),
    )


def _interval(logged: Logged, value: float, moved: Floats, effective: float, confidence: float) -> Value:
    """Of a mean: by the normal distribution, with Student's wider tails where little is effective.

    What is rare may not have been seen yet, and then looks certain: so what moved the estimate most is counted twice more, once
    in each direction (as Agresti and Coull 1998 add two trials of each kind to a proportion). Units move an estimate as a whole.
    """
    sums = _by_unit(logged, moved)
    count = len(sums)
    most = max(float(np.abs(sums).max()), _rarest(logged, effective))
    error = math.sqrt((float(sums @ sums) + 2 * most**2) * count / max(count - 1, 1)) / len(moved)
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    free = max(min(effective, count) - 1, 1.0)
    half = error * normal * (1 + (normal**2 + 1) / (4 * free))  # Cornish and Fisher's first term
    return Value(value, value - half, value + half)


def _rarest(logged: Logged, effective: float) -> float:
    """By how much the heaviest choice may move the estimate, where it is known how good and how bad one can be."""
    weight = logged.chance / logged.propensity
    heavy = _by_unit(logged, weight)
    if logged.bounds is None or effective > len(heavy) * _CERTAIN:
        return 0.0
    mean = float((weight * logged.worth).sum() / weight.sum())
    return float(heavy.max() / weight.mean()) * max(mean - logged.bounds[0], logged.bounds[1] - mean)


def _by_unit(logged: Logged, values: Floats) -> Floats:
    """Summed over the choices of each unit."""
    if logged.units is None:
        return values
    units, places = np.unique(logged.units, return_inverse=True)
    sums = np.zeros(len(units))
    np.add.at(sums, places, values)
    return sums


def _warnings(weight: Floats, effective: float) -> tuple[str, ...]:
    found: list[str] = []
    if effective < _THIN:
        found.append(
            f"the log tells as much as {effective:.0f} choices of the other policy: intervals may be too narrow"
        )
    if weight.max() > _HEAVY * weight.sum():
        found.append(f"one choice of {len(weight)} carries {100 * weight.max() / weight.sum():.0f} % of the weight")
    mean, error = float(weight.mean()), float(weight.std(ddof=1)) / math.sqrt(len(weight))
    if abs(mean - 1) > 4 * error + 1e-9:
        found.append(
            f"weights average {mean:.2f} instead of 1: the other policy does what the log never tried, or propensities are wrong"
        )
    return tuple(found)

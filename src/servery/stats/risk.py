"""How sure a sample makes us that a risk lies below a level: p-values of finite samples, and testing in a fixed order.

Sources: Angelopoulos, Bates, Candès, Jordan and Lei (2021), Learn then Test, arXiv 2110.01052; Bates, Angelopoulos, Lei,
Malik and Jordan (2021), Distribution-free, risk-controlling prediction sets, JACM 68 (6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def binomial_cdf(trials: int, level: float) -> Floats:
    """P(B ≤ k) for k = 0 … trials, where B counts the hits in so many trials with the chance `level` each."""
    if level <= 0 or level >= 1:
        sure = np.ones(trials + 1)
        sure[: trials if level >= 1 else 0] = 0.0
        return sure
    k = np.arange(trials + 1)
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, trials + 1)))))
    density = logs[trials] - logs[k] - logs[trials - k] + k * math.log(level) + (trials - k) * math.log1p(-level)
    return np.minimum(np.cumsum(np.exp(density)), 1.0)


def p_at_most(hits: Counts, trials: int, level: float) -> Floats:
    """Of "the chance of a hit is above `level`", by the exact binomial test: small where there are few hits."""
    if trials == 0 or level < 0:
        return np.ones(np.shape(hits))
    return binomial_cdf(trials, level)[hits]


def p_at_least(hits: Counts, trials: int, level: float) -> Floats:
    """Of "the chance of a hit is below `level`": small where there are many hits."""
    return p_at_most(trials - hits, trials, 1 - level)


def p_mean_at_most(means: Floats, trials: int, level: float) -> Floats:
    """Of "the mean of losses from 0 to 1 is above `level`", by the inequalities of Hoeffding and Bentkus.

    Bates et al. (2021), theorem 2: the smaller of exp(-n·h(min(mean, level), level)) and e·P(Bin(n, level) ≤ ⌈n·mean⌉).
    """
    if level >= 1:
        return np.zeros(np.shape(means))
    if trials == 0 or level <= 0:
        return np.ones(np.shape(means))
    low = np.minimum(means, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.where(low > 0, low * np.log(low / level), 0.0)
        entropy = entropy + np.where(low < 1, (1 - low) * np.log((1 - low) / (1 - level)), 0.0)
    hoeffding = np.exp(-trials * entropy)
    hits = np.ceil(np.round(trials * means, 9)).astype(np.int64)
    bentkus = math.e * binomial_cdf(trials, level)[np.clip(hits, 0, trials)]
    return np.minimum(np.minimum(hoeffding, bentkus), 1.0)


def passing(p_values: Sequence[float] | Floats, risk: float) -> int:
    """How many hypotheses are rejected when they are tested in this order until the first that is not.

    Fixed-sequence testing: the chance that any true one is among them is at most `risk`, if nothing that the
    p-values were made from chose the order.
    """
    over = np.flatnonzero(np.asarray(p_values) > risk)
    return int(over[0]) if len(over) else len(p_values)

"""How well chances tell right answers from wrong ones, and how true they are."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.learning.judged import Floats, interval, ordered
from servery.stats.intervals import Interval

BINS = 10


class Told(msgspec.Struct, frozen=True):
    """What chances are worth. `auc`: how often a right answer has the larger one, of a right and a wrong one (0.5: by chance).

    `brier`: the mean of their squared error; `plain_brier`: that of saying the share of right answers every time. `ece`: how far
    chances are from the share of right answers, on the mean over BINS bins of equally many answers. Both with 95 % intervals.
    """

    rows: int
    right: float
    auc: float
    auc_95: Interval
    brier: float
    brier_95: Interval
    plain_brier: float
    ece: float


def told(chance: Floats, right: Floats, draws: int, seed: int) -> Told:
    """What these chances are worth; intervals by the percentile bootstrap over answers."""
    rng, rows = np.random.default_rng(seed), len(right)
    error = (chance - right) ** 2
    found = np.empty((draws, 2))
    for draw in range(draws):
        counts = np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.int64)
        found[draw] = auc(chance, right, counts), (error * counts).sum() / rows
    share = float(right.mean())
    return Told(
        rows,
        share,
        auc(chance, right),
        interval(found[:, 0]),
        float(error.mean()),
        interval(found[:, 1]),
        share * (1 - share),
        ece(chance, right),
    )


def auc(score: Floats, right: Floats, counts: NDArray[np.int64] | None = None) -> float:
    """The area under the receiver's operating curve, ties counted half; 0.5 where there is nothing to compare.

    With `counts` an answer counts so many times, as in a bootstrap's sample.
    """
    by = ordered(score)
    times = np.ones(len(score)) if counts is None else counts[by.order].astype(float)
    hits = np.add.reduceat(times * right[by.order], by.starts)
    misses = np.add.reduceat(times * (1 - right[by.order]), by.starts)
    pairs = float(hits.sum() * misses.sum())
    if not pairs:
        return 0.5
    below = misses.sum() - np.cumsum(misses)  # wrong ones with a lower score
    return float((hits * (below + misses / 2)).sum()) / pairs


def ece(chance: Floats, right: Floats) -> float:
    """The expected calibration error, over BINS bins of about equally many answers (Naeini et al. 2015, AAAI)."""
    order = np.argsort(chance, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return float(sum(abs(float((chance[part] - right[part]).sum())) for part in parts)) / len(chance)

"""Calibrate a cascade: from what its tiers say of labelled examples to thresholds, and what they give."""

from __future__ import annotations

import msgspec
import numpy as np

from servery.learning.thresholds import (
    Range,
    Result,
    Sample,
    Thresholds,
    Wanted,
    curve,
    evaluate,
    parted,
    reachable,
    search,
    split,
)


class Calibration(msgspec.Struct, frozen=True):
    """What was found. All Results are of the `rows` that tested, which the path was not drawn from.

    `after` is None where nothing passed; then `best` is about what could have been promised instead (None: nothing).
    """

    before: Result
    after: Result | None
    alone: tuple[Result, ...]  # each tier by itself
    curve: tuple[tuple[float, float], ...]  # dollars per row and accuracy
    path_rows: int
    rows: int
    tested: int
    best: Wanted | None = None


def calibrate(
    sample: Sample, ranges: tuple[Range, ...], current: Thresholds, wanted: Wanted, risk: float, seed: int
) -> Calibration:
    """The thresholds of all tiers but the last that give what is wanted, with a chance of at most `risk` that they don't.

    The rows are put into an order drawn from `seed`, so that the order of a file plays no part.
    """
    path, test = parted(sample, np.random.default_rng(seed).permutation(sample.rows))
    parts = split(path, test, ranges)
    found = search(parts, wanted, risk)
    return Calibration(
        evaluate(test, current),
        None if found.thresholds is None else evaluate(test, found.thresholds),
        tuple(_alone(test, tier) for tier in range(len(sample.usd))),
        tuple(curve(parts.test)),
        path.rows,
        test.rows,
        found.tested,
        reachable(parts, wanted, risk) if found.thresholds is None else None,
    )


def _alone(sample: Sample, tier: int) -> Result:
    answered = tuple(sample.rows if at == tier else 0 for at in range(len(sample.usd)))
    return Result((), sample.rows, int(sample.right[tier].sum()), answered, sample.usd[tier])

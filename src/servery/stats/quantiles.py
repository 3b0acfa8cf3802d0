"""Quantiles of a sample, shown only where the sample says something about them."""

from __future__ import annotations

from collections.abc import Sequence

SAMPLES_ABOVE = 10


def rank(count: int, percent: int) -> int | None:
    """Index, in a sorted sample of `count`, of the smallest value with at least `percent` of the sample at or below it.

    That is the inverse of the empirical distribution function (Hyndman and Fan 1996, definition 1). None when fewer
    than 10 samples lie above it: such a tail is an anecdote.
    """
    index = max(0, -(-count * percent // 100) - 1)
    return index if count - 1 - index >= SAMPLES_ABOVE else None


def quantile(ordered: Sequence[int], percent: int) -> int | None:
    """The value at that rank of a sample sorted upwards."""
    index = rank(len(ordered), percent)
    return None if index is None else ordered[index]

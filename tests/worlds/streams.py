"""What worlds have in common: how sure a rate makes us."""

from __future__ import annotations

from servery.stats.risk import binomial_cdf


def surely(count: int, runs: int) -> float:
    """The chance of what happened in `count` of so many runs is above this one, surely to 99.9 % (Clopper and Pearson)."""
    low, high = 0.0, count / runs
    for _ in range(50):
        middle = (low + high) / 2
        at_least = 1 - (binomial_cdf(runs, middle)[count - 1] if count else 0.0)
        low, high = (middle, high) if at_least < 0.001 else (low, middle)
    return low

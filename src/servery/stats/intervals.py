"""How far a share that was counted may be from the true one."""

from __future__ import annotations

import math

import msgspec

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


class Interval(msgspec.Struct, frozen=True):
    """From `low` to `high`, both included."""

    low: float
    high: float


def wilson(hits: int, trials: int, z: float = Z_95) -> Interval | None:
    """Score interval of a proportion, 95 % by default; None without trials.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference, JASA 22 (158), 209–212.
    Rows are taken as independent, without continuity correction.
    """
    if trials <= 0:
        return None
    share = hits / trials
    spread = z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == trials else min(1.0, centre + half)
    return Interval(low, high)

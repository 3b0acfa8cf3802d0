"""How long a batch of n rows will take: a·n + b, learned from the batches that ran."""

from __future__ import annotations

import math
from collections import deque

# Each batch counts so much less than the one after it: about the last twenty decide.
_FADE = 0.95
# One measurement counts at most as so many times what was expected: then another process had the core.
_MOST = 3.0
# Below this spread of sizes (variance over squared mean) a slope would be noise, and only the level is learned.
_SPREAD = 0.05
# With fewer measurements nothing is refused by what was learned.
_ENOUGH = 8
_REMEMBERED = 32
# What was learned says something of batches so many times as large as the largest of those remembered.
_REACH = 8


class Cost:
    """The learned duration of a batch in ns. `fixed_ns` and `row_ns` are the warm-up's guess; (0, inf): there is none.

    Weighted least squares over fading sums, held to what can be: neither part is ever negative. The warm-up counts
    as two batches, one of them of 32 rows, so that the slope is known before batches of more than one size ran.
    """

    __slots__ = ("_high", "_low", "_n", "_nn", "_ny", "_ratios", "_sizes", "_w", "_y", "fixed_ns", "row_ns", "seen")

    def __init__(self, fixed_ns: float = 0.0, row_ns: float = math.inf) -> None:
        self.fixed_ns = self.row_ns = 0.0
        self.seen = 0
        self._w = self._n = self._y = self._nn = self._ny = 0.0
        self._low, self._high = 0.0, 1.0
        self._ratios: deque[float] = deque(maxlen=_REMEMBERED)
        self._sizes: deque[int] = deque(maxlen=_REMEMBERED)
        if math.isfinite(fixed_ns) and math.isfinite(row_ns):
            self.fixed_ns, self.row_ns = max(fixed_ns, 0.0), max(row_ns, 0.0)
            for rows in (1, 32):
                self._add(rows, self.expect(rows))

    def expect(self, rows: int, batches: int = 1) -> float:
        """What `rows` rows in so many batches are likely to take; 0 before anything is known."""
        return self.row_ns * rows + self.fixed_ns * batches

    def at_most(self, rows: int) -> float:
        """What a batch took at most, but for one in ten, by its size."""
        return self.expect(rows) * self._high

    def at_least(self, rows: int, batches: int = 1) -> float:
        """What none of the last batches undercut, by their size; 0 while few were seen.

        Of a batch much larger than all of them no more is known than that it takes no less than a smaller one: a slope that
        was learned from a few rows says nothing of millions.
        """
        if not self._low:
            return 0.0
        return self.expect(min(rows, _REACH * max(self._sizes) * batches), batches) * self._low

    def learn(self, rows: int, busy_ns: int) -> None:
        """A batch of `rows` rows took `busy_ns`."""
        rows = max(rows, 1)
        expected = self.expect(rows)
        took = float(max(busy_ns, 0))
        if expected >= 1:
            self._ratios.append(took / expected)
            took = min(took, expected * _MOST)
        self._sizes.append(rows)
        self._add(rows, took)
        self._fit()
        self.seen += 1
        if self._ratios:
            ranked = sorted(self._ratios)
            self._high = max(ranked[math.ceil(0.9 * len(ranked)) - 1], 1.0)
            self._low = min(ranked[0], 1.0) if self.seen >= _ENOUGH else 0.0

    def _add(self, rows: int, took: float) -> None:
        self._w = self._w * _FADE + 1
        self._n = self._n * _FADE + rows
        self._y = self._y * _FADE + took
        self._nn = self._nn * _FADE + rows * rows
        self._ny = self._ny * _FADE + rows * took

    def _fit(self) -> None:
        n, y = self._n / self._w, self._y / self._w
        variance = self._nn / self._w - n * n
        if variance > _SPREAD * n * n:
            slope = (self._ny / self._w - n * y) / variance
            self.row_ns = min(max(slope, 0.0), y / n)
        elif (expected := self.row_ns * n + self.fixed_ns) > 0:
            self.row_ns *= y / expected
        else:
            self.row_ns = y / n / 2
        self.fixed_ns = max(y - self.row_ns * n, 0.0)

"""Requests in any 60 seconds, exactly: one count per second, added up over a sliding minute."""

from __future__ import annotations

SECONDS = 60
_NS = 1_000_000_000


class SlidingMinute:
    """Lets at most `limit` requests pass in any window of 60 whole seconds. Sixty integers, O(1) a request."""

    __slots__ = ("_counts", "_now", "_total", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._counts = [0] * SECONDS
        self._total = 0
        self._now = 0

    def take(self, now_ns: int) -> float:
        """0.0 when the request may pass; otherwise the seconds after which one may."""
        now = now_ns // _NS
        if now != self._now:
            self._advance(now)
        if self._total < self.limit:
            self._total += 1
            self._counts[now % SECONDS] += 1
            return 0.0
        oldest = next(age for age in range(SECONDS - 1, -1, -1) if self._counts[(now - age) % SECONDS])
        return max(SECONDS - oldest - (now_ns % _NS) / _NS, 0.001)

    def give_back(self, at_ns: int) -> None:
        """A request that was let pass at this moment isn't made after all."""
        second = at_ns // _NS
        if self._now - SECONDS < second <= self._now and self._counts[second % SECONDS]:
            self._counts[second % SECONDS] -= 1
            self._total -= 1

    def _advance(self, now: int) -> None:
        passed = now - self._now
        if passed < 0:
            return
        for second in range(self._now + 1, self._now + min(passed, SECONDS) + 1):
            self._total -= self._counts[second % SECONDS]
            self._counts[second % SECONDS] = 0
        self._now = now

"""The only clock and the only dice; everything above takes `now` and draws as arguments."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


class Clock:
    """Wall time for what is remembered, steady time for what is measured; both in ns."""

    __slots__ = ("steady_ns", "wall_ns")

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, steady_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.wall_ns = wall_ns
        self.steady_ns = steady_ns


class Dice:
    """Random bytes from the operating system, fetched a page at a time: a request needs only a few."""

    __slots__ = ("_at", "_page", "_source")

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source
        self._page = b""
        self._at = 0

    def bits(self, count: int) -> bytes:
        """`count` random bytes, at most 4096."""
        start, end = self._at, self._at + count
        if end > len(self._page):
            self._page = self._source(4096)
            start, end = 0, count
        self._at = end
        return self._page[start:end]

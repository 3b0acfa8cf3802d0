"""A sketch of many values: counts in bins whose widths grow with the values, so that quantiles are known to 1 %.

The bins are those of DDSketch (Masson, Rim and Lee 2019, DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees, VLDB 12 (12)): bin i holds what lies above RATIO^(i-1) and at or below RATIO^i. They are never
collapsed, so the count at or below an edge is exact, whatever was merged in whatever order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import Self

import msgspec

ERROR = 0.01  # of a quantile, as a part of it
RATIO = (1 + ERROR) / (1 - ERROR)
LIMIT = 2**63 - 1  # greater values count as this one: as nanoseconds 292 years
_SCALE = 1 / math.log(RATIO)
TOP = math.ceil(math.log(LIMIT) * _SCALE)  # the last bin: there are at most 2,185


def edge(index: int) -> float:
    """The greatest value of a bin."""
    return RATIO**index


def index_of(value: float) -> int:
    """The bin of a value; all up to 1 share bin 0."""
    if value <= 1:
        return 0
    return math.ceil(math.log(value) * _SCALE) if value < LIMIT else TOP


class Sketch:
    """Counts by bin. Adding takes well under a microsecond; a sketch holds as many bins as its values differ, at most 2,185.

    Values are positive whole numbers such as nanoseconds or pico-dollars.
    """

    __slots__ = ("_bins",)

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self._bins == other._bins

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def count(self) -> int:
        return sum(self._bins.values())

    def add(self, value: float) -> None:
        index = 0 if value <= 1 else math.ceil(math.log(value) * _SCALE) if value < LIMIT else TOP
        bins = self._bins
        bins[index] = bins.get(index, 0) + 1

    def merge(self, other: Sketch) -> None:
        """Add all that the other one has counted."""
        bins = self._bins
        for index, count in other._bins.items():
            bins[index] = bins.get(index, 0) + count

    def quantile(self, share: float) -> float | None:
        """A value within 1 % of the smallest one with at least this share of all at or below it; None without values."""
        total = self.count
        if not total:
            return None
        wanted = max(1, math.ceil(total * share))
        seen = 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen >= wanted:
                return 2 * edge(index) / (1 + RATIO) if index else 1.0
        raise AssertionError("a share is at most 1")

    def below(self, value: float) -> tuple[int, int]:
        """At least and at most so many lie at or below this value; both are equal where it is the edge of a bin."""
        mine = index_of(value)
        sure = sum(count for index, count in self._bins.items() if index < mine)
        return sure, sure + self._bins.get(mine, 0)

    def above(self, index: int) -> int:
        """How many lie above the edge of a bin."""
        return sum(count for one, count in self._bins.items() if one > index)

    def cumulative(self, first: int, last: int) -> list[int]:
        """How many lie at or below the edge of each bin from `first` to `last`, both included."""
        counts = [0] * (last - first + 1)
        for index, count in self._bins.items():
            if index <= last:
                counts[max(index - first, 0)] += count
        return list(accumulate(counts))

    def values(self) -> Iterator[tuple[float, int]]:
        """For each bin a value within 1 % of all that it holds, and how many it holds."""
        for index, count in self._bins.items():
            yield (2 * edge(index) / (1 + RATIO) if index else 1.0), count

    def less(self, other: Sketch) -> Sketch:
        """What this one has counted beyond the other, an earlier state of it."""
        rest = Sketch()
        for index, count in self._bins.items():
            if more := count - other._bins.get(index, 0):
                rest._bins[index] = more
        return rest

    def span(self) -> tuple[int, int] | None:
        """The first and the last bin that hold something."""
        return (min(self._bins), max(self._bins)) if self._bins else None

    def to_bytes(self) -> bytes:
        """Two to four bytes a bin: MessagePack of the distances between bins and of their counts."""
        indices = sorted(self._bins)
        flat = [0] * (2 * len(indices))
        flat[::2] = [index - before for before, index in zip([0, *indices], indices, strict=False)]
        flat[1::2] = [self._bins[index] for index in indices]
        return msgspec.msgpack.encode(flat)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote; a ValueError for anything else."""
        flat = msgspec.msgpack.decode(data, type=list[int])  # its errors are ValueErrors
        gaps, counts = flat[::2], flat[1::2]
        rising = all(gap > 0 for gap in gaps[1:]) and gaps[:1] >= [0] if gaps else True
        if len(gaps) != len(counts) or not rising or sum(gaps) > TOP or any(count <= 0 for count in counts):
            raise ValueError("these bytes are no sketch: bins must rise and counts be positive")
        sketch = cls()
        sketch._bins = dict(zip(accumulate(gaps), counts, strict=True))
        return sketch

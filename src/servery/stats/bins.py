"""Where a value is counted: numbers in bins whose widths are 1 % of them, everything else in one of 64 buckets."""

from __future__ import annotations

import math
import zlib

RATIO = 1.01
MISSING = -(10**6)  # no number at all: NaN, an infinity
BUCKETS = 64
_SCALE = 1 / math.log(RATIO)
_LEAST, _MOST = 1e-9, 1e15
_OFFSET = math.ceil(-math.log(_LEAST) * _SCALE) + 1


def bin_of(value: float) -> int:
    """Rises with the value; 0 for what is smaller than 1e-9 either way, and all beyond 1e15 shares a bin."""
    size = abs(value)
    if not size < math.inf:
        return MISSING
    if size < _LEAST:
        return 0
    place = _OFFSET + math.ceil(math.log(min(size, _MOST)) * _SCALE)
    return place if value > 0 else -place


def bucket_of(text: bytes) -> int:
    """The same in every process; what was said can't be read from it."""
    return zlib.crc32(text) % BUCKETS

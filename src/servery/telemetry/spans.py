"""Spans of time and moments, as people write them: 30m, 1h, 2d, or all; 2026-01-31."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


def parse_span(text: str) -> int | None:
    """ns of "30m", "1h" and the like; 0 for "all"; None for what is neither."""
    if text == "all":
        return 0
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw])", text.strip())
    return max(1, int(float(match[1]) * _UNITS[match[2]] * 1e9)) if match else None


def moment_of(text: str, now_ns: int) -> int | None:
    """ns since 1970 of "2026-01-31", "2026-01-31T12:00" (UTC where nothing else is said), or "30d" for 30 days ago; never later than now.

    None for what is none of these.
    """
    if span := parse_span(text):
        return max(now_ns - span, 0)
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return min(max(int(moment.timestamp()) * 10**9, 0), now_ns)
    except (ValueError, OverflowError):
        return None


def written(at_ns: int) -> str:
    """A moment as people write it, in UTC, to the second."""
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

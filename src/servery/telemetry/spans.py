"""Spans of time, as people write them: 30m, 1h, 2d, or all."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


def parse_span(text: str) -> int | None:
    """ns of "30m", "1h" and the like; 0 for "all"; None for what is neither."""
    if text == "all":
        return 0
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw])", text.strip())
    return max(1, int(float(match[1]) * _UNITS[match[2]] * 1e9)) if match else None

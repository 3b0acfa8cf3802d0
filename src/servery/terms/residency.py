"""Where data may go: the one function that the Table and every exporter ask."""

from __future__ import annotations

from collections.abc import Collection


def may_flow(regions: Collection[str], place: str) -> bool:
    """Whether data of a caller restricted to `regions` (empty: anywhere) may rest in or pass through `place`."""
    return not regions or place in regions

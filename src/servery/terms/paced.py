"""How a Route stands whose thresholds follow its traffic, for those who look."""

from __future__ import annotations

import msgspec


class PacedThreshold(msgspec.Struct, frozen=True):
    """A threshold: of a prompt's `score` or of a tier's `confidence`, where it is declared, how far it may go, where it is."""

    tier: str
    of: str
    declared: float
    low: float
    high: float
    now: float


class PacedShare(msgspec.Struct, frozen=True):
    """A tier's share of the rows, and the band that is promised (from 0 to 1: none). None: nothing was seen yet."""

    tier: str
    low: float
    high: float
    now: float | None


class PacedRoute(msgspec.Struct, frozen=True):
    """Shares and mean cost are what the thresholds of now give on the `requests` that are remembered. `ceiling` 0: none.
    `unkept`: the promises that no thresholds in their ranges would keep.
    """

    route: str
    requests: int
    thresholds: tuple[PacedThreshold, ...]
    shares: tuple[PacedShare, ...]
    usd_per_million: float
    ceiling: float
    unkept: tuple[str, ...]


class PacedRoutes(msgspec.Struct, frozen=True):
    """All of them, and the epoch of the Bulletin that workers go by."""

    bulletin: int
    routes: tuple[PacedRoute, ...]

"""What a Route promises, beside what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from servery.telemetry.tally import Sums, Tally
from servery.terms.money import PICO_PER_USD
from servery.terms.routes import Route


class Promise(msgspec.Struct, frozen=True):
    """One promise: `measured` and `held` are None where the sample is too small to say."""

    route: str
    what: str
    promised: str
    measured: float | None
    held: bool | None


def promises(
    tally: Tally, routes: Mapping[str, Route], quantiles: Mapping[str, tuple[float | None, ...]]
) -> tuple[Promise, ...]:
    """By Route: its SLO against `quantiles` (p50, p95, p99 in ms), its mean ceiling, its tiers' bands."""
    return tuple(
        promise for name, route in routes.items() for promise in _of_route(name, route, tally, quantiles.get(name, ()))
    )


def _of_route(name: str, route: Route, tally: Tally, quantiles: tuple[float | None, ...]) -> Iterator[Promise]:
    sums = tally.routes.get(name) or Sums()
    if route.slo is not None:
        limits = (route.slo.p50_ms, route.slo.p95_ms, route.slo.p99_ms)
        measured = quantiles or (None, None, None)
        for what, limit, value in zip(("p50 ms", "p95 ms", "p99 ms"), limits, measured, strict=True):
            if limit is not None:
                yield Promise(name, what, f"≤ {limit:g}", value, None if value is None else value <= limit)
    if route.ceiling is not None and (mean := route.ceiling.mean_usd_per_million) is not None:
        cost = usd_per_million(sums.pico_usd, sums.rows)
        yield Promise(name, "mean $ per million", f"≤ {mean:g}", cost, None if cost is None else cost <= mean)
    for tier in route.tiers:
        if tier.share is not None:
            low, high = tier.share
            share = tally.tiers[name, tier.name] / sums.rows if sums.rows else None
            held = None if share is None else low <= share <= high
            yield Promise(name, f"share of {tier.name}", f"{low:g} to {high:g}", share, held)


def usd_per_million(pico_usd: int, rows: int) -> float | None:
    """Dollars for a million inferences; None when there was none."""
    return pico_usd * 1_000_000 / rows / PICO_PER_USD if rows else None

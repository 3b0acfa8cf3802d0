"""Where thresholds stand that follow their traffic, in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from servery.cli.tables import NOTHING, print_table
from servery.terms.paced import PacedRoute


def show_standing(route: PacedRoute, console: Console | None = None) -> None:
    """Print its thresholds, and what they give beside what is promised."""
    console = console or Console(highlight=False)
    console.print(f"Route {route.route}, by the last {route.requests} requests", style="bold", soft_wrap=True)
    print_table(console, _thresholds(route))
    print_table(console, _promises(route))
    for unkept in route.unkept:
        console.print(f"No thresholds within their ranges would keep {unkept}", style="red", soft_wrap=True)
    console.print()


def _thresholds(route: PacedRoute) -> Table:
    table = _table("threshold", "declared", "range", "now")
    for one in route.thresholds:
        name = f"score, above {one.tier}" if one.of == "score" else f"confidence of {one.tier}"
        bounds = f"{one.low:g} to {one.high:g}" if one.low < one.high else NOTHING
        table.add_row(name, f"{one.declared:g}", bounds, f"{one.now:g}")
    return table


def _promises(route: PacedRoute) -> Table:
    table = _table("promise", "promised", "now")
    for share in route.shares:
        band = f"{share.low:g} to {share.high:g}" if (share.low, share.high) != (0, 1) else NOTHING
        table.add_row(f"share of {share.tier}", band, NOTHING if share.now is None else f"{share.now:.3f}")
    if route.ceiling:
        seen = bool(route.requests)
        table.add_row("mean $ per million", f"≤ {route.ceiling:g}", f"{route.usd_per_million:.4g}" if seen else NOTHING)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table

"""A Calibration as a table in a terminal, and in words what it promises."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from servery.cli.calibrating import Cascade
from servery.cli.tables import print_table
from servery.control.edit import spelled
from servery.learning.calibrate import Calibration
from servery.learning.thresholds import Result, Wanted
from servery.stats.intervals import wilson


def show(cascade: Cascade, found: Calibration) -> None:
    """What the thresholds give before and after, beside each tier by itself; all on the rows that tested."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("thresholds", no_wrap=True)
    for name in cascade.names[:-1]:
        table.add_column(f"{name} ≥", justify="right", no_wrap=True)
    for name in cascade.names:
        table.add_column(f"{name} %", justify="right", no_wrap=True)
    for title in ("accuracy", "95 % interval", "$/million"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, result in (("before", found.before), ("after", found.after)):
        if result is not None:
            table.add_row(name, *_cells(result, len(cascade.rungs)), style="bold" if name == "after" else "")
    for name, result in zip(cascade.names, found.alone, strict=True):
        table.add_row(f"{name} alone", *_cells(result, len(cascade.rungs)), style="dim")
    print_table(console, table)
    console.print(
        f"measured on {found.rows} examples; {found.path_rows} others drew the path of {found.tested} tested thresholds",
        style="dim",
        soft_wrap=True,
    )


def _cells(result: Result, tiers: int) -> Sequence[str]:
    interval = wilson(result.right, result.rows)
    assert interval is not None
    thresholds = [spelled(number) for number in result.thresholds] or [""] * (tiers - 1)
    shares = [f"{100 * count / result.rows:.1f}" for count in result.answered]
    spread = f"{100 * interval.low:.1f}–{100 * interval.high:.1f} %"
    return [*thresholds, *shares, f"{100 * result.accuracy:.2f} %", spread, dollars(result.usd)]


def dollars(usd: float) -> str:
    """Dollars per row as dollars per million rows, in three digits that count."""
    million = usd * 1e6
    return f"{million:.3g}" if million < 100 else f"{million:,.0f}"


def promise(cascade: Cascade, wanted: Wanted, risk: float) -> str:
    """What is guaranteed, on what condition."""
    return (
        f"Promised: {_held(cascade, wanted)}, with a probability of at least {_percent(1 - risk)}\n"
        "if callers send rows like the examples (Learn then Test; exact for a finite sample)."
    )


def shortfall(cascade: Cascade, found: Calibration, wanted: Wanted, risk: float) -> str:
    """Why nothing is promised, and what could be."""
    message = f"these examples can't show at a risk of {_percent(risk)} that {_held(cascade, wanted)}"
    if found.best is None:
        return f"{message}, nor anything near it: give more examples, ask for less, or widen `accept.range`"
    return (
        f"{message}. The most that they can show is about {_options(cascade, found.best)}; "
        "more examples, or a better last tier, show more"
    )


def _options(cascade: Cascade, wanted: Wanted) -> str:
    """How it is asked for; rounded to what is easier to keep."""
    parts = [f"--accuracy {math.floor(1000 * wanted.accuracy) / 1000:g}"] if wanted.accuracy is not None else []
    if wanted.usd is not None:
        parts.append(f"--cost {dollars(wanted.usd * 1.005)}")
    for share in wanted.shares:
        low, high = math.floor(100 * share.low) / 100, math.ceil(100 * share.high) / 100
        parts.append(f"--share {cascade.names[share.tier]}={low:g}..{high:g}")
    return " ".join(parts)


def _held(cascade: Cascade, wanted: Wanted) -> str:
    parts: list[str] = []
    if wanted.accuracy is not None:
        parts.append(f"{_percent(wanted.accuracy)} of the rows or more are answered rightly")
    if wanted.usd is not None:
        parts.append(f"a million rows cost ${dollars(wanted.usd)} or less on the mean, at the times measured here")
    parts += [
        f"{cascade.names[share.tier]} answers {_percent(share.low)} to {_percent(share.high)} of the rows"
        for share in wanted.shares
    ]
    return " and ".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"

"""What ways to choose between two models are worth: as a table, in words, and as a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from servery.cli.pictures import picture
from servery.cli.tables import NOTHING, print_table
from servery.learning.choosing import Comparison, Line, accuracy_at
from servery.learning.judged import SHARES, Floats, Judged, ordered, recovered
from servery.stats.intervals import Interval

_SHOWN = (0.1, 0.3, 0.5, 0.7, 0.9)
_COLOURS = {"router": "#c2410c", "prompt length": "#1d4ed8", "an oracle": "#15803d"}


def show(found: Comparison) -> None:
    """The comparison as a table."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strong model for the prompts with the highest …", no_wrap=True)
    for title in ("APGR", "95 %", "calls for 50 %", "for 80 %"):
        table.add_column(title, justify="right", no_wrap=True)
    for share in _SHOWN:
        table.add_column(f"right at {100 * share:.0f} %", justify="right", no_wrap=True)
    for line in found.lines:
        table.add_row(*_cells(line), style="" if line.spread else "dim")
    print_table(console, table)
    best = "strong" if found.strong >= found.cheap else "cheap"
    console.print(
        f"{found.rows} prompts: the cheap model alone answers {100 * found.cheap:.2f} % rightly, the strong one "
        f"{100 * found.strong:.2f} %; the best single model is the {best} one",
        style="dim",
        soft_wrap=True,
    )
    for line in found.lines:
        if line.spread is not None and line.spread.ahead is not None and line.name != found.beside:
            ahead = line.spread.ahead
            console.print(
                f"APGR above that of {found.beside} by {ahead.low:+.3f} to {ahead.high:+.3f} (95 %, paired bootstrap)",
                style="dim",
                soft_wrap=True,
            )


def _cells(line: Line) -> list[str]:
    measured, spread = line.measured, line.spread
    accuracy = [f"{100 * measured.accuracy[SHARES.index(share)]:.1f} %" for share in _SHOWN]
    calls = [f"{100 * measured.cpt_50:.1f} %", f"{100 * measured.cpt_80:.1f} %"]
    return [line.name, f"{measured.apgr:.3f}", _between(spread.apgr) if spread else NOTHING, *calls, *accuracy]


def _between(interval: Interval) -> str:
    return f"{interval.low:.3f}–{interval.high:.3f}"


def promise(judged: Judged, gain: Floats, threshold: float) -> str:
    """What the threshold gives on these prompts."""
    share, accuracy, interval = accuracy_at(judged, gain, threshold)
    gap = (accuracy - judged.cheap.mean()) / (judged.strong.mean() - judged.cheap.mean())
    limit = "any gain" if math.isinf(threshold) else f"a gain above {threshold:.4g}"
    return (
        f"With {limit}, {100 * share:.1f} % of these prompts go to the strong model, and {100 * accuracy:.2f} % are\n"
        f"answered rightly (95 %: {100 * interval.low:.2f} to {100 * interval.high:.2f} %): {100 * gap:.0f} % of the gap."
    )


def draw(judged: Judged, scores: dict[str, Floats], share: float, path: Path, *, oracle: bool = True) -> None:
    """Write the picture; its kind follows from the name of the file. `share` of strong calls is marked."""
    with picture(path) as axes:
        base = float(judged.cheap.mean())
        for name, score in (*scores.items(), *((("an oracle", judged.gain),) if oracle else ())):
            shares, added = recovered(ordered(score), judged)
            axes.plot(100 * shares, 100 * (base + added), color=_COLOURS.get(name), label=name, linewidth=1.6)
        ends = (100 * base, 100 * float(judged.strong.mean()))
        axes.plot((0, 100), ends, color="#9aa7b5", linestyle="--", linewidth=1, label="chance")
        shares, added = recovered(ordered(next(iter(scores.values()))), judged)
        right = 100 * (base + float(np.interp(share, shares, added)))
        axes.plot(
            100 * share, right, "o", color=_COLOURS["router"], label=f"chosen: {right:.1f} % at {100 * share:.0f} %"
        )
        axes.set_xlabel("calls of the strong model (%)")
        axes.set_ylabel("prompts answered rightly (%)")
        axes.set_title(f"{judged.rows} prompts", loc="left", fontsize=11)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)

"""What checked answers are worth for their dollars: as tables, in words, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from servery.cli.pictures import picture
from servery.cli.tables import NOTHING, print_table
from servery.learning.accepting import Accepted
from servery.learning.calibrated import BINS, Told
from servery.learning.cascades import PARTS, SPENT, Ahead, Costs, Line, Way, Weighed, curve
from servery.learning.judged import Judged, ordered
from servery.stats.intervals import Interval

_COLOURS = ("#9333ea", "#1d4ed8", "#c2410c")


def show_told(found: Told) -> None:
    """How well right answers are told from wrong ones."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (f"{found.rows} answers", "AUC", "95 %", "Brier score", "95 %", "calibration error"):
        table.add_column(title, justify="left" if not table.columns else "right", no_wrap=True)
    name = f"the share that is right every time, {100 * found.right:.1f} %"
    table.add_row(name, "0.500", NOTHING, f"{found.plain_brier:.3f}", NOTHING, "0.000", style="dim")
    auc, brier = _between(found.auc_95), _between(found.brier_95)
    table.add_row("this verifier", f"{found.auc:.3f}", auc, f"{found.brier:.3f}", brier, f"{found.ece:.3f}")
    print_table(console, table)
    console.print(f"Calibration error: over {BINS} bins of equally many answers", style="dim", soft_wrap=True)


def show_weighed(found: Weighed, beside: str) -> None:
    """The ways to choose, at the same dollars."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("dollars as parts of the strong model's", no_wrap=True)
    titles = ["gap, mean", "95 %", *(f"for {100 * part:.0f} % of it" for part in PARTS)]
    for title in (*titles, *(f"right for {100 * part:.0f} %" for part in SPENT)):
        table.add_column(title, justify="right", no_wrap=True)
    for line in found.lines:
        table.add_row(*_cells(line), style="" if line.gap_95 else "dim")
    print_table(console, table)
    (cheap, strong), (cheap_usd, strong_usd) = found.right, found.usd
    console.print(
        f"{found.rows} prompts: the cheap model alone answers {100 * cheap:.2f} % rightly, for {100 * cheap_usd / strong_usd:.3g} % "
        f"of the dollars; the strong one {100 * strong:.2f} %",
        style="dim",
        soft_wrap=True,
    )
    for line in found.lines:
        if line.ahead is not None:
            console.print(_ahead(line.name, beside, line.ahead), style="dim", soft_wrap=True)


def _ahead(name: str, beside: str, ahead: Ahead) -> str:
    at = [
        f"{100 * one.low:+.1f} to {100 * one.high:+.1f} points for {100 * part:.0f} %"
        for part, one in zip(SPENT, ahead.right, strict=True)
        if not math.isnan(one.low)
    ]
    right = f"; right answers {', '.join(at)} of the dollars" if at else ""
    return f"{name} above {beside} (95 %, paired bootstrap): {ahead.gap.low:+.3f} to {ahead.gap.high:+.3f} of the gap{right}"


def _cells(line: Line) -> list[str]:
    worth = line.worth
    least = [f"{100 * part:.1f} %" for part in worth.least]
    right = [NOTHING if math.isnan(part) else f"{100 * part:.1f} %" for part in worth.right]
    return [line.name, f"{worth.gap:.3f}", _between(line.gap_95) if line.gap_95 else NOTHING, *least, *right]


def _between(interval: Interval) -> str:
    return f"{interval.low:.3f}–{interval.high:.3f}"


def promise(found: Accepted, usd: tuple[float, float]) -> str:
    """What the confidence gives. `usd` a million prompts: the cheap model's, the strong one's."""
    says = f"From a confidence of {found.confidence:g} on, {100 * (1 - found.share):.1f} % of these answers stand"
    if found.right_95 is not None:
        interval = found.right_95
        says += f", of which {100 * found.right:.2f} % are right\n(95 %: {100 * interval.low:.2f} to {100 * interval.high:.2f} %)"
    if found.all_right is None:
        return f"{says}; {100 * found.share:.1f} % go on."
    dollars = usd[0] + found.share * usd[1]
    return (
        f"{says}. With the strong model's answers to the rest {100 * found.all_right:.2f} % are right,\n"
        f"for {100 * dollars / usd[1]:.0f} % of the strong model's dollars."
    )


def manifest_line(path: Path, confidence: float) -> str:
    """What a tier says to have its answers checked."""
    return f"accept: {{check: verifier, verifier: {path.name}, confidence: {confidence:g}}}"


def draw(judged: Judged, costs: Costs, ways: Sequence[Way], share: float, path: Path) -> None:
    """Write the picture; its kind follows from the name of the file. The last way's `share` of strong calls is marked."""
    with picture(path) as axes:
        cheap, strong = float(costs.cheap.mean()), float(costs.strong.mean())
        for way, colour in zip(ways, _COLOURS[-len(ways) :], strict=True):
            usd, right = curve(ordered(way.score), way.checks, judged, costs)
            axes.plot(100 * usd / strong, 100 * right, color=colour, label=way.name, linewidth=1.6)
        usd, right = curve(ordered(judged.gain), True, judged, costs)
        axes.plot(100 * usd / strong, 100 * right, color="#15803d", label="an oracle that checks", linewidth=1.6)
        ends = (100 * float(judged.cheap.mean()), 100 * float(judged.strong.mean()))
        axes.plot((100 * cheap / strong, 100), ends, color="#9aa7b5", linestyle="--", linewidth=1, label="chance")
        usd, right = curve(ordered(ways[-1].score), ways[-1].checks, judged, costs)
        spent = cheap + share * strong
        at = 100 * float(np.interp(spent, usd, right))
        label = f"chosen: {at:.1f} % for {100 * spent / strong:.0f} %"
        axes.plot(100 * spent / strong, at, "o", color=_COLOURS[-1], label=label)
        axes.set_xlabel("dollars, as a part of the strong model's (%)")
        axes.set_ylabel("prompts answered rightly (%)")
        axes.set_title(f"{judged.rows} prompts", loc="left", fontsize=11)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)

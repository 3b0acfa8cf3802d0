"""The curve of cost against accuracy as a picture. Needs the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servery.cli.calibrating import Cascade
from servery.cli.calibration import dollars
from servery.cli.pictures import picture
from servery.learning.calibrate import Calibration
from servery.learning.thresholds import Wanted

_LINE, _CHOSEN, _NOW, _TIER, _WANTED = "#9aa7b5", "#c2410c", "#1d4ed8", "#374151", "#15803d"
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85}
_WIDE = 30  # costs that differ by more are drawn by their logarithm


def draw(cascade: Cascade, found: Calibration, wanted: Wanted, path: Path) -> None:
    """Write the picture; its kind follows from the name of the file."""
    with picture(path) as axes:
        _fill(axes, cascade, found, wanted)


def _fill(axes: Any, cascade: Cascade, found: Calibration, wanted: Wanted) -> None:
    points = [(usd * 1e6, 100 * share) for usd, share in found.curve]
    axes.step(*zip(*points, strict=True), where="post", color=_LINE, zorder=1,
              label="the best that thresholds reach on these examples")  # fmt: skip
    dearest = max(result.usd for result in found.alone)
    for name, result in zip(cascade.names, found.alone, strict=True):
        place = (result.usd * 1e6, 100 * result.accuracy)
        axes.plot(*place, "s", color=_TIER, markersize=5, zorder=2)
        left = result.usd == dearest
        axes.annotate(f"{name} alone", place, (-7 if left else 7, -12), ha="right" if left else "left",
                      textcoords="offset points", color=_TIER, fontsize=9, bbox=_PAPER)  # fmt: skip
    for name, result, colour, face in (("now", found.before, _NOW, "white"), ("chosen", found.after, _CHOSEN, _CHOSEN)):
        if result is not None:
            label = f"{name}: {100 * result.accuracy:.1f} %, ${dollars(result.usd)}"
            axes.plot(result.usd * 1e6, 100 * result.accuracy, "o", color=colour, markerfacecolor=face, markersize=9,
                      markeredgewidth=2, linestyle="none", zorder=3, label=label)  # fmt: skip
    line: dict[str, Any] = {"color": _WANTED, "linestyle": "--", "linewidth": 1, "zorder": 0}
    if wanted.accuracy is not None:
        axes.axhline(100 * wanted.accuracy, label=f"wanted: {100 * wanted.accuracy:.6g} % or more", **line)
    if wanted.usd is not None:
        axes.axvline(wanted.usd * 1e6, label=f"wanted: ${dollars(wanted.usd)} or less", **line)
    _frame(axes, cascade, found)


def _frame(axes: Any, cascade: Cascade, found: Calibration) -> None:
    costs = [result.usd for result in found.alone]
    if min(costs) > 0 and max(costs) > _WIDE * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_plain)
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel("cost (dollars per million rows)")
    axes.set_ylabel("accuracy (% of rows answered rightly)")
    axes.set_title(f"{cascade.name}: cost and accuracy on {found.rows} examples", loc="left", fontsize=11)
    axes.margins(x=0.06, y=0.12)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _plain(value: float, _: int | None = None) -> str:
    """0.001, not a power of ten."""
    return f"{value:g}"

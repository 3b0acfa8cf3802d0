"""Pictures: PNG or SVG, by the name of the file. They need the extra `plot`."""

from __future__ import annotations

import importlib
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

PICTURES = (".png", ".svg")
_STYLE = {"svg.hashsalt": "servery", "svg.fonttype": "none", "font.size": 10, "axes.spines.top": False,
          "axes.spines.right": False}  # fmt: skip


def check_plot(plot: Path | None) -> str:
    """What is missing for a picture, before anything takes time; typer.BadParameter where the name won't do."""
    if plot is None:
        return ""
    if plot.suffix.lower() not in PICTURES:
        raise typer.BadParameter(f"give a file that ends in {' or '.join(PICTURES)}", param_hint="--plot")
    if not plot.parent.is_dir():
        raise typer.BadParameter(f"the folder {plot.parent} doesn't exist", param_hint="--plot")
    return "" if find_spec("matplotlib") else "--plot needs matplotlib: pip install 'servery[plot]'"


@contextmanager
def picture(path: Path) -> Generator[Any]:
    """Empty axes, to be drawn on; written to `path` at the end, the same bytes for the same drawing."""
    matplotlib: Any = importlib.import_module("matplotlib")
    figures: Any = importlib.import_module("matplotlib.figure")
    with matplotlib.rc_context(_STYLE):
        figure = figures.Figure(figsize=(7.2, 4.6), layout="constrained")
        yield figure.add_subplot()
        figure.savefig(path, **({"metadata": {"Date": None}} if path.suffix.lower() == ".svg" else {"dpi": 150}))

"""The demo of predictors: three real models for handwritten digits behind one route."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from servery.cli.child import typed
from servery.cli.demonstration import Demo, comparison, judged, measure, prepare, show_tiers
from servery.cli.examples import DIGITS
from servery.cli.tables import NOTHING, print_table, promises_table
from servery.telemetry.report import Report
from servery.terms.money import to_usd

DEMO = Demo(DIGITS, "held-out images", "digits")


def run(folder: Path, port: int, console: Console) -> None:
    """Train, serve, send the held-out images, and show what routing saves. Stopped, ChildFailed."""
    prepare(DEMO, folder, console)
    images = len((folder / "held-out.csv").read_text().splitlines()) - 1
    show(measure(DEMO, folder, port, images, console), console)
    console.print(what_next(folder))


def show(reports: Mapping[str, Report], console: Console) -> None:
    """Tiers of the cascade, the promises, and the two routes that know one model only."""
    report = reports[DEMO.route]
    show_tiers(DEMO, report, console)
    console.print(
        f"  dollars are those of busy time; keeping these models ready cost ${to_usd(report.bill_pico):.3g} in all, "
        f"${to_usd(report.idle_pico):.3g} of it idle"
    )
    console.print("\nThe same images, through one model only and through all three")
    print_table(console, comparison(DEMO, reports, timed=False))
    console.print(f"A row keeps the premium model busy for {ratio(reports)} the time that it keeps the cheap one busy.")
    console.print("\nWhat the manifest promises")
    print_table(console, promises_table(report.promises))
    console.print(judged(report.promises))


def ratio(reports: Mapping[str, Report]) -> str:
    """Busy time of a row in the premium model against the cheap one: that of their dollars, as both cost the same."""
    premium, cheap = reports[DEMO.dear].total, reports[DEMO.cheap].total
    if not premium.rows or not cheap.pico_usd:
        return NOTHING
    return f"{premium.pico_usd / premium.rows / (cheap.pico_usd / cheap.rows):.0f} ×"


def what_next(folder: Path) -> str:
    servery, python = typed("servery"), typed("python")
    return f"""
Everything is kept in {folder}: the manifest, the models, the Records. To go on:
  {servery} up {folder}/servery.yaml
      keeps it running; in a second terminal:
  {python} {folder}/send.py
      sends the images again
  {servery} report --data {folder}/.servery --since all
      shows what the Records say by now
Then change something: lower an `accept` in {folder}/servery.yaml and see share, dollars and accuracy move;
lower the ceiling until it breaks; put a model of your own behind a tier. {folder}/README.md says how."""

"""`servery demo`: train three real models, serve them behind one route, and print what the Records say about it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from servery.cli.child import Child, ChildFailed, typed
from servery.cli.init import Stopped, copy_example, is_trained, train_models
from servery.cli.records import read_report
from servery.cli.tables import NOTHING, accuracy, lines_table, money, notes, percent, print_table, promises_table
from servery.host.clock import Clock
from servery.telemetry.promises import Promise
from servery.telemetry.report import Question, Report
from servery.terms.money import to_usd

ROUTE, PREMIUM, CHEAP = "digits", "always-premium", "always-cheap"
LEDGER_S = 60.0
POLL_S = 0.1


def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="where the demo lives; kept afterwards")] = Path(
        "demo"
    ),
    port: Annotated[int, typer.Option(help="port to serve on; 0 takes a free one")] = 0,
) -> None:
    """Train, serve and measure three real models behind one route, and show what routing saves."""
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        prepare(folder, console)
        reports = measure(folder, port, console)
    except (Stopped, ChildFailed) as stopped:
        typer.echo(f"servery demo: {stopped}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("servery demo: stopped before the end; what was written is kept", err=True)
        raise typer.Exit(130) from None
    show(reports, console)
    console.print(what_next(folder))


def prepare(folder: Path, console: Console) -> None:
    """The example in `folder`, trained; what an earlier demo left there is used again."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        copy_example(folder)
    missing = [name for name in ("servery.yaml", "train.py", "send.py") if not (folder / name).is_file()]
    if missing:
        raise Stopped(
            f"{folder} is no demo ({', '.join(missing)} missing) and not empty: give another folder, as in `servery demo DIR`"
        )
    if is_trained(folder):
        console.print(f"Using the models in {folder}")
    else:
        console.print(f"Training three models in {folder}")
        train_models(folder)


def measure(folder: Path, port: int, console: Console) -> dict[str, Report]:
    """Serve, send the held-out images to each route, and read the Reports from the ledger: by route."""
    clock = Clock()
    began_ns = clock.wall_ns()
    images = len((folder / "held-out.csv").read_text().splitlines()) - 1
    with Child(folder / "servery.yaml", port, clock) as child:
        console.print(
            f"Serving on {child.url}; a client process sends {images} held-out images, then their true labels"
        )
        for route in (ROUTE, PREMIUM, CHEAP):
            client = [sys.executable, folder / "send.py", "--url", child.url, "--route", route]
            if subprocess.run(client, stdin=subprocess.DEVNULL, check=False).returncode:
                raise Stopped(
                    f"{folder / 'send.py'} failed; its message is above. The server wrote:\n{child.written()}"
                )
        with console.status("Waiting for the Records to reach the ledger"):
            return {route: wait_for(folder, route, began_ns, images, clock) for route in (ROUTE, PREMIUM, CHEAP)}


def wait_for(folder: Path, route: str, began_ns: int, images: int, clock: Clock) -> Report:
    """The Report of one route, once all its Records and labels are in the ledger."""
    deadline_ns = clock.steady_ns() + int(LEDGER_S * 1e9)
    while True:
        question = Question(began_ns, clock.wall_ns() + 1, "tier", route)
        report = read_report(folder / ".servery", question)
        if report.total.rows >= images and report.total.labelled >= images:
            return report
        if clock.steady_ns() > deadline_ns:
            raise Stopped(
                f"after {LEDGER_S:.0f} s the ledger holds {report.total.rows} of {images} inferences of {route}, "
                f"{report.total.labelled} of them with a label"
            )
        time.sleep(POLL_S)


def show(reports: Mapping[str, Report], console: Console) -> None:
    """Tiers of the cascade, the promises, and the two routes that know one model only."""
    report = reports[ROUTE]
    # Idle time is the same whichever route is asked: it is left out where routes are compared.
    busy = msgspec.structs.replace(report, idle=(), idle_pico=0)
    console.print(f"\nRoute {ROUTE}, by tier (dollars by the tier that spent them, the rest by the tier that answered)")
    print_table(console, lines_table(busy))
    for note in notes(busy):
        console.print(note)
    console.print(
        f"  dollars are those of busy time; keeping these models ready cost ${to_usd(report.bill_pico):.3g} in all, "
        f"${to_usd(report.idle_pico):.3g} of it idle"
    )
    console.print("\nThe same images, through one model only and through all three")
    print_table(console, comparison(reports))
    console.print(f"A row keeps the premium model busy for {ratio(reports)} the time that it keeps the cheap one busy.")
    console.print("\nWhat the manifest promises")
    print_table(console, promises_table(report.promises))
    console.print(judged(report.promises))


def judged(promises: Sequence[Promise]) -> str:
    """One line on all promises; what could not be measured is not called held."""
    broken = [promise.what for promise in promises if promise.held is False]
    unknown = [promise.what for promise in promises if promise.held is None]
    said = [f"Broken: {', '.join(broken)}."] if broken else []
    said += [f"Not known, the sample is too small: {', '.join(unknown)}."] if unknown else []
    return " ".join(said) or "SLO, ceiling and shares held."


def comparison(reports: Mapping[str, Report]) -> Table:
    """Cost and accuracy of the cascade beside those of its dearest and its cheapest model."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("route")
    for title in ("rows", "$/million", f"of {PREMIUM}", "accuracy (95 %)"):
        table.add_column(title, justify="right")
    whole = reports[PREMIUM].total.pico_usd
    for route, report in reports.items():
        total = report.total
        part = percent(total.pico_usd / whole) if whole else NOTHING
        table.add_row(route, f"{total.rows:,}", money(total.usd_per_million), part, accuracy(total))
    return table


def ratio(reports: Mapping[str, Report]) -> str:
    """Busy time of a row in the premium model against the cheap one: that of their dollars, as both cost the same."""
    premium, cheap = reports[PREMIUM].total, reports[CHEAP].total
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


def _interrupt(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - the form that signal wants
    raise KeyboardInterrupt

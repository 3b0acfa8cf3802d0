"""What all demos do: make an example, serve it, send the same to several routes, and read their Reports from the ledger."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from servery.cli.child import Child
from servery.cli.examples import Example, Stopped, copy_example, is_made, make
from servery.cli.records import routes_of
from servery.cli.tables import NOTHING, accuracy, lines_table, milliseconds, money, notes, percent, print_table
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.telemetry.promises import Promise
from servery.telemetry.report import Question, Report
from servery.web.reports import read_report

LEDGER_S = 60.0
POLL_S = 0.1


class Demo(msgspec.Struct, frozen=True):
    """A route of an example beside two that know one model only: its dearest and its cheapest. `asks` names what is sent."""

    example: Example
    asks: str
    route: str
    dear: str = "always-premium"
    cheap: str = "always-cheap"

    @property
    def routes(self) -> tuple[str, str, str]:
        return self.route, self.dear, self.cheap


def prepare(demo: Demo, folder: Path, console: Console) -> bool:
    """The example in `folder`, with all that it needs; what an earlier demo left there is used again. Whether it is new."""
    example = demo.example
    new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if new:
        copy_example(example, folder)
    missing = [name for name in ("servery.yaml", example.script, "send.py") if not (folder / name).is_file()]
    if missing:
        raise Stopped(
            f"{folder} is no demo ({', '.join(missing)} missing) and not empty: give another folder, as in `servery demo DIR`"
        )
    if is_made(example, folder):
        console.print(f"Using what an earlier demo made in {folder}")
    else:
        console.print(f"Running {folder / example.script}")
        make(example, folder)
    return new


def measure(demo: Demo, folder: Path, port: int, count: int, console: Console) -> dict[str, Report]:
    """Serve, send all that the example asks to each route, and read the Reports on that from the ledger: by route."""
    clock = Clock()
    began_ns = clock.wall_ns()
    with started(Child(["up", folder / "servery.yaml"], port, clock), "Starting Servery", console) as child:
        console.print(
            f"Serving on {child.url}; a client process sends {count} {demo.asks} to each route, then what is true"
        )
        for route in demo.routes:
            client = [sys.executable, folder / "send.py", "--url", child.url, "--route", route]
            if subprocess.run(client, stdin=subprocess.DEVNULL, check=False).returncode:
                raise Stopped(
                    f"{folder / 'send.py'} failed; its message is above. The server wrote:\n{child.written()}"
                )
        with console.status("Waiting for the Records to reach the ledger"):
            return {route: _wait_for(folder, route, began_ns, count, clock) for route in demo.routes}


@contextlib.contextmanager
def started(child: Child, told: str, console: Console) -> Generator[Child]:
    """The child while it runs; what is told while it starts. ChildFailed."""
    with contextlib.ExitStack() as stack:
        with console.status(told):
            stack.enter_context(child)
        yield child


def _wait_for(folder: Path, route: str, began_ns: int, count: int, clock: Clock) -> Report:
    """The Report of one route, once all its Records and what was said of them are in the ledger."""
    deadline_ns = clock.steady_ns() + int(LEDGER_S * 1e9)
    kept = DataFolder(folder / ".servery")
    while True:
        question = Question(began_ns, clock.wall_ns() + 1, "tier", route)
        report = read_report(kept.ledger, question, routes_of(kept))
        if report.total.rows >= count and report.total.labelled >= count:
            return report
        if clock.steady_ns() > deadline_ns:
            raise Stopped(
                f"after {LEDGER_S:.0f} s the ledger holds {report.total.rows} of {count} inferences of {route}, "
                f"{report.total.labelled} of them with what is true"
            )
        time.sleep(POLL_S)


def show_tiers(demo: Demo, report: Report, console: Console) -> None:
    """The route's tiers, without idle time, which is the same whichever route is asked."""
    busy = msgspec.structs.replace(report, idle=(), idle_pico=0)
    console.print(
        f"\nRoute {demo.route}, by tier (dollars by the tier that spent them, the rest by the tier that answered)"
    )
    print_table(console, lines_table(busy))
    for note in notes(busy):
        console.print(note)


def comparison(demo: Demo, reports: Mapping[str, Report], timed: bool) -> Table:
    """Cost and accuracy of the route beside those of its dearest and its cheapest model; with `timed` latency too."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("route")
    times = ("p50 ms", "p95 ms") if timed else ()
    for title in ("rows", "$/million", f"of {demo.dear}", *times, "accuracy (95 %)"):
        table.add_column(title, justify="right", no_wrap=True)
    whole = reports[demo.dear].total.pico_usd
    for route, report in reports.items():
        total = report.total
        part = percent(total.pico_usd / whole) if whole else NOTHING
        took = (milliseconds(total.p50_ms), milliseconds(total.p95_ms)) if timed else ()
        table.add_row(route, f"{total.rows:,}", money(total.usd_per_million), part, *took, accuracy(total))
    return table


def judged(promises: Sequence[Promise]) -> str:
    """One line on all promises; what could not be measured is not called held."""
    broken = [promise.what for promise in promises if promise.held is False]
    unknown = [promise.what for promise in promises if promise.held is None]
    said = [f"Broken: {', '.join(broken)}."] if broken else []
    said += [f"Not known, the sample is too small: {', '.join(unknown)}."] if unknown else []
    return " ".join(said) or "SLO, ceiling and shares held."

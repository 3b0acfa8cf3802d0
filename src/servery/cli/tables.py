"""A Report as tables in a terminal."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from servery.telemetry.promises import Promise, usd_per_million
from servery.telemetry.report import Line, Report
from servery.terms.money import NS_PER_HOUR, to_usd

NOTHING = "–"
DOLLARS = "$/million*"


def show(report: Report, console: Console | None = None) -> None:
    """Print the lines, the bill, the promises, and what the reader has to know about them."""
    console = console or Console(highlight=False)
    print_table(console, lines_table(report))
    for note in notes(report):
        console.print(note, style="dim", soft_wrap=True)
    if report.promises:
        print_table(console, promises_table(report.promises))


def print_table(console: Console, table: Table) -> None:
    """A figure that is cut off is worse than a line that is too long."""
    width = console.width
    console.width = max(width, Measurement.get(console, console.options.update(max_width=10_000), table).maximum)
    console.print(table)
    console.width = width


def lines_table(report: Report) -> Table:
    """Lines, idle and total: dollars of the lines and of idle add up to the total."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=False)
    shown = [column for column in _COLUMNS if column.needed(report)]
    table.add_column(report.question.by, no_wrap=True)
    for column in shown:
        table.add_column(column.title, justify="right", no_wrap=True)
    routes = {line.route for line in report.lines}
    for line in report.lines:
        name = line.name or NOTHING
        name = f"{line.route} / {name}" if len(routes) > 1 and line.route else name
        table.add_row(name, *[column.cell(line) for column in shown])
    rows, total = report.total.rows, report.total
    idle: dict[str, int] = {}
    for rest in report.idle:
        name = {"model": f" {rest.model}", "version": f" {rest.model}@{rest.version[:12]}"}.get(report.question.by, "")
        idle[name] = idle.get(name, 0) + rest.idle_pico
    for name, pico in idle.items():
        cost = money(usd_per_million(pico, rows))
        table.add_row(f"idle{name}", *[cost if column.title == DOLLARS else "" for column in shown], style="dim")
    cost = money(usd_per_million(total.pico_usd + report.idle_pico, rows))
    cells = [cost if column.title == DOLLARS else column.cell(total) for column in shown]
    table.add_row("total", *cells, style="bold")
    return table


def promises_table(promises: tuple[Promise, ...]) -> Table:
    """What each Route promises, and whether it held."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("route", "promise", "promised"):
        table.add_column(name, no_wrap=True)
    table.add_column("measured", justify="right")
    table.add_column("held")
    for promise in promises:
        held = {True: "yes", False: "NO", None: "not yet known"}[promise.held]
        style = "red" if promise.held is False else None
        table.add_row(promise.route, promise.what, promise.promised, money(promise.measured), held, style=style)
    return table


def notes(report: Report) -> list[str]:
    """What the reader has to know about the figures."""
    found = ["* dollars spent here for a million of all inferences in this report, so that the lines add up"]
    if report.idle:
        hours = sum(rest.ready_ns for rest in report.idle) / NS_PER_HOUR
        found.append(
            f"{hours:.3g} model hours cost ${to_usd(report.bill_pico):.6g}: "
            f"${to_usd(report.busy_pico):.6g} busy and ${to_usd(report.idle_pico):.6g} idle"
        )
    if report.idle_pico < 0:
        found.append("idle is negative: calls ran side by side, and were busy for more than the hours that passed")
    if report.question.route is not None and report.idle:
        found.append("the bill is that of the route's models, with what other routes spent on them")
    if report.summarised:
        found.append(
            f"{report.summarised:,} requests are known by counts and money only, because the spool was full; "
            "latency and accuracy leave them out"
        )
    return found


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"


def milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def money(value: float | None) -> str:
    """A figure with four digits that say something, or more where there are more before the point."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}"


def accuracy(line: Line) -> str:
    """In percent, with its 95 % interval."""
    interval = line.accuracy_95
    if line.accuracy is None or interval is None:
        return NOTHING
    return f"{100 * line.accuracy:.1f} % ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


class _Column(msgspec.Struct, frozen=True):
    """A column of the table, and whether a report needs it."""

    title: str
    cell: Callable[[Line], str]
    needed: Callable[[Report], bool] = lambda _: True


_COLUMNS = (
    _Column("requests", lambda line: f"{line.requests:,}", lambda report: report.total.requests != report.total.rows),
    _Column("share", lambda line: percent(line.share)),
    _Column("rows", lambda line: f"{line.rows:,}"),
    _Column("p50 ms", lambda line: milliseconds(line.p50_ms)),
    _Column("p95 ms", lambda line: milliseconds(line.p95_ms)),
    _Column("p99 ms", lambda line: milliseconds(line.p99_ms)),
    _Column(DOLLARS, lambda line: money(line.usd_per_million)),
    _Column("accuracy (95 %)", accuracy, lambda report: report.total.labelled > 0),
    _Column("refused", lambda line: f"{line.refused:,}", lambda report: report.total.refused > 0),
    _Column("failed", lambda line: f"{line.failed:,}", lambda report: report.total.failed > 0),
    _Column("abandoned", lambda line: f"{line.abandoned:,}", lambda report: report.total.abandoned > 0),
)

"""`servery report`: shares, latency, dollars and quality, from the Records in the ledger."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlencode

import msgspec
import typer

from servery.cli.plan import SERVER_HELP
from servery.cli.reach import fail, told
from servery.control.published import SnapshotError, read_snapshot
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.telemetry.report import Line, Question, Report
from servery.telemetry.spans import parse_span
from servery.telemetry.tally import By
from servery.terms.money import to_usd
from servery.terms.routes import Route
from servery.web.reports import Unreadable, read_report

_CSV_COLUMNS = (
    "kind", "route", "name", "requests", "served", "refused", "failed", "abandoned", "rows", "share", "p50_ms",
    "p95_ms", "p99_ms", "usd", "usd_per_million", "labelled", "correct", "accuracy", "accuracy_low", "accuracy_high",
)  # fmt: skip


def report(
    data: Annotated[Path, typer.Option(help="The data folder of the Servery that keeps the Records.")] = Path(
        ".servery"
    ),
    since: Annotated[str, typer.Option(help="How far back: 30m, 1h, 2d, or all.")] = "1h",
    by: Annotated[By, typer.Option(help="What the lines stand for.")] = "tier",
    route: Annotated[str | None, typer.Option(help="Only this route.")] = None,
    output: Annotated[Literal["table", "json", "csv"], typer.Option("-o", "--output", help="How to print.")] = "table",
    server: Annotated[str, typer.Option(help=SERVER_HELP)] = "",
) -> None:
    """Shares, latency, dollars and quality of what was served, and whether the promises held.

    Share, latency and accuracy go by what answered; dollars by what spent them.
    """
    until_ns = Clock().wall_ns() + 1
    span = parse_span(since)
    if span is None:
        raise typer.BadParameter(
            f"{since!r} is not a span of time; write for instance 30m, 1h, 2d or all", param_hint="--since"
        )
    if server:
        asked = {"since": since, "by": by, **({} if route is None else {"route": route})}
        answer = told(None, server, f"/report?{urlencode(asked)}", Report)
    else:
        folder = DataFolder(data)
        try:
            question = Question(0 if span == 0 else until_ns - span, until_ns, by, route)
            answer = read_report(folder.ledger, question, routes_of(folder))
        except Unreadable as error:
            fail(str(error))
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2))
    elif output == "csv":
        _write_csv(answer)
    else:
        from servery.cli.tables import show  # noqa: PLC0415 (rich is for people, and takes a while to import)

        show(answer)


def routes_of(folder: DataFolder) -> dict[str, Route]:
    """The Routes whose promises are looked at; none where nothing is published."""
    try:
        return dict(read_snapshot(folder.snapshot).manifest.routes)
    except SnapshotError as error:
        typer.echo(f"promises are left out: {error}", err=True)
        return {}


def _write_csv(answer: Report) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for line in answer.lines:
        writer.writerow(_cells("line", line))
    for rest in answer.idle:
        name = rest.model if answer.question.by == "model" else f"{rest.model}@{rest.version}"
        cells = dict.fromkeys(_CSV_COLUMNS, "") | {"kind": "idle", "name": name, "usd": str(to_usd(rest.idle_pico))}
        writer.writerow(cells.values())
    writer.writerow(_cells("total", answer.total))


def _cells(kind: str, line: Line) -> list[object]:
    interval = line.accuracy_95
    return [
        kind, line.route, line.name, line.requests, line.served, line.refused, line.failed, line.abandoned, line.rows,
        line.share, line.p50_ms, line.p95_ms, line.p99_ms, to_usd(line.pico_usd), line.usd_per_million, line.labelled,
        line.correct, line.accuracy, interval.low if interval else None, interval.high if interval else None,
    ]  # fmt: skip

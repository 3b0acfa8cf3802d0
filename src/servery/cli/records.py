"""`servery report`: shares, latency, dollars and quality, from the Records in the ledger."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec
import typer
from sqlalchemy.exc import DBAPIError

from servery.control.apply import SnapshotError, read_snapshot
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.store.ledger import Ledger, WrongLedger
from servery.telemetry.report import Line, Question, Report, make_report
from servery.telemetry.tally import By
from servery.terms.money import to_usd
from servery.terms.routes import Route

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
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
    since_ns = 0 if span == 0 else until_ns - span
    try:
        answer = read_report(data, Question(since_ns, until_ns, by, route))
    except WrongLedger as error:
        _fail(str(error))
    except DBAPIError as error:
        _fail(f"{DataFolder(data).ledger} can't be read: {error.orig}")
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2))
    elif output == "csv":
        _write_csv(answer)
    else:
        from servery.cli.tables import show  # noqa: PLC0415 (rich is for people, and takes a while to import)

        show(answer)


def read_report(data: Path, question: Question) -> Report:
    """The Report of one data folder; WrongLedger when it has none, DBAPIError when it can't be read."""
    folder = DataFolder(data)
    ledger = Ledger(folder.ledger)
    try:
        chunks = ledger.read(question.since_ns, question.until_ns)
        summaries = ledger.summaries(question.since_ns, question.until_ns)
        uptimes = ledger.uptimes(question.since_ns, question.until_ns)
        return make_report(question, chunks, summaries, uptimes, _routes(folder))
    finally:
        ledger.close()


def parse_span(text: str) -> int | None:
    """ns of "30m", "1h" and the like; 0 for "all"; None for what is neither."""
    if text == "all":
        return 0
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw])", text.strip())
    return max(1, int(float(match[1]) * _UNITS[match[2]] * 1e9)) if match else None


def _routes(folder: DataFolder) -> dict[str, Route]:
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


def _fail(message: str) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(1)

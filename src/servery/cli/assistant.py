"""The demo of language models: three that a vendor on this machine plays, behind one route."""

from __future__ import annotations

import csv
import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from rich.console import Console
from rich.table import Table

from servery.cli.child import Child, free_port, typed
from servery.cli.demonstration import Demo, comparison, judged, measure, prepare, show_tiers, started
from servery.cli.examples import ANSWERING, ASSISTANT, Stopped
from servery.cli.tables import print_table, promises_table
from servery.control.declare import declare
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.store.ledger import Ledger
from servery.telemetry.report import Report
from servery.terms.record import Attempt, Role

DEMO = Demo(ASSISTANT, "questions", "assistant")
INVOICE = "/vendor/invoice"
PORT = 9000  # that of the vendor in the example's manifest


class Booked(msgspec.Struct):
    """What one model was asked, by the Records or by the vendor's invoice. `estimated` calls were counted by us."""

    calls: int = 0
    read: int = 0
    written: int = 0
    estimated: int = 0


def run(folder: Path, port: int, console: Console) -> None:
    """Start a vendor and Servery, ask the questions, and show what routing saves. Stopped, ChildFailed."""
    if prepare(DEMO, folder, console) and not _is_free(PORT):
        _move_vendor(folder, console)
    with (folder / "answers.csv").open(newline="", encoding="utf-8") as file:
        count = sum(1 for _ in csv.DictReader(file))
    clock = Clock()
    began_ns = clock.wall_ns()
    vendor = Child(_vendor_command(folder), _vendor_port(folder), clock, INVOICE)
    with started(vendor, "Starting the vendor", console):
        console.print(f"A vendor on {vendor.url} says again what its models said: {', '.join(ANSWERING)}")
        reports = measure(DEMO, folder, port, count, console)
        invoice = _invoice(vendor.port)
    show(reports, console)
    show_books(_attempts(folder, began_ns, clock.wall_ns()), invoice, console)
    console.print(what_next(folder))


def show(reports: Mapping[str, Report], console: Console) -> None:
    """Tiers of the route, the promises, and the two routes that know one model only."""
    report = reports[DEMO.route]
    show_tiers(DEMO, report, console)
    console.print("\nThe same questions, through one model only and through all three")
    print_table(console, comparison(DEMO, reports, timed=True))
    console.print("\nWhat the manifest promises")
    print_table(console, promises_table(report.promises))
    console.print(judged(report.promises))


def show_books(attempts: Iterable[Attempt], invoice: Iterable[Mapping[str, Any]], console: Console) -> None:
    """What the Records say was bought, beside what the vendor would have billed."""
    ours, roles = _booked(attempts)
    theirs = _billed(invoice)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    for title in ("calls", "tokens read", "written", "estimated", "billed: read", "written"):
        table.add_column(title, justify="right", no_wrap=True)
    for model in ANSWERING:
        own, bill = ours.get(model, Booked()), theirs.get(model, Booked())
        cells = (own.calls, own.read, own.written, own.estimated, bill.read, bill.written)
        table.add_row(model, *(f"{cell:,}" for cell in cells))
    console.print("\nWhat was bought, by the Records and by the vendor's own invoice")
    print_table(console, table)
    console.print(
        f"{roles[Role.RETRY]} calls were made again after the vendor failed, {roles[Role.HEDGE]} beside one that took long. "
        "The slower of two is given up: its tokens are estimated."
    )


def _booked(attempts: Iterable[Attempt]) -> tuple[dict[str, Booked], Counter[Role]]:
    found: dict[str, Booked] = {}
    roles: Counter[Role] = Counter()
    for attempt in attempts:
        roles[attempt.role] += 1
        booked = found.setdefault(attempt.model, Booked())
        booked.calls += 1
        booked.estimated += attempt.estimated
        if attempt.tokens is not None:
            booked.read += attempt.tokens.input
            booked.written += attempt.tokens.output
    return found, roles


def _billed(invoice: Iterable[Mapping[str, Any]]) -> dict[str, Booked]:
    found: dict[str, Booked] = {}
    for line in invoice:
        booked = found.setdefault(line["model"].partition("?")[0], Booked())
        booked.calls += 1
        booked.read += line["prompt_tokens"]
        booked.written += line["completion_tokens"]
    return found


def _invoice(port: int) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", INVOICE)
        return json.loads(connection.getresponse().read())["lines"]
    finally:
        connection.close()


def _attempts(folder: Path, since_ns: int, until_ns: int) -> list[Attempt]:
    ledger = Ledger(DataFolder(folder / ".servery").ledger)
    try:
        chunks = ledger.read(since_ns, until_ns)
        return [attempt for chunk in chunks for record in chunk.records for attempt in record.attempts]
    finally:
        ledger.close()


def _vendor_command(folder: Path) -> list[str | Path]:
    columns = [part for model in ANSWERING for part in ("--answer", model)]
    return ["fake-vendor", "--answers", folder / "answers.csv", *columns]


def _vendor_port(folder: Path) -> int:
    """Where the manifest says that its vendor is. Stopped."""
    manifest = declare(folder / "servery.yaml").manifest
    model = None if manifest is None else manifest.models.get(ANSWERING[0])
    place = urlsplit(model.endpoint if model else "")
    if place.hostname != "127.0.0.1" or place.port is None:
        raise Stopped(
            f"the model {ANSWERING[0]!r} in {folder / 'servery.yaml'} has no endpoint like http://127.0.0.1:{PORT}/v1, "
            "where the demo's vendor could stand in: give another folder, as in `servery demo --llm DIR`"
        )
    if not _is_free(place.port):
        raise Stopped(
            f"something listens on port {place.port} already: end it, or write another port into {folder / 'servery.yaml'}"
        )
    return place.port


def _move_vendor(folder: Path, console: Console) -> None:
    manifest, port = folder / "servery.yaml", free_port()
    manifest.write_text(manifest.read_text("utf-8").replace(f"127.0.0.1:{PORT}/", f"127.0.0.1:{port}/"), "utf-8")
    console.print(f"Port {PORT} is taken: the endpoint in {manifest} is 127.0.0.1:{port}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def what_next(folder: Path) -> str:
    servery, python = typed("servery"), typed("python")
    columns = " ".join(f"--answer {model}" for model in ANSWERING)
    return f"""
Everything is kept in {folder}: the manifest, the questions, the Records. To go on:
  {servery} fake-vendor --port {_vendor_port(folder)} --answers {folder}/answers.csv {columns} &
  {servery} up {folder}/servery.yaml
      keep both running; in a second terminal:
  {python} {folder}/send.py
      asks the questions again
  {servery} report --data {folder}/.servery --since all
      shows what the Records say by now
Then change something: lower an `accept` in {folder}/servery.yaml and see share, dollars and accuracy move;
order more faults behind a model's question mark; put a model that you rent behind a tier. {folder}/README.md says how."""

"""`servery drift`: whether what models are asked, what they say, and how that is judged, is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn
from urllib.parse import urlencode

import msgspec
import typer
from sqlalchemy.exc import DBAPIError

from servery.cli.plan import SERVER_HELP
from servery.cli.plan_text import moment
from servery.cli.reach import Cut, Failed, Unreached, folder_of, reach
from servery.control.alarms import looks_of
from servery.control.published import SnapshotError, read_snapshot
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.store.ledger import WrongLedger
from servery.terms.drift import DriftLook, DriftLooks


def drift(
    model: Annotated[str, typer.Argument(help="Only this model; default: all that declare `drift`.")] = "",
    data: Annotated[Path, typer.Option(help="The data folder of the Servery that keeps the Records.")] = Path(
        ".servery"
    ),
    back: Annotated[int, typer.Option(min=0, max=1_000, help="So many windows before the last whole one.")] = 0,
    output: Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="How to print.")] = "table",
    server: Annotated[str, typer.Option(help=SERVER_HELP)] = "",
) -> None:
    """Show the last whole window of each model beside its reference: what has drifted, and what could not have been seen.

    Exit 1 where something alarms.
    """
    looks = _there(server, model, back) if server else _looks(DataFolder(data), model, back)
    if not looks:
        _stop("no model declares `drift`; write for instance `drift: {features: [age]}` below a model, and apply")
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(DriftLooks(looks)), indent=2))
    else:
        for one in looks:
            _show(one)
    if any(one.alarmed for one in looks):
        raise typer.Exit(1)


def _there(server: str, model: str, back: int) -> tuple[DriftLook, ...]:
    try:
        asked = urlencode({"model": model, "back": back})
        return reach(folder_of(None, None), server).get(f"/drift?{asked}", DriftLooks).looks
    except (Unreached, Cut, Failed) as error:  # with 2: 1 says that something alarms
        _stop(str(error))


def _looks(folder: DataFolder, model: str, back: int) -> tuple[DriftLook, ...]:
    try:
        manifest = read_snapshot(folder.snapshot).manifest
        return looks_of(folder.ledger, manifest, model, back, Clock().wall_ns())
    except (SnapshotError, WrongLedger, LookupError) as error:
        _stop(str(error))
    except DBAPIError as error:
        _stop(f"{folder.ledger} can't be read: {error.orig}")


def _show(one: DriftLook) -> None:
    from rich.console import Console  # noqa: PLC0415 (rich is for people, and takes a while to import)
    from rich.table import Table  # noqa: PLC0415

    from servery.cli.tables import NOTHING, print_table  # noqa: PLC0415

    console = Console(highlight=False)
    console.print(f"{one.model}, {moment(one.since_ns)} to {moment(one.until_ns)}", style="bold", soft_wrap=True)
    if one.waits:
        console.print(f"not yet: {one.waits}", soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("version", "tenant", "feature"):
        table.add_column(title, no_wrap=True)
    for title in ("reference", "window", "distance", "p", "seen from", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for shift in sorted(one.shifts, key=lambda shift: 2.0 if shift.p is None else shift.p):
        figures = (NOTHING,) * 3
        if shift.p is not None:
            figures = (f"{shift.distance:.3f}", f"{shift.p:.2g}", f"{shift.seen:.3f}")
        said = "not yet" if shift.p is None else "ALARM" if shift.alarm else "no drift seen"
        cells = (shift.version, shift.tenant, shift.feature, f"{shift.reference:,}", f"{shift.window:,}")
        table.add_row(*cells, *figures, said, style="red" if shift.alarm else None)
    print_table(console, table)
    console.print(
        f"A false alarm is expected once in {one.days_between:g} days, over all lines. `seen from`: a smaller distance "
        "would have been missed in more than 20 of 100 windows like this",
        style="dim",
        soft_wrap=True,
    )


def _stop(message: str) -> NoReturn:
    typer.echo(f"servery drift: {message}", err=True)
    raise typer.Exit(2)

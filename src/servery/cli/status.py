"""`servery status`: what a running Servery serves, and who answers by it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from servery.cli.plan import SERVER_HELP
from servery.cli.reach import told
from servery.cli.tables import print_table
from servery.web.bodies import Status, VersionNow


def status(
    data: Annotated[
        Path | None, typer.Option(help="Data folder of the running Servery; default: .servery here.")
    ] = None,
    server: Annotated[str, typer.Option(help=SERVER_HELP)] = "",
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="How to print it.")] = "text",
) -> None:
    """Show the epoch that is published, the workers with the epoch that each answers by, and every version."""
    now = told(data, server, "/status", Status)
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(now), indent=2))
        return
    typer.echo(f"epoch {now.epoch} of {now.file} ({now.digest[:12]})")
    for worker in now.workers:
        typer.echo(
            f"{worker.name}: {'answers by it' if worker.epoch == now.epoch else f'answers by epoch {worker.epoch}'}"
        )
    if now.versions:
        print_table(Console(highlight=False), _table(now.versions))


def _table(versions: tuple[VersionNow, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("model", "number", "version", "labels", "standing"):
        table.add_column(title, no_wrap=True)
    table.add_column("problem")
    for one in versions:
        table.add_row(one.model, one.number, one.version, ", ".join(one.labels), one.standing, one.problem)
    return table

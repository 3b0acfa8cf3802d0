"""`servery plan`: what `apply` would do now."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from servery.cli.plan_text import plan_text
from servery.cli.reach import Cut, Failed, Reach, Unreached, fail, fail_with, folder_of, reach
from servery.host.settings import DataFolder
from servery.web.bodies import Planned

SERVER_HELP = (
    "The admin API of a Servery elsewhere, for instance https://servery.example:8002; it reads its own manifest again. "
    "The admin key is taken from SERVERY_KEY."
)


def plan(
    manifest: Annotated[Path | None, typer.Argument(help="The manifest, for instance servery.yaml.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder; default: .servery beside the manifest.")] = None,
    server: Annotated[str, typer.Option(help=SERVER_HELP)] = "",
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="How to print it.")] = "text",
    detailed: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 2 where there is something to do.")
    ] = False,
) -> None:
    """Show what `servery apply` would do, what it means for callers and for money, and change nothing.

    Where no Servery runs, it is compared with what was served last. Exit 1 if the manifest has problems.
    """
    if (manifest is None) == (not server):
        fail("name the manifest, for instance `servery plan servery.yaml`, or a Servery elsewhere with --server")
    folder = folder_of(manifest, data)
    planned = ask(reach(folder, server), folder, manifest)
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(planned), indent=2))
    else:
        typer.echo(plan_text(planned.plan, sys.stdout.isatty()))
    for problem in planned.problems:
        typer.echo(str(problem), err=True)
    if planned.problems:
        raise typer.Exit(1)
    if detailed and (planned.plan.steps or planned.plan.held):
        raise typer.Exit(2)


def ask(there: Reach, folder: DataFolder, manifest: Path | None) -> Planned:
    """The Plan of a controller, or of this process where none runs."""
    try:
        return there.post("/plan", {} if manifest is None else {"file": str(manifest.absolute())}, Planned)
    except (Unreached, Cut) as error:
        if not there.here or manifest is None:
            fail(str(error))
        return _alone(folder, manifest.absolute())
    except Failed as failed:
        fail_with(failed)


def _alone(folder: DataFolder, manifest: Path) -> Planned:
    from servery.control.apply import into  # noqa: PLC0415 where nobody else looks
    from servery.control.planning import Standpoint, look_at_file  # noqa: PLC0415
    from servery.control.published import SnapshotError, read_snapshot, read_took  # noqa: PLC0415 where nobody else looks
    from servery.store.state import State, WrongState  # noqa: PLC0415

    try:
        snapshot = read_snapshot(folder.snapshot)
        told = f"No Servery runs on {folder.path}; compared with what it served last."
    except SnapshotError:
        snapshot, told = None, f"No Servery ever ran on {folder.path}."
    typer.echo(told, err=True)
    held, revision = [], 0
    if folder.state.exists():
        try:
            state = State(folder.state, folder.heads)
            last = state.revisions(1)
            held, revision = state.held(), last[0].number if last else 0
        except WrongState as error:
            fail(str(error))
    looked = look_at_file(manifest, Standpoint(snapshot, revision, held, read_took(folder.took), into(folder)))
    if looked.plan is None:
        for problem in looked.problems:
            typer.echo(str(problem), err=True)
        fail("the manifest has problems")
    return Planned(looked.plan, looked.problems)

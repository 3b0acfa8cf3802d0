"""`servery history`: what was published, when, by whom and why; and the manifest of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from servery.cli.plan import SERVER_HELP
from servery.cli.plan_text import moment
from servery.cli.reach import Cut, Failed, Unreached, fail, fail_with, folder_of, reach, state_in
from servery.cli.tables import print_table
from servery.store.state import WrongState
from servery.terms.history import Revision
from servery.web.bodies import Revisions, RevisionText

_STEPS = 3  # of a revision, that its line has room for


def history(
    number: Annotated[int | None, typer.Argument(min=1, help="Print the manifest of this revision, as it was.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder; default: .servery.")] = None,
    server: Annotated[str, typer.Option(help=SERVER_HELP)] = "",
    most: Annotated[int, typer.Option(min=1, max=500, help="How many revisions, from the newest on.")] = 20,
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="How to print it.")] = "text",
) -> None:
    """What was published, the newest first: `servery apply --revision NUMBER` returns to one that is kept."""
    try:
        if number is not None:
            typer.echo(_source(number, data, server), nl=False)
            return
        found = _revisions(most, data, server)
    except (Unreached, Cut, WrongState) as error:
        fail(str(error))
    except Failed as failed:
        fail_with(failed)
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    print_table(Console(highlight=False), _table(found.revisions))


def _source(number: int, data: Path | None, server: str) -> str:
    if server:
        return reach(folder_of(None, None), server).get(f"/history/{number}", RevisionText).source
    found = state_in(folder_of(None, data)).revision(number)
    if found is None:
        fail(f"there is no revision {number}, or not any more: `servery history` lists them")
    return found[1]


def _revisions(most: int, data: Path | None, server: str) -> Revisions:
    if server:
        return reach(folder_of(None, None), server).get(f"/history?most={most}", Revisions)
    return Revisions(tuple(state_in(folder_of(None, data)).revisions(most)))


def _table(revisions: tuple[Revision, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("revision", "when", "who", "how", "manifest"):
        table.add_column(title, no_wrap=True)
    table.add_column("why")
    table.add_column("what changed")
    for one in revisions:
        number = f"{one.number}" if one.kept else f"{one.number} (a line only)"
        how = f"{one.act} {one.returns_to}" if one.returns_to else one.act
        steps = [*one.steps[:_STEPS], *([f"… {len(one.steps) - _STEPS} more"] if len(one.steps) > _STEPS else [])]
        table.add_row(number, moment(one.at_ns), one.who, how, one.digest[:12], one.why, "\n".join(steps))
    return table

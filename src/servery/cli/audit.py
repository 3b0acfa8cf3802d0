"""`servery audit`: who changed what, when and why; and whether that was altered since."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from servery.cli.plan import SERVER_HELP
from servery.cli.plan_text import moment
from servery.cli.reach import Cut, Failed, Unreached, fail, fail_with, folder_of, reach, state_in
from servery.control.auditing import head_of
from servery.control.auditing import verify as look
from servery.host.clock import Clock
from servery.store.state import WrongState
from servery.telemetry.spans import parse_span
from servery.terms.audit import Verified
from servery.web.bodies import Entries, EntryShown, shown

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_PAGE = 500
Data = Annotated[Path | None, typer.Option(help="Data folder; default: .servery.")]
Server = Annotated[str, typer.Option(help=SERVER_HELP)]


@app.callback()
def audit() -> None:
    """The audit: an entry for every change, each sealed with the one before."""


@app.command()
def verify(
    data: Data = None,
    server: Server = "",
    head: Annotated[
        list[str] | None,
        typer.Option(help="NUMBER:SEAL of an entry, which you keep elsewhere; `apply` and the log say them."),
    ] = None,
) -> None:
    """Find entries that were altered, left out, or cut off at the end. Exit 1 if any were.

    Whoever rewrites state.db and audit.heads together isn't found by them: a head that is kept elsewhere finds that.
    """
    noted = list(head or ())
    if wrong := next((one for one in noted if head_of(one) is None), ""):
        fail(f"--head is NUMBER:SEAL, such as 12:{'0' * 8}…, with 64 hex digits, not {wrong!r}")
    try:
        if server:
            found = reach(folder_of(None, None), server).get(f"/audit/verify?heads={','.join(noted)}", Verified)
        else:
            found = look(state_in(folder_of(None, data)), [one for one in map(head_of, noted) if one is not None])
    except (Unreached, Cut, WrongState) as error:
        fail(str(error))
    except Failed as failed:
        fail_with(failed)
    for fault in found.faults:
        typer.echo(fault, err=True)
    if not found.whole:
        fail(f"the audit was tampered with, or damaged ({found.entries} entries)")
    typer.echo(f"whole: {found.entries} entries, the head is {found.head}")


@app.command()
def show(
    data: Data = None,
    server: Server = "",
    since: Annotated[str, typer.Option(help="How far back: 30m, 1h, 2d, or all.")] = "all",
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="How to print it.")] = "text",
) -> None:
    """Print the entries, the oldest first; as JSON one a line, with evidence, before and after."""
    span = parse_span(since)
    if span is None:
        fail(f"--since is a span of time such as 30m, 1h, 2d or all, not {since!r}")
    since_ns = 0 if span == 0 else Clock().wall_ns() - span
    try:
        found = _there(server, since_ns) if server else _here(data, since_ns)
    except (Unreached, Cut, WrongState) as error:
        fail(str(error))
    except Failed as failed:
        fail_with(failed)
    for entry in found:
        typer.echo(msgspec.json.encode(entry).decode() if output == "json" else _line(entry))


def _here(data: Path | None, since_ns: int) -> list[EntryShown]:
    return [shown(entry) for entry in state_in(folder_of(None, data)).entries(since_ns)]


def _there(server: str, since_ns: int) -> list[EntryShown]:
    there = reach(folder_of(None, None), server)
    found: list[EntryShown] = []
    after = 0
    while page := there.get(f"/audit?after={after}&most={_PAGE}", Entries).entries:
        found += [entry for entry in page if entry.at_ns >= since_ns]
        after = page[-1].number
    return found


def _line(entry: EntryShown) -> str:
    what = f"{entry.act} {entry.subject}".strip()
    why = f": {entry.why}" if entry.why else ""
    return f"{entry.number}  {moment(entry.at_ns)}  {entry.who}  {what}, {entry.outcome}{why}  {entry.seal[:12]}"

"""`servery content`: look at what was asked and answered, count it, erase it. Every command leaves an entry in the audit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
import typer
from sqlalchemy.exc import DBAPIError

from servery.cli.audited import audited
from servery.cli.plan import SERVER_HELP
from servery.cli.reach import fail
from servery.cli.reach import told as told_by
from servery.control.published import SnapshotError, read_snapshot
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.store.contents import Contents, Counted, WrongContents
from servery.store.sealing import BadKeys, Sealer, Unreadable, read_keys
from servery.telemetry.spans import moment_of, written
from servery.terms.content import Content, Erasure, Sealed
from servery.terms.record import parse_record_id
from servery.web.contents import ContentCount, Erased

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[Path, typer.Option(help="The data folder of the Servery that keeps the Content.")]
Tenant = Annotated[str, typer.Option(help="Only this tenant's.")]
Before = Annotated[
    str,
    typer.Option(
        help="Only of requests that began before: 2026-01-31, 2026-01-31T12:00 (UTC), or 30d for 30 days ago."
    ),
]
Why = Annotated[str, typer.Option(help="The reason, for the audit.")]
Elsewhere = Annotated[str, typer.Option(help=SERVER_HELP)]
_FOLDER = Path(".servery")


@app.callback()
def contents() -> None:
    """Content: what was asked and answered, where a tenant's policy says that it is kept."""


@app.command()
def show(
    record: Annotated[str, typer.Argument(help="The id of the Record: 52 hex digits, as in servery-record-id.")],
    data: Data = _FOLDER,
    why: Why = "",
) -> None:
    """Print what was asked and answered in one request, as JSON."""
    folder, now_ns, record_id = DataFolder(data), Clock().wall_ns(), _id(record)
    with opened(folder) as store, audited(folder, "content show", record, why) as evidence:
        found = store.read([record_id], now_ns)
        if not found:
            fail("there is no Content of this Record: it isn't kept, has expired, was erased, or comes in a moment")
        evidence["tenant"] = found[0].tenant
        try:
            content = sealer_of(folder).open(found[0])
        except Unreadable as error:
            fail(f"the Content of this Record can't be read: {error}")
    typer.echo(msgspec.json.format(msgspec.json.encode(told(found[0], content)), indent=2).decode())


@app.command()
def count(
    data: Data = _FOLDER,
    tenant: Tenant = "",
    before: Before = "",
    output: Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="How to print.")] = "table",
    server: Elsewhere = "",
) -> None:
    """How much Content there is, by tenant, region and key, and how much was dropped in the last 30 days."""
    now_ns = Clock().wall_ns()
    before_ns = _moment(before, now_ns) if before else None
    if server:
        there = told_by(None, server, f"/content?{urlencode({'tenant': tenant, 'before': before})}", ContentCount)
        counted, dropped = list(there.contents), [msgspec.structs.astuple(one) for one in there.dropped]
    else:
        folder = DataFolder(data)
        with opened(folder) as store, audited(folder, "content count", tenant):
            counted, dropped = store.count(now_ns, tenant, before_ns), store.dropped(tenant)
    if output == "json":
        lines = [
            {**msgspec.structs.asdict(one), "oldest": written(one.oldest_ns), "last_expires": written(one.last_ns)}
            for one in counted
        ]
        found = {
            "contents": lines,
            "dropped": [dict(zip(("tenant", "why", "count"), one, strict=True)) for one in dropped],
        }
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    _print(counted)
    for of, why, times in dropped:
        typer.echo(f"dropped in the last 30 days: {times:,} of {of}, as {why}")


@app.command()
def erase(
    data: Data = _FOLDER,
    tenant: Tenant = "",
    record: Annotated[str, typer.Option(help="Only of this Record.")] = "",
    before: Before = "",
    why: Why = "",
    server: Elsewhere = "",
) -> None:
    """Erase Content for good. Records, with their counts, dollars and Feedback, stay as they are.

    What is on its way from a worker is erased too. Later requests are kept again, as the tenant's policy says.
    """
    if not (tenant or record or before):
        raise typer.BadParameter("say what to erase: --tenant, --record or --before, or several of them together")
    now_ns = Clock().wall_ns()
    erasure = Erasure(_moment(before, now_ns) if before else now_ns, tenant, _id(record) if record else b"")
    if server:
        asked = {"tenant": tenant, "record": record, "before": before, "reason": why}
        there = told_by(None, server, "/content/erase", Erased, asked)
        erased, clean = there.erased, there.clean
    else:
        folder = DataFolder(data)
        with opened(folder, write=True) as store, audited(folder, "content erase", record or tenant, why) as evidence:
            evidence.update({"tenant": tenant, "record": record, "before": written(erasure.before_ns)})
            evidence["erased"] = erased = store.erase(erasure, now_ns)
            clean = store.clean
    typer.echo(f"erased {erased:,} Contents")
    if not clean:
        typer.echo("somebody reads the database: its log, encrypted, is emptied within a minute after that", err=True)


@contextlib.contextmanager
def opened(folder: DataFolder, *, write: bool = False) -> Generator[Contents]:
    """The database of Content; what is wrong with it ends in a line."""
    try:
        store = Contents(folder.contents, write=write)
    except WrongContents as error:
        fail(str(error))
    except DBAPIError as error:
        fail(f"{folder.contents} can't be read: {error.orig}")
    try:
        yield store
    except DBAPIError as error:
        fail(f"{folder.contents} can't be used: {error.orig}")
    finally:
        store.close()


def sealer_of(folder: DataFolder) -> Sealer:
    """What opens the Content of a data folder, with the keys that its manifest names."""
    try:
        declared = read_snapshot(folder.snapshot).manifest.records.content_key
        return Sealer(read_keys(declared, folder.content_key, os.environ))
    except (SnapshotError, BadKeys) as error:
        fail(str(error))


def told(sealed: Sealed, content: Content) -> dict[str, Any]:
    """What is printed of it: JSON as it was sent, or as a text where it was cut."""
    return {
        "record": sealed.record_id.hex(),
        "tenant": sealed.tenant,
        "region": sealed.region,
        "expires": written(sealed.expires_ns),
        "key": sealed.key_id,
        "form": content.form,
        "cut": content.cut,
        "asked": _json(content.asked),
        "answered": [_json(part) for part in content.answered],
    }


def _json(part: bytes) -> Any:
    try:
        return msgspec.json.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return part.decode(errors="replace")


def _print(counted: list[Counted]) -> None:
    from rich.console import Console  # noqa: PLC0415 (it takes a while to import)
    from rich.table import Table  # noqa: PLC0415

    from servery.cli.tables import print_table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("tenant", "region", "key"):
        table.add_column(title, no_wrap=True)
    for title in ("contents", "MiB", "oldest", "the last expires"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in counted:
        times = (written(one.oldest_ns), written(one.last_ns))
        table.add_row(one.tenant, one.region, one.key_id, f"{one.count:,}", f"{one.size / 2**20:.2f}", *times)
    print_table(Console(highlight=False), table)


def _moment(text: str, now_ns: int) -> int:
    """The moment that --before means, in ns since 1970."""
    moment_ns = moment_of(text, now_ns)
    if moment_ns is None:
        message = f"{text!r} is no moment; write for instance 2026-01-31, 2026-01-31T12:00 or 30d"
        raise typer.BadParameter(message, param_hint="--before")
    return moment_ns


def _id(text: str) -> bytes:
    record_id = parse_record_id(text.lower())
    if record_id is None:
        raise typer.BadParameter("a Record's id has 52 hex digits, as the reply's header servery-record-id gave them")
    return record_id

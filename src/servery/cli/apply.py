"""`servery apply`: have a running Servery serve what its manifest declares now, or what an old revision declared."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from servery.cli.options import command
from servery.cli.plan import SERVER_HELP
from servery.cli.plan_text import held_text, plan_text
from servery.cli.reach import Cut, Failed, Reach, Unreached, fail, fail_with, folder_of, reach
from servery.host.clock import Clock
from servery.terms.change import Change
from servery.terms.history import Ended, Journaled
from servery.terms.plan import Plan
from servery.web.bodies import Planned, RevisionText

# So long a controller that ended is waited for, to hear what became of the change.
_AGAIN_S = 60.0
_POLL_S = 0.2


class Options(msgspec.Struct, frozen=True):
    """What to apply, where, and why."""

    manifest: Annotated[Path | None, typer.Argument(help="The manifest, for instance servery.yaml.")] = None
    data: Annotated[
        Path | None, typer.Option(help="Data folder of the running Servery; default: .servery beside the manifest.")
    ] = None
    server: Annotated[str, typer.Option(help=SERVER_HELP)] = ""
    revision: Annotated[
        int, typer.Option(min=0, help="Return to this revision of `servery history`, instead of a manifest.")
    ] = 0
    reason: Annotated[
        str, typer.Option(envvar="SERVERY_REASON", help="Why; it is remembered. Asked for in a terminal.")
    ] = ""
    retry: Annotated[str, typer.Option(help="Try a version that is held again, and why.")] = ""
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask; needs --reason.")] = False


@command(Options)
def apply(options: Options) -> None:
    """Show the plan, ask, and serve what is declared without dropping a request; answers when all workers do.

    Exit 1 where it isn't in effect.
    """
    wanted = _wanted(options)
    there = reach(folder_of(options.manifest, options.data), options.server)
    try:
        with Console(stderr=True).status("looking at what is declared"):
            planned = there.post("/plan", wanted, Planned)
        typer.echo(plan_text(planned.plan, sys.stdout.isatty()))
        if planned.problems:
            raise Failed(422, "the manifest has problems; what was served goes on", planned.problems)
        if planned.plan.steps or planned.plan.held:
            _carry_out(there, wanted, planned.plan, options)
        if options.revision:
            _show(there.get(f"/history/{options.revision}", RevisionText), there.here)
    except (Unreached, Cut) as error:
        fail(str(error))
    except Failed as failed:
        fail_with(failed)


def _wanted(options: Options) -> dict[str, object]:
    """What is asked of the controller."""
    if options.server and (options.manifest is not None or options.data is not None):
        fail("with --server the manifest that is served there is read again; leave FILE and --data out")
    if options.revision:
        return {"revision": options.revision}
    if options.server:
        return {}
    if options.manifest is None:
        fail("name the manifest, for instance `servery apply servery.yaml`, or a Servery elsewhere with --server")
    return {"file": str(options.manifest.absolute())}


def _carry_out(there: Reach, wanted: dict[str, object], plan: Plan, options: Options) -> None:
    """Unreached, Cut, Failed."""
    if plan.held and not options.retry:
        fail("; ".join(map(held_text, plan.held)) + "; to try it again, say why with --retry")
    asked = {**wanted, "reason": _confirmed(options), "retry": options.retry, "mark": plan.mark}
    change = secrets.token_hex(16)
    try:
        with Console(stderr=True).status("loading what is new"):
            done = there.post("/apply", {**asked, "change": change}, Change)
    except Cut as cut:
        _hear(there, change, cut)
        return
    workers = f"{done.workers} worker{'' if done.workers == 1 else 's'}"
    _told(f"epoch {done.epoch} is in effect in {workers}", done.revision, done.audit)


def _told(what: str, revision: int, audit: str) -> None:
    number, _, seal = audit.partition(":")
    head = f", audit {number}:{seal[:12]}" if seal else ""
    typer.echo(f"{what} (revision {revision}{head})")


def _confirmed(options: Options) -> str:
    """Why the Plan is carried out. Whoever isn't asked has said so before; whoever is, answers with the reason."""
    reason = options.reason.strip() or options.retry.strip()
    if options.yes:
        return reason or fail("say why with --reason TEXT (or SERVERY_REASON): it is remembered with the change")
    if not sys.stdin.isatty():
        fail("nobody can be asked here: with --yes and --reason TEXT it is done without asking")
    if not reason:
        said = str(typer.prompt("Do this? Then say why, in a line (nothing: don't)", default="", show_default=False))
        return said.strip() or fail("nothing was changed")
    return reason if typer.confirm("Do this?") else fail("nothing was changed")


def _hear(there: Reach, change: str, cut: Cut) -> None:
    """What became of a change whose controller ended meanwhile: its next life goes on with it. Cut, Failed."""
    journaled = _journaled(there, change, cut)
    if journaled.ended is not Ended.IN_EFFECT:
        message = f"{journaled.message or journaled.ended.value}; what was served goes on: apply it again"
        raise Failed(409, message, ())
    what = f"the controller ended and started again meanwhile; epoch {journaled.epoch} is in effect"
    _told(what, journaled.revision, journaled.audit)


def _journaled(there: Reach, change: str, cut: Cut) -> Journaled:
    clock = Clock()
    until_ns = clock.steady_ns() + int(_AGAIN_S * 1e9)
    while clock.steady_ns() < until_ns:
        time.sleep(_POLL_S)
        try:
            journaled = there.get(f"/changes/{change}", Journaled)
        except (Unreached, Cut):
            continue
        except Failed as failed:
            if failed.status == 404:
                message = "the controller ended before it had begun; nothing was changed: apply it again"
                raise Failed(404, message, ()) from None
            raise
        if journaled.ended is not Ended.UNDER_WAY:
            return journaled
    raise cut


def _show(found: RevisionText, here: bool) -> None:
    """The manifest that is served now, and that its file is another one."""
    typer.echo(found.source, nl=False)
    file, number = Path(found.revision.file), found.revision.number
    if here and file.is_file() and file.read_bytes().decode(errors="replace") == found.source:
        return
    said = f"{file} says something else than what is served now: `servery history {number}` prints what it has to say"
    typer.echo(
        f"{said}. Until it does, the next apply or start goes by that file, and `servery plan` shows the difference.",
        err=True,
    )

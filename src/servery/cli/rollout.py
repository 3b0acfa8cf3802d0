"""`servery rollout`: what is being rolled out, what its guards say, and what only a person may do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from servery.cli.plan import SERVER_HELP
from servery.cli.reach import told
from servery.terms.rollouts import Phase, Rollout
from servery.web.bodies import AllRollouts, PastRollouts, RolloutNow

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[Path | None, typer.Option(help="Data folder of the running Servery; default: .servery here.")]
Elsewhere = Annotated[str, typer.Option(help=SERVER_HELP)]
Model = Annotated[str, typer.Argument(help="The model whose rollout is meant.")]
Why = Annotated[str, typer.Option("--reason", envvar="SERVERY_REASON", help="Why; it is remembered.")]


@app.command()
def status(
    data: Data = None,
    server: Elsewhere = "",
    past: Annotated[bool, typer.Option("--past", help="Those that are over, the newest first.")] = False,
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="How to print it.")] = "text",
) -> None:
    """Show each rollout that is under way: its step, its share, and what each guard says."""
    if past:
        over = told(data, server, "/rollouts/past", PastRollouts)
        _print(over, output, [_head(one) for one in over.rollouts] or ["No rollout is over yet."])
        return
    now = told(data, server, "/rollouts", AllRollouts)
    if output == "json" or not now.rollouts:
        _print(now, output, ["Nothing is being rolled out."])
        return
    for one in now.rollouts:
        typer.echo(_head(one.rollout))
        Console(width=None if Console().is_terminal else 200).print(_guards(one))


@app.command()
def pause(model: Model, reason: Why = "", data: Data = None, server: Elsewhere = "") -> None:
    """Stay at the share that there is: nothing is judged until it is resumed."""
    _act(model, "pause", reason, data, server)


@app.command()
def resume(model: Model, reason: Why = "", data: Data = None, server: Elsewhere = "") -> None:
    """Go on with a rollout that was paused; its step begins anew."""
    _act(model, "resume", reason, data, server)


@app.command()
def promote(model: Model, reason: Why = "", data: Data = None, server: Elsewhere = "") -> None:
    """Serve the new version to everybody now, whatever its guards say."""
    _act(model, "promote", reason, data, server)


@app.command()
def abort(model: Model, reason: Why = "", data: Data = None, server: Elsewhere = "") -> None:
    """Serve the old version to everybody again. The new one is held until `servery apply --retry REASON`."""
    _act(model, "abort", reason, data, server)


def _act(model: str, verb: str, reason: str, data: Path | None, server: str) -> None:
    done = told(data, server, f"/rollouts/{quote(model)}/{verb}", Rollout, {"reason": reason})
    typer.echo(_head(done))


def _print(value: msgspec.Struct, output: str, lines: list[str]) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2) if output == "json" else "\n".join(lines))


def _head(rollout: Rollout) -> str:
    steps = rollout.policy.steps
    where = f"step {rollout.step + 1} of {len(steps)}, {rollout.reach}"
    told = f"{rollout.model}: {rollout.incumbent} → {rollout.candidate}  {rollout.policy.kind}  {rollout.phase.value}"
    if rollout.phase is not Phase.PROMOTED and not rollout.phase.over:
        told += f"  ({where})"
    return told + (f": {rollout.why}" if rollout.why else "")


def _guards(one: RolloutNow) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("guard", "verdict", "harm", "tolerated", "old calls", "new calls"):
        table.add_column(name, justify="left" if name in ("guard", "verdict") else "right")
    for look in one.looks:
        bounds = f"{look.low:.4g} to {look.high:.4g}"
        table.add_row(
            look.guard, look.verdict.value, bounds, f"{look.margin:.4g}", f"{look.incumbents:,}", f"{look.candidates:,}"
        )
    return table

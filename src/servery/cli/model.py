"""`servery model`: models of a running Servery by hand: load, unload, and the versions that are held."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console

from servery.cli.plan import SERVER_HELP
from servery.cli.plan_text import held_text
from servery.cli.reach import told
from servery.terms.change import Change
from servery.web.bodies import AllHeld

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[Path | None, typer.Option(help="Data folder of the running Servery; default: .servery here.")]
Elsewhere = Annotated[str, typer.Option(help=SERVER_HELP)]
Model = Annotated[str, typer.Argument(help="The model.")]
Why = Annotated[str, typer.Option("--reason", envvar="SERVERY_REASON", help="Why; it is remembered.")]


@app.callback()
def models() -> None:
    """Models of a running Servery."""


@app.command()
def load(model: Model, reason: Why = "", data: Data = None, server: Elsewhere = "") -> None:
    """Read the model's artifacts again, and serve them; answers when all workers do."""
    _change(model, "load", reason, data, server)


@app.command()
def unload(model: Model, reason: Why = "", data: Data = None, server: Elsewhere = "") -> None:
    """Take the model out of memory until it is loaded again, or an `apply`."""
    _change(model, "unload", reason, data, server)


@app.command()
def held(
    data: Data = None,
    server: Elsewhere = "",
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="How to print it.")] = "text",
) -> None:
    """Show the versions that were rolled back or stopped: only `apply --retry REASON` tries one again."""
    found = told(data, server, "/held", AllHeld)
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    for line in [held_text(one) for one in found.held] or ["No version is held."]:
        typer.echo(line)


def _change(model: str, verb: str, reason: str, data: Path | None, server: str) -> None:
    with Console(stderr=True).status(f"{verb}ing {model}"):
        done = told(data, server, f"/models/{quote(model)}/{verb}", Change, {"reason": reason})
    typer.echo(f"epoch {done.epoch} is in effect in {done.workers} worker{'' if done.workers == 1 else 's'}")

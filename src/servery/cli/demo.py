"""`servery demo`: serve an example, send it what it is for, and print what the Records say about it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from servery.cli import assistant, digits
from servery.cli.child import ChildFailed
from servery.cli.examples import Stopped


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="where the demo lives; kept afterwards; default: demo, or demo-llm"),
    ] = None,
    port: Annotated[int, typer.Option(help="port to serve on; 0 takes a free one")] = 0,
    llm: Annotated[
        bool, typer.Option("--llm", help="three language models that a vendor on this machine plays")
    ] = False,
) -> None:
    """Train, serve and measure three real models behind one route, and show what routing saves.

    With --llm the models are language models: recorded answers, which a vendor on this machine says again.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        if llm:
            assistant.run(folder or Path("demo-llm"), port, console)
        else:
            digits.run(folder or Path("demo"), port, console)
    except (Stopped, ChildFailed) as stopped:
        typer.echo(f"servery demo: {stopped}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("servery demo: stopped before the end; what was written is kept", err=True)
        raise typer.Exit(130) from None


def _interrupt(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - the form that signal wants
    raise KeyboardInterrupt

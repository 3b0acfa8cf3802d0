"""`servery init DIR`: a copy of an example, to run as it is and then to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from servery.cli.examples import EXAMPLES, Stopped, can_make, copy_example, make, next_commands


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to write the example; made if it is missing")],
    example: Annotated[
        Literal["digits", "assistant"],
        typer.Option(help="digits: three models of your own; assistant: three rented language models"),
    ] = "digits",
    train: Annotated[
        bool, typer.Option(help="make the rest too: train the models (a few seconds), write the questions")
    ] = True,
) -> None:
    """Write an example to start from: manifest, models or questions, a caller."""
    chosen = EXAMPLES[example]
    try:
        copy_example(chosen, folder)
        typer.echo(f"wrote {', '.join(chosen.files)} into {folder}")
        if train and can_make(chosen):
            make(chosen, folder)
    except Stopped as stopped:
        typer.echo(f"servery init: {stopped}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(["", "Next:", *(f"  {line}" for line in next_commands(chosen, folder))]))

"""`servery fake-vendor`: an endpoint to try language routes on, which costs nothing and fails as it is told."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
import uvloop

from servery.host.rows import Unreadable
from servery.host.tuning import open_many
from servery.vendor.answers import Answers, read_answers
from servery.vendor.app import Vendor


def fake_vendor(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed and the same calls give the same answers.")] = 0,
    key: Annotated[str, typer.Option(help="Refuse callers who don't send it (401).")] = "",
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Say what was recorded in this file: .csv, .jsonl, also as .gz.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="The column of the prompts in FILE.")] = "prompt",
    answer: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL[=COLUMN]", help="A model, and the column of its answers in FILE; once for each."),
    ] = None,
) -> None:
    """Answer like a vendor of language models, until SIGTERM or Ctrl-C.

    A model's name orders how it behaves, behind a question mark: `small?tokens=40&latency_ms=20&fault=cut:200&chance=0.1`.
    With --answers it says what models once said to the same prompts, and a prompt that isn't there is a 404. GET
    /vendor/invoice says what it would have billed.
    """
    open_many()
    recorded = _recorded(answers, prompt, answer or [])
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(
        Vendor(seed, key, recorded),
        lifespan="off",
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,  # as vendors do: with 5 s connections are closed just as they are used
    )
    told = f" with answers of {', '.join(recorded.models)} to {recorded.prompts:,} prompts" if recorded else ""
    typer.echo(f"fake vendor on http://127.0.0.1:{listener.getsockname()[1]}/v1{told}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve([listener]))


def _recorded(answers: Path | None, prompt: str, columns: list[str]) -> Answers | None:
    if answers is None:
        if columns:
            raise typer.BadParameter("it names columns of a file: give that with --answers", param_hint="--answer")
        return None
    if not columns:
        raise typer.BadParameter("say once for each model: --answer MODEL[=COLUMN]", param_hint="--answers")
    parts = [one.partition("=") for one in columns]
    try:
        return read_answers(answers, prompt, {model: column or model for model, _, column in parts})
    except Unreadable as error:
        typer.echo(f"servery fake-vendor: {error}", err=True)
        raise typer.Exit(1) from None

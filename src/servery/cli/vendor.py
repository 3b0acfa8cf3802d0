"""`servery fake-vendor`: an endpoint to try language routes on, which costs nothing and fails as it is told."""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated

import typer
import uvicorn
import uvloop

from servery.vendor.app import Vendor


def fake_vendor(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed and the same calls give the same answers.")] = 0,
    key: Annotated[str, typer.Option(help="Refuse callers who don't send it (401).")] = "",
) -> None:
    """Answer like a vendor of language models, until SIGTERM or Ctrl-C.

    A model's name orders how it behaves, behind a question mark: `small?tokens=40&latency_ms=20&fault=cut:200&chance=0.1`.
    GET /vendor/invoice says what it would have billed.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(
        Vendor(seed, key), lifespan="off", log_level="critical", access_log=False, timeout_graceful_shutdown=1
    )
    typer.echo(f"fake vendor on http://127.0.0.1:{listener.getsockname()[1]}/v1")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve([listener]))

"""`servery up`: serve what a manifest declares."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from servery.control.apply import check, into
from servery.control.starting import start
from servery.host.cores import usable_cores
from servery.host.logs import start_logs
from servery.host.ports import address_of, hold
from servery.host.settings import DataFolder, FolderTaken
from servery.host.supervisor import hold_signals, listen
from servery.terms.server import on_loopback
from servery.wiring.commands import ADMIN_WORD
from servery.wiring.supervisor import Listeners, supervise


def up(
    manifest: Annotated[Path, typer.Argument(help="The manifest, for instance servery.yaml.")],
    host: Annotated[str, typer.Option(help="Address to listen on, instead of server.host.")] = "",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the HTTP face, instead of server.http_port; 0: a free one."),
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the gRPC face, instead of server.grpc_port; 0: a free one."),
    ] = None,
    workers: Annotated[
        str, typer.Option(help="Processes that answer callers, instead of server.workers; auto: one a usable core.")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Data folder; default: .servery beside the manifest.")] = None,
) -> None:
    """Serve what a manifest declares, until SIGTERM or Ctrl-C; a second one stops at once, with exit code 1."""
    folder = DataFolder(data or manifest.absolute().parent / ".servery")
    os.umask(0o077)  # what is written from here on is for its owner only
    checked = check(manifest, into(folder, fallback=True))
    for line in (*checked.problems, *(f"Warning: {note}" for note in checked.notes)):
        typer.echo(str(line), err=True)
    if not checked.servable or checked.manifest is None:
        raise typer.Exit(1)
    server = checked.manifest.server
    host = host or server.host
    count = _workers(workers or str(server.workers))
    if not checked.manifest.tenants and not on_loopback(host):
        _fail(f"no tenants are declared, so only loopback is served, not {host}; add a tenant with `servery key new`")
    lock = _take(folder)
    listeners = _listen(
        host, server.http_port if port is None else port, server.grpc_port if grpc_port is None else grpc_port
    )
    if (admin := checked.manifest.admin) is not None:  # the controller opens it; what is in the way is told here
        _bind(listen, admin.host, admin.port, "admin.port").close()
    try:
        started = start(folder, manifest.absolute(), checked, count)
    except OSError as error:
        _fail_on_folder(folder, error)
    for warning in started.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    address = _address(listeners.http)
    also = "" if listeners.grpc is None else f" and gRPC on {address_of(listeners.grpc)}"
    start_logs("supervisor")

    words: dict[str, str] = {}

    def said(child: str, word: str) -> None:
        if child == "controller" and word.startswith(ADMIN_WORD):
            _say(f"admin API on {word.removeprefix(ADMIN_WORD)}")
        if child.startswith("worker-"):
            words[child] = word
            if len(words) == count:
                _say(f"serving on {address}: {'; '.join(dict.fromkeys(words.values()))}")

    hold_signals()  # who reads this line may send one at once
    _say(f"starting on {address}{also} (records in {folder.path}; process {os.getpid()})")
    if not asyncio.run(supervise(folder, lock, manifest, started.snapshot, listeners, said).run()):
        _fail(
            "not stopped in order: what was in flight is cut, and Records that wait in the spool go on at the next start"
        )
    _say("stopped")


def _say(line: str) -> None:
    """Print a line. Where nobody can read it (a closed pipe, an odd encoding), serving goes on without."""
    try:
        typer.echo(line)
    except (OSError, ValueError):
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 or the interpreter fails to flush the old one at its end


def _workers(wanted: str) -> int:
    if wanted in ("auto", "0"):
        return usable_cores()
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 5 and int(wanted) <= 1024):
        _fail(f"--workers is a number from 1 to 1024, or auto, not {wanted!r}")
    return int(wanted)


def _take(folder: DataFolder) -> int:
    try:
        folder.create()
        lock = folder.take()
        folder.sweep()
        return lock
    except FolderTaken as taken:
        _fail(str(taken))
    except OSError as error:
        _fail_on_folder(folder, error)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, http_port: int, grpc_port: int | None) -> Listeners:
    http = _bind(listen, host, http_port, "--port")
    return Listeners(http, None if grpc_port is None else _bind(hold, host, grpc_port, "--grpc-port"))


def _bind(bind: Callable[[str, int], socket.socket], host: str, port: int, option: str) -> socket.socket:
    try:
        return bind(host, port)
    except OSError as error:
        _fail(
            f"can't listen on {host}:{port}: {error.strerror or error}; stop what uses it, "
            f"or choose another with {option} (0 takes a free one)"
        )


def _fail_on_folder(folder: DataFolder, error: OSError) -> NoReturn:
    _fail(
        f"the data folder {folder.path} can't be used: {error.strerror or error}; "
        "give this user the right to write there, or another folder with --data"
    )


def _fail(message: str) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(1)

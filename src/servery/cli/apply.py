"""`servery apply`: have a running Servery serve what its manifest declares now."""

from __future__ import annotations

import getpass
import http.client
import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import msgspec
import typer
from rich.console import Console

from servery.host.channel import connect_to
from servery.host.settings import DataFolder
from servery.terms.change import Change

_APPLY = "/servery/admin/v1/apply"
# Loading may take minutes; the controller gives up by itself before this.
_LIMIT_S = 1300.0


def apply(
    manifest: Annotated[Path | None, typer.Argument(help="The manifest, for instance servery.yaml.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data folder of the running Servery; default: .servery beside the manifest.")
    ] = None,
    server: Annotated[
        str,
        typer.Option(
            help="A Servery elsewhere, for instance https://servery.example: it reads its own manifest again. "
            "The operator's key is taken from SERVERY_KEY."
        ),
    ] = "",
) -> None:
    """Serve what the manifest declares now, without dropping a request; answers when all workers do. Exit 1 if not."""
    if server:
        if manifest is not None or data is not None:
            _fail("with --server the manifest that is served there is read again; leave FILE and --data out")
        _apply_there(server)
        return
    if manifest is None:
        _fail("name the manifest, for instance `servery apply servery.yaml`, or a Servery elsewhere with --server")
    path = manifest.absolute()
    folder = DataFolder(data or path.parent / ".servery")
    with Console(stderr=True).status(f"loading what {manifest} declares"):
        status, body = _post(folder, _APPLY, {"file": str(path)})
    if status not in (200, 422):
        _fail(msgspec.json.decode(body, type=dict[str, str]).get("error", f"the controller answered {status}"))
    change = msgspec.json.decode(body, type=Change)
    for problem in change.problems:
        typer.echo(str(problem), err=True)
    if not change.epoch:
        _fail(change.message)
    typer.echo(f"{_in_effect(change.epoch, change.workers)} (manifest {change.digest[:12]})")


def _in_effect(epoch: int, workers: int) -> str:
    return f"epoch {epoch} is in effect in {workers} worker{'' if workers == 1 else 's'}"


def _apply_there(server: str) -> None:
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        _fail(f"--server is an address such as http://127.0.0.1:8000, not {server!r}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=_LIMIT_S)
    key = os.environ.get("SERVERY_KEY", "")
    try:
        with Console(stderr=True).status(f"{server} loads what its manifest declares"):
            fields = {"authorization": f"Bearer {key}"} if key else {}
            connection.request("POST", f"{parts.path.rstrip('/')}/servery/v1/apply", headers=fields)
            reply = connection.getresponse()
            said = msgspec.json.decode(reply.read(), type=_Said)
    except (OSError, ValueError, http.client.HTTPException) as error:
        _fail(f"no Servery answers at {server}: {error}")
    finally:
        connection.close()
    if reply.status != 200:
        advice = "; set SERVERY_KEY to a key with `role: operator`" if reply.status in (401, 403) else ""
        _fail(said.error + advice)
    typer.echo(_in_effect(said.epoch, said.workers))


class _Said(msgspec.Struct, frozen=True):
    epoch: int = 0
    workers: int = 0
    error: str = ""


def _post(folder: DataFolder, path: str, body: Any) -> tuple[int, bytes]:
    connection = _Local(folder.admin)
    try:
        connection.request("POST", path, msgspec.json.encode(body), {"servery-by": getpass.getuser()})
        reply = connection.getresponse()
        return reply.status, reply.read()
    except OSError as error:
        _fail(
            f"no Servery answers for the data folder {folder.path} ({error.strerror or error}); "
            "start one with `servery up`, or name its folder with --data"
        )
    except http.client.HTTPException:
        _fail("the controller ended before it answered; its log says why, and `servery apply` can be repeated")
    finally:
        connection.close()


class _Local(http.client.HTTPConnection):
    """A connection to the socket at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock: socket.socket = connect_to(self._path)
        self.sock.settimeout(_LIMIT_S)


def _fail(message: str) -> NoReturn:
    sys.stdout.flush()
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(1)

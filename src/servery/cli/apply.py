"""`servery apply`: have a running Servery serve what its manifest declares now."""

from __future__ import annotations

import getpass
import http.client
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

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
    manifest: Annotated[Path, typer.Argument(help="The manifest, for instance servery.yaml.")],
    data: Annotated[
        Path | None, typer.Option(help="Data folder of the running Servery; default: .servery beside the manifest.")
    ] = None,
) -> None:
    """Serve what the manifest declares now, without dropping a request; answers when all workers do. Exit 1 if not."""
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
    workers = f"{change.workers} worker{'' if change.workers == 1 else 's'}"
    typer.echo(f"epoch {change.epoch} is in effect in {workers} (manifest {change.digest[:12]})")


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

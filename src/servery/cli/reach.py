"""How a command reaches a controller: the socket in its data folder, or its admin API somewhere else with a key."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec
import typer

from servery.host.channel import connect_to
from servery.host.settings import DataFolder
from servery.terms.change import Problem
from servery.terms.server import on_loopback

if TYPE_CHECKING:
    from servery.store.state import State

PREFIX = "/servery/admin/v1"
# Loading may take minutes; the controller gives up by itself before this.
_LIMIT_S = 1300.0
# A controller that starts, or that starts again, is there by then.
_STARTS_S = 15.0
_AGAIN_S = 0.1
_CERTIFICATE = "name the file of yours and its key in SERVERY_CLIENT_CERT"

Value = TypeVar("Value")


class Unreached(Exception):
    """Nobody answers there; the message says where."""


class Cut(Exception):
    """Whoever was asked ended before the answer was there."""


class Failed(Exception):
    """An error of the admin API."""

    def __init__(self, status: int, message: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.problems = problems


class _Failure(msgspec.Struct, frozen=True):
    error: str
    problems: tuple[Problem, ...] = ()


class Reach:
    """One controller. Each method: Unreached, Cut, Failed."""

    def __init__(
        self, connect: Callable[[], http.client.HTTPConnection] | None, folder: DataFolder, server: str
    ) -> None:
        self._connect = connect
        self._folder = folder
        self._server = server
        self.here = connect is None

    def get(self, path: str, kind: type[Value]) -> Value:
        """What is at `path`."""
        return self._ask("GET", path, b"", kind)

    def post(self, path: str, body: object, kind: type[Value]) -> Value:
        """What `path` makes of `body`."""
        return self._ask("POST", path, msgspec.json.encode(body), kind)

    def _ask(self, method: str, path: str, body: bytes, kind: type[Value]) -> Value:
        connection = self._connection()
        key = "" if self.here else os.environ.get("SERVERY_KEY", "")
        try:
            connection.connect()
        except OSError as error:
            raise Unreached(self._nobody(error)) from None
        try:
            fields = {"authorization": f"Bearer {key}"} if key else {}
            connection.request(method, urlsplit(self._server).path.rstrip("/") + PREFIX + path, body, fields)
            reply = connection.getresponse()
            content = reply.read()
        except ssl.SSLError as error:  # with TLS 1.3 a server refuses a caller's certificate after the handshake
            raise Unreached(self._nobody(error)) from None
        except (OSError, http.client.HTTPException) as error:
            unknown = self._server.startswith("https:") and not os.environ.get("SERVERY_CLIENT_CERT")
            advice = f", or it asks for a certificate: {_CERTIFICATE}" if unknown else ""
            raise Cut(f"the controller ended before it answered ({error}){advice}") from None
        finally:
            connection.close()
        try:
            if reply.status < 400:
                return msgspec.json.decode(content, type=kind)
            failure = msgspec.json.decode(content, type=_Failure)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Failed(reply.status, f"what answers there ({reply.status}) is no admin API of Servery", ()) from None
        advice = "; set SERVERY_KEY to an admin key that may do this" if reply.status in (401, 403) else ""
        raise Failed(reply.status, failure.error + advice, failure.problems)

    def _connection(self) -> http.client.HTTPConnection:
        return _Local(self._folder) if self._connect is None else self._connect()

    def _nobody(self, error: OSError) -> str:
        if not self.here:
            return f"no Servery answers at {self._server}: {error.strerror or error}{_advice(error)}"
        return (
            f"no Servery answers for the data folder {self._folder.path} ({error.strerror or error}); "
            "start one with `servery up`, or name its folder with --data"
        )


def _advice(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; name the file of its authority in SERVERY_CA"
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return f"; {_CERTIFICATE}"
    return ""


class _Local(http.client.HTTPConnection):
    """A connection to the socket in a data folder. Where a Servery runs, its controller may still start: it is waited for."""

    def __init__(self, folder: DataFolder) -> None:
        super().__init__("localhost", timeout=_LIMIT_S)
        self._folder = folder

    def connect(self) -> None:
        until = time.monotonic() + _STARTS_S
        while True:
            try:
                self.sock: socket.socket = connect_to(self._folder.admin)
                break
            except OSError:
                if not self._folder.taken() or time.monotonic() > until:
                    raise
            time.sleep(_AGAIN_S)
        self.sock.settimeout(_LIMIT_S)


def reach(folder: DataFolder, server: str) -> Reach:
    """The controller of a data folder; with `server` the one whose admin API is at that address."""
    if not server:
        return Reach(None, folder, "")
    parts = urlsplit(server)
    try:
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
    except ValueError:
        right = False
    if not right:
        fail(f"--server is the address of an admin API, such as http://127.0.0.1:8002, not {server!r}")
    host = parts.hostname or ""
    if parts.scheme == "https":
        trust = _trust()
        return Reach(
            lambda: http.client.HTTPSConnection(host, parts.port, timeout=_LIMIT_S, context=trust), folder, server
        )
    if not on_loopback(host):
        fail(f"the key would cross the network in clear to {server}: ask by https://, or through a tunnel to 127.0.0.1")
    return Reach(lambda: http.client.HTTPConnection(host, parts.port, timeout=_LIMIT_S), folder, server)


def told(data: Path | None, server: str, path: str, kind: type[Value], body: object = None) -> Value:
    """What a controller says to `path`, or makes of `body` there; where it says nothing, or no, the command ends with a line."""
    there = reach(folder_of(None, data), server)
    try:
        return there.get(path, kind) if body is None else there.post(path, body, kind)
    except (Unreached, Cut) as error:
        fail(str(error))
    except Failed as failed:
        fail_with(failed)


def _trust() -> ssl.SSLContext:
    """Whom to trust, and who we are: what the system trusts or SERVERY_CA, and the certificate in SERVERY_CLIENT_CERT."""
    authority, own = os.environ.get("SERVERY_CA"), os.environ.get("SERVERY_CLIENT_CERT")
    try:
        trust = ssl.create_default_context(cafile=authority)
        if own:
            trust.load_cert_chain(own)
    except OSError as error:
        fail(
            f"{'SERVERY_CA or SERVERY_CLIENT_CERT' if own else 'SERVERY_CA'} names no PEM file that can be used: {error}"
        )
    return trust


def folder_of(manifest: Path | None, data: Path | None) -> DataFolder:
    """The data folder that is meant: `data`, or `.servery` beside the manifest, or here."""
    beside = Path() if manifest is None else manifest.absolute().parent
    return DataFolder(data or beside / ".servery")


def state_in(folder: DataFolder) -> State:
    """What is remembered in a data folder, also while nothing runs there. WrongState."""
    from servery.store.state import State  # noqa: PLC0415 SQLAlchemy, where it is needed

    return State(folder.state, folder.heads)


def fail(message: str) -> NoReturn:
    """End the command with one line on stderr."""
    sys.stdout.flush()
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(1)


def fail_with(failed: Failed) -> NoReturn:
    """End the command with the problems that a manifest has, and what came of them."""
    sys.stdout.flush()
    for problem in failed.problems:
        typer.echo(str(problem), err=True)
    fail(failed.message)

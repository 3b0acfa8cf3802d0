"""The admin API's door over TCP: open where the manifest in effect says so, and shut otherwise."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec

from servery.host.asgi import App
from servery.host.http import HttpServer
from servery.host.ports import address_of
from servery.host.quick import Protocol
from servery.host.supervisor import listen
from servery.host.tls import TlsError, load, server_side
from servery.terms.admin import Admin

log = logging.getLogger("servery.controller")

_LOOK_S = 0.5
_AGAIN_LOOKS = 6  # after so many looks a door that couldn't be opened is tried again
_RECEIVE_S = 20.0
_IDLE_S = 60.0
# An apply may take so long; a door that is moved lets what came through it end.
_ANSWER_S = 1300.0
_STOP_S = 1.0


class Opening(msgspec.Struct, frozen=True):
    """Where a door is, and the files of its certificate: no `cert`, no TLS."""

    host: str
    port: int
    cert: str = ""
    key: str = ""
    client_ca: str = ""


def opening_of(admin: Admin | None, folder: Path) -> Opening | None:
    """The door that is declared by a manifest in `folder`; None where none is."""
    if admin is None:
        return None
    if (tls := admin.tls) is None:
        return Opening(admin.host, admin.port)
    ca = str(folder / tls.client_ca) if tls.client_ca else ""
    return Opening(admin.host, admin.port, str(folder / tls.cert), str(folder / tls.key), ca)


class _Few(Protocol):
    """Operators are few: more connections than this are nobody's who means well."""

    most = 256


class _Open:
    """A door that is open."""

    def __init__(self, opening: Opening, app: App) -> None:
        """OSError, TlsError."""
        self.opening = opening
        self._times = _times(opening)
        self._tls: ssl.SSLContext | None = None
        if opening.cert:
            ca = Path(opening.client_ca) if opening.client_ca else None
            self._tls = server_side(Path(opening.cert), Path(opening.key), ca)
        listener = listen(opening.host, opening.port)
        listener.set_inheritable(False)
        self.url = f"{'https' if opening.cert else 'http'}://{address_of(listener)}"
        self.server = HttpServer(app, listener, _RECEIVE_S, _ANSWER_S, _IDLE_S, self._tls, _Few)

    def refresh(self) -> None:
        """Use the certificate that lies in its files now; where it can't be used, the one before goes on."""
        times = _times(self.opening)
        if self._tls is None or times == self._times:
            return
        self._times = times
        try:
            load(self._tls, Path(self.opening.cert), Path(self.opening.key))
            log.info("the admin API has the certificate that lies in %s now", self.opening.cert)
        except TlsError as error:
            log.error("the admin API keeps the certificate that it has: %s", error)


class Door:
    """A Service. `wanted` is what the manifest in effect declares; `said` hears the address whenever the door is opened."""

    name = "the admin API's door"
    unready = ""

    def __init__(self, wanted: Callable[[], Opening | None], app: App, said: Callable[[str], None]) -> None:
        self._wanted = wanted
        self._app = app
        self._said = said
        self._open: _Open | None = None
        self._tried: Opening | None = None  # couldn't be opened
        self._looks = 0
        self._leaving: dict[asyncio.Task[None], HttpServer] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._look()
        self._task = asyncio.get_running_loop().create_task(self._go_on(), name="door")

    async def drain(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._shut()
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(_STOP_S, server.abort) for server in self._leaving.values()]
        await asyncio.gather(*self._leaving, return_exceptions=True)
        for timer in timers:
            timer.cancel()

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._look()
            except Exception:
                log.exception("the admin API's door could not be looked after, by an error of ours")

    async def _look(self) -> None:
        wanted = self._wanted()
        if self._open is not None and self._open.opening == wanted:
            self._open.refresh()
            return
        await self._shut()
        self._looks += 1
        if wanted is None or (wanted == self._tried and self._looks < _AGAIN_LOOKS):
            return
        self._looks = 0
        try:
            opened = _Open(wanted, self._app)
        except (OSError, TlsError) as error:
            if wanted != self._tried:
                why = error.strerror if isinstance(error, OSError) and error.strerror else error
                log.error(
                    "the admin API can't be opened on %s:%d: %s; it is tried again", wanted.host, wanted.port, why
                )
            self._tried = wanted
            return
        await opened.server.start()
        self._tried, self._open = None, opened
        log.info("the admin API is open on %s", opened.url)
        self._said(opened.url)

    async def _shut(self) -> None:
        """Let nobody else in; what came in before is answered."""
        if (opened := self._open) is None:
            return
        self._open = None
        log.info("the admin API is shut on %s", opened.url)
        await opened.server.leave()
        task = asyncio.get_running_loop().create_task(opened.server.drain(), name="door that was shut")
        self._leaving[task] = opened.server
        task.add_done_callback(self._leaving.pop)


def _times(opening: Opening) -> tuple[int, ...]:
    """When the files of the certificate were changed; 0 for one that isn't there."""
    found: list[int] = []
    for name in (opening.cert, opening.key) if opening.cert else ():
        try:
            found.append(Path(name).stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)

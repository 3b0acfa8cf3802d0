"""The life of a Replica: it answers at once, loads and warms up, and goes when nobody needs it any more."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Protocol

from servery.host.http import HttpServer
from servery.host.service import Service
from servery.replica.running import Running

log = logging.getLogger("servery.replica")

_LOOK_S = 0.05
_LAST_WORDS_S = 0.2  # for the answers that are written before a Replica ends itself
REPLACE_ME = 75  # the exit code of a Replica that can't go on


class Loading(Service, Protocol):
    """A Version that is loaded by its start."""


class Life:
    """`report` tells the supervisor: "ready", or the reason why not."""

    def __init__(self, loading: Loading, drain_limit_s: float, report: Callable[[str], None]) -> None:
        self._loading = loading
        self._limit_s = drain_limit_s
        self._report = report
        self._stopping = asyncio.Event()
        self._server: HttpServer | None = None

    def stop(self) -> None:
        self._stopping.set()

    def part(self) -> None:
        """Close what is open and idle: to callers, that is the end of this Replica."""
        if self._server is not None:
            self._server.part()

    def end(self) -> None:
        """End this process, once what can be answered is: a thread that hangs can't be waited for."""
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, _end)

    async def run(self, server: HttpServer, running: Running) -> None:
        """Until `stop`, and then until no worker is connected any more, within the drain's limit."""
        self._server = server
        loop = asyncio.get_running_loop()
        await running.start()
        await server.start()
        loading = loop.create_task(self._loading.start())
        stopping = loop.create_task(self._stopping.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            self._report(f"unready {self._loading.unready}" if self._loading.unready else "ready")
            if self._loading.unready:
                log.error("can't be loaded: %s", self._loading.unready)
            await stopping
        running.draining = True
        deadline = loop.time() + self._limit_s
        while server.connected and loop.time() < deadline:
            await asyncio.sleep(_LOOK_S)
        await server.drain()
        await running.drain()
        await self._loading.drain()


def _end() -> None:
    sys.stderr.flush()
    os._exit(REPLACE_ME)

"""Background work as Services: started in order, ready when they say so, drained in the reverse order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

log = logging.getLogger("servery")


class Service(Protocol):
    """`start` returns once the work is under way; `drain` finishes it and has stopped when it returns.

    Draining twice, or before the start, is fine. `unready` says why it can't do its work now ("" when it can).
    """

    @property
    def name(self) -> str: ...
    @property
    def unready(self) -> str: ...
    async def start(self) -> None: ...
    async def drain(self) -> None: ...


class Services:
    """A list of Services with one life. If one fails to start, those before it are drained again."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = tuple(services)
        self._started: list[Service] = []

    async def start(self) -> None:
        for service in self._services:
            try:
                await service.start()
            except BaseException:
                await self.drain()
                raise
            self._started.append(service)

    async def drain(self) -> None:
        while self._started:
            service = self._started.pop()
            try:
                await service.drain()
            except Exception:
                log.exception("the service %s failed while it drained", service.name)

    def unready(self) -> list[str]:
        """A line for each Service that can't do its work now."""
        return [f"{service.name}: {service.unready}" for service in self._services if service.unready]

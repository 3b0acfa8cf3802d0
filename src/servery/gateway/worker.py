"""A gateway worker: its Services, and the order in which they start and drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Protocol

from servery.gateway.pipeline import Pipeline
from servery.host.service import Service, Services
from servery.host.supervisor import NOW
from servery.terms.server import Drain

log = logging.getLogger("servery.worker")


class Face(Service, Protocol):
    """A server that callers reach. `leave` sends them elsewhere while what they ask is still answered; `abort` stops
    waiting for what is in flight.
    """

    async def leave(self) -> None: ...
    def abort(self) -> None: ...


class Worker:
    """Serves until it is told to stop; then unready at once, and nothing that was accepted is dropped.

    `report` tells the supervisor: "ready" or the reasons why not.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        spool: Service,
        targets: Sequence[Service],
        drain: Drain,
        report: Callable[[str], None],
    ) -> None:
        self._pipeline = pipeline
        self._faces: Sequence[Face] = ()
        self._services = Services([spool, pipeline.unrecorded, pipeline.mirrors, *targets])
        self._spool = spool
        self._drain = drain
        self._report = report
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._warming = True

    def unready(self) -> list[str]:
        """Why callers should go elsewhere; empty when this worker keeps its promises."""
        if self._stopping.is_set():
            return ["the worker is stopping"]
        reasons = self._pipeline.table.unready()
        if self._spool.unready:
            reasons.append(self._spool.unready)
        if self._warming:
            reasons.append("models are loading and warming up")
        return reasons

    def stop(self) -> None:
        """Begin to stop. Again makes no difference: several may tell it."""
        self._stopping.set()

    def stop_now(self) -> None:
        """Stop without waiting for what is in flight; its Records say so."""
        self._pipeline.draining = True
        for face in self._faces:
            face.abort()
        self._hurrying.set()
        self._stopping.set()

    async def run(self, faces: Sequence[Face], early: bool) -> None:
        """Start, serve until `stop`, drain. With `early`, the faces accept before the models are loaded, so that the
        process is live while it warms up.

        Calls that no longer have a caller may still run in threads: who runs this must not wait for them.
        """
        self._faces = faces
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(NOW, self.stop_now)
        starting = loop.create_task(self._start(early))
        stopping = loop.create_task(self._stopping.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            reasons = self.unready()
            self._report("ready" if not reasons else "unready " + "; ".join(reasons))
            await stopping
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurrying.wait(), self._drain.grace_s)
        await asyncio.gather(*[face.leave() for face in faces])
        self._pipeline.draining = True
        await asyncio.gather(*[face.drain() for face in faces])  # within one limit
        if not starting.done():  # what has started drains; a load that is under way ends with the process
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
        await self._services.drain()

    async def _start(self, early: bool) -> None:
        if early:
            await self._open()
        await self._services.start()
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector need not visit it again
        self._warming = False
        if not early:
            await self._open()

    async def _open(self) -> None:
        for face in self._faces:
            await face.start()

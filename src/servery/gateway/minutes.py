"""Requests per minute where several workers answer: a worker spends its slice, and gets another one off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from servery.host.clock import Clock
from servery.host.service import Service
from servery.quota.buckets import SlidingMinute
from servery.quota.leases import NS, Changes, Counter, Grant, Lease, share_alone

log = logging.getLogger("servery.worker")

_ALONE_NS = NS  # how long a worker goes on by its own share before it looks for the counter again


class Minute(Protocol):
    """What one tenant may ask in any 60 seconds."""

    limit: int

    def take(self, now_ns: int) -> float | None:
        """0.0 when a request may pass, or the seconds after which one may; None: wait for the renewal and ask again."""
        ...

    def renewal(self) -> asyncio.Future[None]:
        """Done when another slice was asked for."""
        ...


MakeMinute = Callable[[str, int], Minute]  # of a tenant with this limit


class OwnMinute(SlidingMinute):
    """One tenant's minute in the only worker."""

    __slots__ = ()

    def renewal(self) -> asyncio.Future[None]:
        """Nobody else has a part of it: there is nothing to wait for."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class SharedMinute:
    """One tenant's minute in one of several workers."""

    def __init__(self, tenant: str, limit: int, minutes: SharedMinutes) -> None:
        self.limit = limit
        self._tenant = tenant
        self._minutes = minutes
        self._lease = Lease()
        self._alone: SlidingMinute | None = None
        self._alone_until_ns = 0
        self._renewing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def take(self, now_ns: int) -> float | None:
        """As of Minute."""
        if self._alone is not None and now_ns < self._alone_until_ns:
            return self._take_alone(self._alone, now_ns)
        return self._lease.take(now_ns)

    def _take_alone(self, alone: SlidingMinute, now_ns: int) -> float:
        alone.limit = share_alone(self.limit, self._minutes.workers)
        wait = alone.take(now_ns)
        if not wait:
            self._lease.note(now_ns)
        return wait

    def renewal(self) -> asyncio.Future[None]:
        """As of Minute."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.get_running_loop().create_task(self._renew(wanted=True))
        return self._renewing

    async def close(self) -> None:
        """Give back what isn't spent."""
        if self._renewing is not None:
            await asyncio.wait((self._renewing,))
        if self._lease.open:
            await self._renew(wanted=False)

    async def _renew(self, wanted: bool) -> None:
        minutes, lease = self._minutes, self._lease
        if self._timer is not None:
            self._timer.cancel()
        changes = lease.end()
        now_ns = minutes.clock.steady_ns()
        try:
            given = await minutes.ask(self._tenant, self.limit, changes, now_ns, wanted)
        except OSError as error:
            lease.again(changes)
            if self._alone is None:
                log.error("%s; this worker goes on by its own share of the limits", error)
                self._alone = SlidingMinute(share_alone(self.limit, minutes.workers))
            self._alone_until_ns = now_ns + _ALONE_NS
            return
        if self._alone is not None:
            log.warning("the counter of limits can be used again")
            self._alone = None
        lease.begin(given, now_ns)
        if given.count:
            wait_s = max(lease.ends_ns - minutes.clock.steady_ns(), 0) / NS
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._end_slice)

    def _end_slice(self) -> None:
        if self._lease.open and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.get_running_loop().create_task(self._renew(wanted=False))


class Minutes(Service, Protocol):
    """The minutes of all tenants in one worker."""

    def make(self, tenant: str, limit: int) -> Minute:
        """The minute of a tenant that had none."""
        ...


class OwnMinutes:
    """Those of the only worker."""

    name = "limits"
    unready = ""

    def make(self, tenant: str, limit: int) -> Minute:  # noqa: ARG002
        """As of Minutes."""
        return OwnMinute(limit)

    async def start(self) -> None:
        """Nothing is needed."""

    async def drain(self) -> None:
        """Nothing is shared."""


class SharedMinutes:
    """Those of one of `workers` workers. `counter` is used in a thread of its own."""

    name = "limits"
    unready = ""

    def __init__(self, counter: Counter, workers: int, clock: Clock) -> None:
        self.workers = workers
        self.clock = clock
        self._counter = counter
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="limits")
        self._made: list[SharedMinute] = []

    def make(self, tenant: str, limit: int) -> Minute:
        """As of Minutes."""
        minute = SharedMinute(tenant, limit, self)
        self._made.append(minute)
        return minute

    async def ask(self, tenant: str, limit: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        """Ask the counter, off the event loop. OSError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, self._counter.take, tenant, limit, self.workers, changes, now_ns, wanted
        )

    async def start(self) -> None:
        """Nothing is asked before a request comes."""

    async def drain(self) -> None:
        for minute in self._made:
            await minute.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._counter.close)
        self._thread.shutdown(wait=True)

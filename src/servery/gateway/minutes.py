"""Requests per minute where several workers answer: a worker spends its slice, and gets another one off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from servery.gateway.holder import no_counter
from servery.gateway.reach import Reach
from servery.host.clock import Clock
from servery.host.service import Service
from servery.quota.buckets import SlidingMinute
from servery.quota.leases import NS, Changes, Counter, Grant, Lease, share_alone


class Minute(Protocol):
    """What one Holder may ask in any 60 seconds. Moments are of this machine's steady clock."""

    limit: int

    def take(self, now_ns: int) -> float | None:
        """0.0 when a request may pass, or the seconds after which one may; None: wait for the renewal and ask again.

        Refusal where that can't be told.
        """
        ...

    def give_back(self, at_ns: int) -> None:
        """A request that passed at this moment isn't made after all."""
        ...

    def renewal(self) -> asyncio.Future[Any]:
        """Done when another slice was asked for."""
        ...


MakeMinute = Callable[[str, int], Minute]  # of an account with this limit


class OwnMinute(SlidingMinute):
    """One Holder's minute in the only worker."""

    __slots__ = ()

    def renewal(self) -> asyncio.Future[None]:
        """Nobody else has a part of it: there is nothing to wait for."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class SharedMinute:
    """One Holder's minute in one of several workers."""

    def __init__(self, account: str, limit: int, minutes: SharedMinutes) -> None:
        self.limit = limit
        self._account = account
        self._minutes = minutes
        self._reach = minutes.reach
        self._lease = Lease()
        self._alone: SlidingMinute | None = None
        self._renewing: asyncio.Task[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def take(self, now_ns: int) -> float | None:
        """As of Minute."""
        reach = self._reach
        if reach.lost:
            return self._take_alone(now_ns)
        return self._lease.take(now_ns + reach.ahead_ns)

    def give_back(self, at_ns: int) -> None:
        """As of Minute."""
        shared_ns = at_ns + self._reach.ahead_ns
        if self._reach.lost and self._alone is not None:
            self._alone.give_back(at_ns)
            self._lease.note(shared_ns, -1)
        else:
            self._lease.give_back(shared_ns)

    def _take_alone(self, now_ns: int) -> float:
        if self._reach.refuses:
            raise no_counter()
        alone, share = self._alone, share_alone(self.limit, self._reach.workers)
        if alone is None:
            alone = self._alone = SlidingMinute(share)
        alone.limit = share
        wait = alone.take(now_ns)
        if not wait:
            self._lease.note(now_ns + self._reach.ahead_ns, 1)
        return wait

    def renewal(self) -> asyncio.Future[Any]:
        """As of Minute."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.get_running_loop().create_task(self._renew(wanted=True))
        return self._renewing

    async def close(self) -> bool:
        """Give back what isn't spent; whether the counter has heard of it."""
        if self._renewing is not None:
            await asyncio.wait((self._renewing,))
        return not self._lease.open or await self._renew(wanted=False, last=True)

    async def _renew(self, wanted: bool, last: bool = False) -> bool:
        lease = self._lease
        if self._timer is not None:
            self._timer.cancel()
        changes = lease.end()
        now_ns = self._minutes.now_ns()
        try:
            given = await self._minutes.ask(self._account, self.limit, changes, now_ns, wanted, last)
        except OSError:
            lease.again(changes)
            return False
        lease.begin(given, now_ns)
        if given.count:
            wait_s = max(lease.ends_ns - self._minutes.now_ns(), 0) / NS
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._end_slice)
        return True

    def _end_slice(self) -> None:
        if self._lease.open and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.get_running_loop().create_task(self._renew(wanted=False))


class Minutes(Service, Protocol):
    """The minutes of all Holders in one worker."""

    def make(self, account: str, limit: int) -> Minute:
        """The minute of a Holder that had none."""
        ...


class OwnMinutes:
    """Those of the only worker."""

    name = "limits"
    unready = ""

    def make(self, account: str, limit: int) -> Minute:  # noqa: ARG002
        """As of Minutes."""
        return OwnMinute(limit)

    async def start(self) -> None:
        """Nothing is needed."""

    async def drain(self) -> None:
        """Nothing is shared."""


class SharedMinutes:
    """Those of one of several workers."""

    name = "limits"
    unready = ""

    def __init__(self, counter: Counter, reach: Reach, clock: Clock) -> None:
        self.reach = reach
        self._clock = clock
        self._counter = counter
        self._made: list[SharedMinute] = []

    def make(self, account: str, limit: int) -> Minute:
        """As of Minutes."""
        minute = SharedMinute(account, limit, self)
        self._made.append(minute)
        return minute

    def now_ns(self) -> int:
        """By the clock that all who share the counter go by."""
        return self._clock.steady_ns() + self.reach.ahead_ns

    async def ask(self, account: str, limit: int, changes: Changes, now_ns: int, wanted: bool, last: bool) -> Grant:
        """Ask the counter, off the event loop. OSError."""
        workers = self.reach.workers
        return await self.reach.ask(
            lambda: self._counter.take(account, limit, workers, changes, now_ns, wanted), last=last
        )

    async def start(self) -> None:
        """Nothing is asked before a request comes."""

    async def drain(self) -> None:
        for minute in self._made:
            if not await minute.close():
                break  # what wasn't given back is forgotten within a minute

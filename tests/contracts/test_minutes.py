"""A worker's minute when the shared counter works, fails and works again."""

from __future__ import annotations

import asyncio

from servery.gateway.minutes import Minute, SharedMinutes
from servery.host.clock import Clock
from servery.quota.counters import MemoryCounter
from servery.quota.leases import NS, Changes, Grant


class Fickle(MemoryCounter):
    """A counter that can be out of reach."""

    there = True

    def take(self, tenant: str, limit: int, workers: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        if not self.there:
            raise OSError("the counter is out of reach")
        return super().take(tenant, limit, workers, changes, now_ns, wanted)


async def ask(minute: Minute, now_ns: int) -> bool:
    while (wait := minute.take(now_ns)) is None:
        await minute.renewal()
    return wait == 0.0


def test_without_the_counter_each_goes_on_by_its_own_share() -> None:
    async def scene() -> None:
        now, counter = [10**15], Fickle()
        minutes = SharedMinutes(counter, 2, Clock(steady_ns=lambda: now[0]))
        minute = minutes.make("t", 40)
        assert [await ask(minute, now[0]) for _ in range(10)] == [True] * 10
        counter.there = False
        assert sum([await ask(minute, now[0]) for _ in range(60)]) <= 20 + 1  # what it held, and its half of the limit
        counter.there = True
        now[0] += 2 * NS
        passed = sum([await ask(minute, now[0]) for _ in range(60)])
        assert passed <= 40 - 10  # all that passed meanwhile counts
        await minutes.drain()

    asyncio.run(scene())


def test_what_is_not_spent_comes_back_when_the_worker_stops() -> None:
    async def scene() -> None:
        counter, clock = MemoryCounter(), Clock(steady_ns=lambda: 10**15)
        first, second = SharedMinutes(counter, 2, clock), SharedMinutes(counter, 2, clock)
        assert await ask(first.make("t", 400), 10**15)
        await first.drain()
        other = second.make("t", 400)
        assert sum([await ask(other, 10**15) for _ in range(500)]) == 399
        await second.drain()

    asyncio.run(scene())

"""A worker's minute when the shared counter works, fails and works again."""

from __future__ import annotations

import asyncio

import pytest

from servery.gateway.minutes import Minute, SharedMinutes
from servery.gateway.reach import Reach
from servery.host.clock import Clock
from servery.quota.counters import MemoryCounter
from servery.quota.leases import NS, Changes, Grant
from servery.quota.sharing import Seen
from servery.terms.reasons import Reason, Refusal


class Fickle(MemoryCounter):
    """A counter that can be out of reach."""

    there = True
    asked = looked = 0

    def take(self, name: str, limit: int, workers: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        self.asked += 1
        if not self.there:
            raise OSError("the counter is out of reach")
        return super().take(name, limit, workers, changes, now_ns, wanted)

    def look(self) -> Seen:
        self.looked += 1
        if not self.there:
            raise OSError("the counter is out of reach")
        return super().look()


async def ask(minute: Minute, now_ns: int) -> bool:
    while (wait := minute.take(now_ns)) is None:
        await minute.renewal()
    return wait == 0.0


async def found(reach: Reach) -> None:
    """Once the counter is found again: it is looked for by itself."""
    async with asyncio.timeout(20):
        while reach.lost:
            await asyncio.sleep(0.01)


def test_without_the_counter_each_goes_on_by_its_own_share() -> None:
    async def scene() -> None:
        now, counter = [10**15], Fickle()
        clock = Clock(steady_ns=lambda: now[0])
        reach = Reach(counter, 2, refuses=False, clock=clock)
        minutes = SharedMinutes(counter, reach, clock)
        minute = minutes.make("t", 40)
        assert [await ask(minute, now[0]) for _ in range(10)] == [True] * 10
        counter.there = False
        assert sum([await ask(minute, now[0]) for _ in range(60)]) <= 20 + 1  # what it held, and its half of the limit
        assert reach.lost
        counter.there = True
        await found(reach)
        now[0] += 2 * NS
        passed = sum([await ask(minute, now[0]) for _ in range(60)])
        assert passed <= 40 - 10  # all that passed meanwhile counts
        await minutes.drain()
        await reach.drain()

    asyncio.run(scene())


def test_without_the_counter_all_is_refused_where_that_is_declared() -> None:
    async def scene() -> None:
        counter, clock = Fickle(), Clock(steady_ns=lambda: 10**15)
        reach = Reach(counter, 2, refuses=True, clock=clock)
        minute = SharedMinutes(counter, reach, clock).make("t", 40)
        assert await ask(minute, 10**15)
        counter.there = False
        with pytest.raises(Refusal) as told:
            await asyncio.gather(*[ask(minute, 10**15) for _ in range(5)])
        assert told.value.reason is Reason.NO_COUNTER
        counter.there = True
        await found(reach)
        assert await ask(minute, 10**15)
        await reach.drain()

    asyncio.run(scene())


def test_many_who_need_a_counter_that_is_away_dont_wait_for_it_one_after_the_other() -> None:
    async def scene() -> None:
        counter, clock = Fickle(), Clock()
        counter.there = False
        reach = Reach(counter, 2, refuses=False, clock=clock)
        minutes = SharedMinutes(counter, reach, clock)
        many = [minutes.make(f"t{number}", 40) for number in range(200)]
        assert all(await asyncio.gather(*[ask(minute, clock.steady_ns()) for minute in many]))
        assert (counter.asked, counter.looked) == (1, 0)  # it is looked for later, and nobody waits for that
        await reach.drain()

    asyncio.run(scene())


def test_what_is_not_spent_comes_back_when_the_worker_stops() -> None:
    async def scene() -> None:
        counter, clock = MemoryCounter(), Clock(steady_ns=lambda: 10**15)
        reaches = [Reach(counter, 2, refuses=False, clock=clock) for _ in range(2)]
        first, second = (SharedMinutes(counter, reach, clock) for reach in reaches)
        assert await ask(first.make("t", 400), 10**15)
        await first.drain()
        other = second.make("t", 400)
        assert sum([await ask(other, 10**15) for _ in range(500)]) == 399
        await second.drain()
        for reach in reaches:
            await reach.drain()

    asyncio.run(scene())


def test_seconds_are_those_of_the_clock_that_is_shared() -> None:
    """Two machines that were started at other times, and a store with a clock of its own."""

    class Far(MemoryCounter):
        def __init__(self, ahead_ns: int) -> None:
            super().__init__()
            self.ahead_ns = ahead_ns

        def look(self) -> Seen:
            return Seen(self.ahead_ns, 5)

    async def scene() -> None:
        one = Far(10**15)
        two = Far(10**15 - 7 * NS)
        two._booked = one._booked
        clocks = Clock(steady_ns=lambda: NS), Clock(steady_ns=lambda: 8 * NS)
        reaches = [Reach(far, 2, False, clock, every_s=60) for far, clock in zip((one, two), clocks, strict=True)]
        minutes = [SharedMinutes(*both) for both in zip((one, two), reaches, clocks, strict=True)]
        first, second = (each.make("t", 100) for each in minutes)
        assert all(reach.lost for reach in reaches)  # nobody knows yet which second it is
        for reach in reaches:
            await reach.start()
        assert [reach.workers for reach in reaches] == [5, 5]
        passed = [await ask((first, second)[turn % 2], (NS, 8 * NS)[turn % 2]) for turn in range(130)]
        assert 100 - 5 <= sum(passed) <= 100
        for service in (*minutes, *reaches):
            await service.drain()

    asyncio.run(scene())

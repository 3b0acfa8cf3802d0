"""Slices of one minute over several workers, against a model that remembers every request that passed."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from servery.quota.buckets import SECONDS
from servery.quota.counters import MemoryCounter
from servery.quota.leases import NS, Grant, Lease, grant

LIMITS = (1, 2, 7, 60, 500, 5_000)


class Machine:
    """Workers that share one counter; each asks for another slice when its own doesn't do, as the gateway does."""

    def __init__(self, limit: int, workers: int) -> None:
        self.limit, self.workers = limit, workers
        self.counter = MemoryCounter()
        self.leases = [Lease() for _ in range(workers)]
        self.passed: Counter[int] = Counter()  # by second
        self.now = 10**15

    def ask(self, worker: int) -> float:
        lease = self.leases[worker]
        wait = lease.take(self.now)
        if wait is None:
            self.renew(worker, wanted=True)
            wait = lease.take(self.now)
        assert wait is not None
        if wait == 0.0:
            self.passed[self.now // NS] += 1
        return wait

    def renew(self, worker: int, wanted: bool) -> None:
        lease = self.leases[worker]
        lease.begin(self.counter.take("t", self.limit, self.workers, lease.end(), self.now, wanted), self.now)

    def move(self, ns: int) -> None:
        """Time passes; a slice that ends is given back at its end."""
        until = self.now + ns
        for worker, lease in enumerate(self.leases):
            if lease.open and lease.ends_ns <= until:
                self.now = max(self.now, lease.ends_ns)
                self.renew(worker, wanted=False)
        self.now = until

    def window(self) -> int:
        now = self.now // NS
        return sum(count for second, count in self.passed.items() if now - second < SECONDS)

    def check(self) -> None:
        seconds = sorted(self.passed)
        for first in seconds:
            assert sum(self.passed[second] for second in seconds if 0 <= second - first < SECONDS) <= self.limit


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_never_more_than_the_limit_and_no_refusal_before_nearly_all_is_used(limit: int, workers: int) -> None:
    for seed in range(6):
        draw = random.Random(seed * 1000 + limit + workers)
        machine = Machine(limit, workers)
        favourite = draw.randrange(workers)
        for _ in range(1_500):
            worker = favourite if draw.random() < 0.5 else draw.randrange(workers)
            for _ in range(draw.choice((1, 1, 3, max(1, limit // 50)))):
                wait = machine.ask(worker)
                if wait:
                    assert machine.window() >= limit - max(0.05 * limit, workers), "not more than what others may hold"
                    assert wait <= SECONDS
                    break
            machine.move(draw.choice((0, 10**6, 10**8, NS, 3 * NS) if draw.random() < 0.98 else (70 * NS,)))
        machine.check()


@pytest.mark.parametrize("limit", LIMITS)
def test_who_stays_with_one_worker_gets_all_of_it(limit: int) -> None:
    machine = Machine(limit, 4)
    machine.move(NS - machine.now % NS)
    assert [machine.ask(0) for _ in range(limit)] == [0.0] * limit
    assert 59 < machine.ask(0) <= 60
    machine.move(59 * NS)
    assert machine.ask(0) > 0
    machine.move(NS)
    assert machine.ask(0) == 0.0


def test_a_worker_that_dies_keeps_its_slice_for_the_minute_and_no_longer() -> None:
    machine = Machine(400, 2)
    machine.ask(1)
    held = grant({}, 400, 2, machine.now).count
    machine.leases[1] = Lease()  # it has died
    assert sum(machine.ask(0) == 0.0 for _ in range(500)) == 400 - held
    machine.move(62 * NS)
    assert sum(machine.ask(0) == 0.0 for _ in range(500)) == 400


def test_slices_shrink_as_the_limit_comes_near() -> None:
    now = 10**15
    counts = [grant({now // NS: used}, 10_000, 2, now).count for used in (0, 5_000, 9_000, 9_900, 9_990, 9_999, 10_000)]
    assert counts == [250, 250, 250, 25, 2, 1, 0]


def test_a_counter_that_was_not_reached_is_told_the_next_time() -> None:
    machine = Machine(10, 1)
    machine.ask(0)
    lease = machine.leases[0]
    changes = lease.end()
    lease.again(changes)
    assert lease.end() == changes
    assert lease.take(machine.now) is None


def test_what_is_given_back_is_there_for_another() -> None:
    machine = Machine(20, 2)
    assert machine.ask(0) == 0.0
    machine.leases[0].give_back(machine.now)
    machine.passed.clear()
    assert [machine.ask(0) for _ in range(20)] == [0.0] * 20
    assert machine.ask(1) > 0
    # Also when its slice has ended meanwhile.
    at = machine.now
    machine.move(3 * NS)
    machine.leases[0].give_back(at)
    machine.passed[at // NS] -= 1
    machine.renew(0, wanted=False)
    machine.move(NS)
    assert [machine.ask(1), machine.ask(1) > 0] == [0.0, True]
    machine.check()


def test_what_was_refused_is_looked_up_again_soon() -> None:
    lease = Lease()
    lease.begin(Grant(0, 0, 40.0), 10**15)
    assert lease.take(10**15) == 40.0
    assert lease.take(10**15 + NS // 5) == pytest.approx(39.8)
    assert lease.take(10**15 + NS // 2) is None

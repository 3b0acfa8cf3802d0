"""Workers that spend one budget: bursts, calls that cost more than was put aside, deaths, accounts that are away. The design's
bounds hold.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from own_redis import OwnRedis, connected
from servery.gateway.budgets import Budgets
from servery.gateway.holder import Holder
from servery.gateway.reach import Reach
from servery.host.clock import Clock
from servery.quota.accounts import MemoryAccounts, SqliteAccounts
from servery.quota.budgets import LIFE_NS, NS, RENEW_NS, Account, Granted, Ledger, Purse, Report, Span, grant, window_of
from servery.quota.redis_counters import RedisAccounts
from servery.terms.limits import Limits

WORKERS = 8
LIMIT = 1_000_000
DEAREST = 2_000  # of a call, at most
ACCOUNT = Account("acme/usd/day/2026-11-24", LIMIT, 9 * 10**18)


class World:
    """Workers with purses of one account; calls are put aside, and settled some time later or never.

    `trouble` is how often the account is away for a while, an answer of it is lost, or all that it knew (`make` makes a new one).
    """

    def __init__(self, make: Callable[[], Ledger], seed: int, overrun: float, trouble: float = 0.0) -> None:
        self.make = make
        self.ledger = make()
        self.draw = random.Random(seed)
        self.overrun = overrun
        self.trouble = trouble
        self.now = 10**18
        self.purses = [Purse() for _ in range(WORKERS)]
        self.names = [f"w{number}-0" for number in range(WORKERS)]
        self.open: list[tuple[int, int]] = []  # worker and what was put aside
        self.renewed = [self.now] * WORKERS
        self.away_until = 0
        self.spent = self.overspent = self.deaths = self.alone = 0
        self.refused_at: int | None = None
        # Callers may be spread evenly, or nearly all with one worker: then the others hold what they don't spend.
        self.favours = self.draw.choice((0.0, 0.9))

    def renew(self, worker: int, need: int) -> bool:
        """Whether the worker has heard from the account."""
        if self.now < self.away_until:
            return False
        purse = self.purses[worker]
        report = purse.report(self.names[worker], need)
        given_ = self.ledger.renew(ACCOUNT, report, WORKERS, self.now)
        if self.draw.random() < self.trouble:  # it was booked, but nobody hears of it
            return False
        purse.begin(given_, report, need, self.now)
        self.renewed[worker] = self.now
        return True

    def call(self, worker: int) -> None:
        purse, amount = self.purses[worker], self.draw.randint(1, DEAREST)
        if not purse.reserve(amount):
            if not purse.refuses(amount, self.now) and not self.renew(worker, amount):
                before = purse._left
                purse.alone(LIMIT, WORKERS)
                self.alone += purse._left - before
            if not purse.reserve(amount):
                held = sum(aside for _, aside in self.open)
                self.refused_at = self.spent + held if self.refused_at is None else self.refused_at
                return
        self.open.append((worker, amount))

    def end(self) -> None:
        """Some call that is under way ends: it cost less, or more, or it was given up and cost nothing."""
        if not self.open:
            return
        worker, aside = self.open.pop(self.draw.randrange(len(self.open)))
        kind = self.draw.random()
        cost = 0 if kind < 0.1 else round(aside * (1 + self.overrun)) if kind < 0.3 else self.draw.randint(0, aside)
        self.purses[worker].settle(aside, cost)
        self.spent += cost
        self.overspent += max(cost - aside, 0)

    def die(self, worker: int) -> None:
        """What it had under way is gone with it, and another one comes."""
        self.deaths += 1
        self.open = [(who, aside) for who, aside in self.open if who != worker]
        self.purses[worker] = Purse()
        self.names[worker] += "'"

    def lose(self) -> None:
        """The account comes back without what it knew; the workers see it, and tell it again."""
        self.ledger = self.make()
        self.away_until = 0
        for worker, purse in enumerate(self.purses):
            purse.forget()
            self.renew(worker, 0)

    def turn(self, dying: float) -> None:
        self.now += self.draw.randrange(NS)
        if self.draw.random() < self.trouble:
            self.away_until = self.now + self.draw.randrange(30 * NS)
        if self.draw.random() < self.trouble / 4:
            self.lose()
        for worker in range(WORKERS):
            if self.now - self.renewed[worker] > RENEW_NS:
                self.renew(worker, 0)
        for _ in range(self.draw.choice((0, 1, 5, 40))):
            self.call(0 if self.draw.random() < self.favours else self.draw.randrange(WORKERS))
        for _ in range(self.draw.choice((0, 3, 30))):
            self.end()
        if self.draw.random() < dying:
            self.die(self.draw.randrange(WORKERS))

    def rest(self) -> int:
        """All calls end and all workers report; what the account says is left."""
        while self.open:
            self.end()
        self.now, self.away_until, self.trouble = self.now + LIFE_NS + NS, 0, 0.0
        for worker, purse in enumerate(self.purses):
            purse.forget()
            assert self.renew(worker, 0)
        return self.ledger.renew(ACCOUNT, Report("looking", 0, 0, 0), WORKERS, self.now).left


def hold(world: World, turns: int, dying: float) -> None:
    """Overshoot, no refusal too early, nothing held by nobody."""
    for _ in range(turns):
        world.turn(dying)
    lease = int(LIMIT * 0.05) // WORKERS + DEAREST
    # What is under way belongs to calls that have been let in; deaths forget what wasn't reported yet.
    assert world.spent <= LIMIT + world.overspent + world.deaths * (lease + 40 * DEAREST)
    if world.refused_at is not None and not world.deaths:
        assert world.refused_at >= 0.95 * LIMIT - WORKERS * DEAREST
    left = world.rest()
    if not world.deaths:
        assert left == LIMIT - world.spent
    else:
        assert left >= LIMIT - world.spent


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from((0.0, 0.02)), st.sampled_from((0.0, 0.5)))
def test_the_bounds_hold(seed: int, dying: float, overrun: float) -> None:
    hold(World(MemoryAccounts, seed, overrun), 400, dying)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from((0.0, 0.5)), st.sampled_from((0.005, 0.05)))
def test_without_the_account_each_spends_its_share_and_all_of_it_is_booked(
    seed: int, overrun: float, trouble: float
) -> None:
    world = World(MemoryAccounts, seed, overrun, trouble)
    for _ in range(400):
        world.turn(0.0)
    assert world.spent <= LIMIT + world.overspent + world.alone
    assert world.rest() == LIMIT - world.spent


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9))
def test_one_outage_costs_at_most_what_was_left(seed: int) -> None:
    """It begins at any moment, and never ends."""
    world = World(MemoryAccounts, seed, 0.0)
    for _ in range(world.draw.randrange(60)):
        world.turn(0.0)
    left_ns = [purse._known for purse in world.purses]
    assert world.alone == 0
    world.away_until = 10**19
    for _ in range(600):
        world.turn(0.0)
    most = [(LIMIT if known is None else max(known, 0)) // WORKERS for known in left_ns]
    assert world.alone <= sum(most) <= LIMIT


@pytest.mark.proof
def test_the_bounds_hold_in_redis(tmp_path: Path) -> None:
    """The same world, decided by the script."""
    with OwnRedis(tmp_path) as redis:
        for seed in range(12):
            server = connected(redis.url, f"s{seed}")
            accounts = RedisAccounts(server)
            world = World(lambda accounts=accounts: accounts, seed, (0.0, 0.5)[seed % 2])
            hold(world, 400, (0.0, 0.02)[seed // 2 % 2])
            server.close()


class Held(MemoryAccounts):
    """Accounts that answer for tokens only when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let_go = threading.Event(), threading.Event()

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        if "/tokens/" in account.name:
            self.asked.set()
            assert self.let_go.wait(30)
        return super().renew(account, report, workers, now_ns)


def holder(name: str = "acme", observed: bool = False) -> Holder:
    return Holder(name, "this tenant's", cheaper=False, observed=observed, count=lambda _: None)


def test_a_caller_who_leaves_while_a_slice_is_asked_for_leaves_nothing_put_aside() -> None:
    accounts = Held()

    async def leave() -> None:
        clock = Clock()
        reach = Reach(accounts, 1, refuses=False, clock=clock)
        budgets = Budgets(accounts, "w", reach, clock)
        allowance = budgets.of(holder(), Limits(usd_per_day=1, tokens_per_minute=1000))
        assert allowance is not None
        asking = asyncio.ensure_future(allowance.reserve(1000, 5, clock.steady_ns() + 60 * NS))
        await asyncio.to_thread(accounts.asked.wait, 30)
        asking.cancel()
        await asyncio.wait((asking,))
        accounts.let_go.set()
        await budgets.drain()
        await reach.drain()

    asyncio.run(leave())
    assert accounts.spent
    assert not any(one.held for holders in accounts.holders.values() for one in holders.values())


def test_a_limit_that_changes_goes_on_with_what_was_spent(tmp_path: Path) -> None:
    accounts = SqliteAccounts(tmp_path / "budgets.db")

    async def change() -> None:
        clock = Clock()
        reach = Reach(accounts, 1, refuses=False, clock=clock)
        budgets = Budgets(accounts, "w", reach, clock)
        for usd, spends in ((1, 0.7), (2, 1.2)):
            allowance = budgets.of(holder(), Limits(usd_per_day=usd))
            assert allowance is not None
            amount = round(spends * 10**12)
            paid = await allowance.reserve(amount, None, clock.steady_ns() + 60 * NS)
            paid.settle(amount)
        await budgets.drain()
        await reach.drain()

    asyncio.run(change())
    account = Account(f"acme/usd/day/{window_of(Span.DAY, Clock().wall_ns()).name}", 2 * 10**12, 9 * 10**18)
    left = accounts.renew(account, Report("looking", 0, 0, 0), 1, Clock().wall_ns()).left
    assert left == pytest.approx(0.1 * 10**12)
    accounts.close()


def test_windows_are_the_calendars() -> None:
    at = int(datetime(2026, 12, 31, 23, 59, 30, tzinfo=UTC).timestamp()) * NS
    new_year = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * NS
    for span, name in ((Span.MINUTE, "2026-12-31T23:59"), (Span.DAY, "2026-12-31"), (Span.MONTH, "2026-12")):
        window = window_of(span, at)
        assert (window.name, window.ends_ns) == (name, new_year)
        assert window.begins_ns <= at
        assert window_of(span, window.begins_ns) == window
        assert window_of(span, window.begins_ns - 1).name != name
        assert window_of(span, new_year).name != name
    february = int(datetime(2028, 2, 29, tzinfo=UTC).timestamp()) * NS
    assert window_of(Span.MONTH, february).ends_ns == int(datetime(2028, 3, 1, tzinfo=UTC).timestamp()) * NS


@given(
    st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 10**15), st.integers(1, 64)
)
def test_a_grant_covers_the_need_or_is_nothing(limit: int, spent: int, held: int, need: int, workers: int) -> None:
    given_ = grant(limit, spent, held, need, workers)
    if need > limit - spent - held or not need:
        assert given_.amount == 0
    else:
        assert need <= given_.amount <= limit - spent - held

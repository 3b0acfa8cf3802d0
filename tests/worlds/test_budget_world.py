"""Workers that spend one budget: bursts, calls that cost more than was put aside, deaths. The design's bounds hold."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.gateway.budgets import Budgets, Holder
from servery.host.clock import Clock
from servery.quota.accounts import MemoryAccounts, SqliteAccounts
from servery.quota.budgets import LIFE_NS, NS, RENEW_NS, Account, Granted, Ledger, Purse, Report, Span, grant, window_of
from servery.terms.limits import Spending

WORKERS = 8
LIMIT = 1_000_000
DEAREST = 2_000  # of a call, at most
ACCOUNT = Account("acme/usd/day/2026-11-24", LIMIT, 9 * 10**18)


class World:
    """Workers with purses of one account; calls are put aside, and settled some time later or never."""

    def __init__(self, ledger: Ledger, seed: int, overrun: float) -> None:
        self.ledger = ledger
        self.draw = random.Random(seed)
        self.overrun = overrun
        self.now = 10**18
        self.purses = [Purse() for _ in range(WORKERS)]
        self.names = [f"w{number}-0" for number in range(WORKERS)]
        self.open: list[tuple[int, int]] = []  # worker and what was put aside
        self.renewed = [self.now] * WORKERS
        self.spent = self.overspent = self.deaths = 0
        self.refused_at: int | None = None

    def renew(self, worker: int, need: int) -> None:
        purse = self.purses[worker]
        report = purse.report(self.names[worker], need)
        purse.begin(self.ledger.renew(ACCOUNT, report, WORKERS, self.now), need, self.now)
        self.renewed[worker] = self.now

    def call(self, worker: int) -> None:
        purse, amount = self.purses[worker], self.draw.randint(1, DEAREST)
        if not purse.reserve(amount):
            if not purse.refuses(amount, self.now):
                self.renew(worker, amount)
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

    def turn(self, dying: float) -> None:
        self.now += self.draw.randrange(NS)
        for worker in range(WORKERS):
            if self.now - self.renewed[worker] > RENEW_NS:
                self.renew(worker, 0)
        for _ in range(self.draw.choice((0, 1, 5, 40))):
            self.call(self.draw.randrange(WORKERS))
        for _ in range(self.draw.choice((0, 3, 30))):
            self.end()
        if self.draw.random() < dying:
            self.die(self.draw.randrange(WORKERS))

    def rest(self) -> int:
        """All calls end and all workers report; what the account says is spent."""
        while self.open:
            self.end()
        self.now += LIFE_NS + 1
        for worker in range(WORKERS):
            self.renew(worker, 0)
        return self.ledger.renew(ACCOUNT, Report("looking", 0, 0, 0), WORKERS, self.now).left


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from((0.0, 0.02)), st.sampled_from((0.0, 0.5)))
def test_the_bounds_hold(seed: int, dying: float, overrun: float) -> None:
    world = World(MemoryAccounts(), seed, overrun)
    for _ in range(400):
        world.turn(dying)
    lease = int(LIMIT * 0.05) // WORKERS + DEAREST
    # What is under way belongs to calls that have been let in; deaths forget what wasn't reported yet.
    assert world.spent <= LIMIT + world.overspent + world.deaths * (lease + 40 * DEAREST)
    if world.refused_at is not None and not world.deaths:
        assert world.refused_at >= 0.95 * LIMIT - WORKERS * DEAREST
    left = world.rest()
    if not world.deaths:
        assert left == LIMIT - world.spent  # nothing is held by nobody
    else:
        assert left >= LIMIT - world.spent


def memory(_: Path) -> Ledger:
    return MemoryAccounts()


def sqlite(folder: Path) -> Ledger:
    return SqliteAccounts(folder / "budgets.db")


@pytest.mark.parametrize("make", [memory, sqlite])
def test_an_account_is_the_same_wherever_it_is_kept(make: Callable[[Path], Ledger], tmp_path: Path) -> None:
    ledger, now = make(tmp_path), 10**18
    first = ledger.renew(ACCOUNT, Report("a", 0, 0, 10), 2, now)
    assert (first.amount, first.left) == (LIMIT // 40, LIMIT)
    other = ledger.renew(ACCOUNT, Report("b", 0, 0, LIMIT), 2, now)
    assert (other.amount, other.left) == (0, LIMIT - first.amount)
    # It spent some, and still holds the rest.
    held = first.amount - 100
    assert ledger.renew(ACCOUNT, Report("a", 100, held, 0), 2, now).left == LIMIT - first.amount
    # It isn't heard of again: what it held comes back, what it spent doesn't.
    assert ledger.renew(ACCOUNT, Report("b", 0, 0, 0), 2, now + LIFE_NS + 1).left == LIMIT - 100
    later = msgspec.structs.replace(ACCOUNT, name="acme/usd/day/2026-11-25")
    assert ledger.renew(later, Report("b", 0, 0, 0), 2, now + LIFE_NS + 1).left == LIMIT
    ledger.close()
    again = make(tmp_path) if make is sqlite else ledger
    assert again.renew(ACCOUNT, Report("c", 0, 0, 0), 2, now + LIFE_NS + 1).left == LIMIT - 100
    again.close()


def test_an_account_that_cant_be_reached_says_so(tmp_path: Path) -> None:
    (tmp_path / "budgets.db").mkdir()
    with pytest.raises(OSError, match="budgets"):
        SqliteAccounts(tmp_path / "budgets.db").renew(ACCOUNT, Report("a", 0, 0, 1), 1, 10**18)


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


def test_a_caller_who_leaves_while_a_slice_is_asked_for_leaves_nothing_put_aside() -> None:
    accounts = Held()

    async def leave() -> None:
        clock = Clock()
        budgets = Budgets(accounts, "w", 1, clock)
        allowance = budgets.make(
            Holder("acme", "this tenant's", False, False), Spending(usd_per_day=1, tokens_per_minute=1000)
        )
        assert allowance is not None
        asking = asyncio.ensure_future(allowance.reserve(1000, 5, clock.steady_ns() + 60 * NS))
        await asyncio.to_thread(accounts.asked.wait, 30)
        asking.cancel()
        await asyncio.wait((asking,))
        accounts.let_go.set()
        await budgets.drain()

    asyncio.run(leave())
    assert accounts.spent
    assert not any(held for leases in accounts.leases.values() for held, _ in leases.values())


def test_windows_are_the_calendars() -> None:
    at = int(datetime(2026, 12, 31, 23, 59, 30, tzinfo=UTC).timestamp()) * NS
    new_year = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * NS
    for span, name in ((Span.MINUTE, "2026-12-31T23:59"), (Span.DAY, "2026-12-31"), (Span.MONTH, "2026-12")):
        window = window_of(span, at)
        assert (window.name, window.ends_ns) == (name, new_year)
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

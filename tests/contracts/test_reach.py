"""Budgets in a worker when their accounts work, are away, come back, or have lost what they knew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from servery.gateway.allowances import Allowance
from servery.gateway.budgets import Budgets
from servery.gateway.holder import Holder, Over
from servery.gateway.reach import Reach
from servery.host.clock import Clock
from servery.quota.accounts import MemoryAccounts
from servery.quota.budgets import NS, Account, Granted, Report, Span, window_of
from servery.quota.sharing import Seen
from servery.terms.limits import Limits
from servery.terms.reasons import Reason, Refusal

USD = 10**12


class Fickle(MemoryAccounts):
    """Accounts that can be out of reach, and have a clock of their own where `ahead_ns` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.there = True
        self.forgot = False
        self.ahead_ns: int | None = None

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        if not self.there:
            raise OSError("the accounts are out of reach")
        return super().renew(account, report, workers, now_ns)

    def look(self) -> Seen:
        if not self.there:
            raise OSError("the accounts are out of reach")
        forgot, self.forgot = self.forgot, False
        return Seen(self.ahead_ns, 0, forgot)

    def lose(self) -> None:
        """What was told is lost."""
        self.spent.clear()
        self.holders.clear()
        self.forgot = True


class Scene:
    """One of `workers` workers with a budget of a dollar a day."""

    def __init__(self, refuses: bool = False, workers: int = 4, observed: bool = False, every_s: float = 0.0) -> None:
        self.accounts = Fickle()
        self.clock = Clock()
        self.reach = Reach(self.accounts, workers, refuses, self.clock, every_s)
        self.budgets = Budgets(self.accounts, "w", self.reach, self.clock)
        self.counted: list[str] = []
        holder = Holder("acme", "this tenant's", cheaper=False, observed=observed, count=self.counted.append)
        allowance = self.budgets.of(holder, Limits(usd_per_day=1))
        assert allowance is not None
        self.allowance: Allowance = allowance

    async def spend(self, usd: float) -> None:
        amount = round(usd * USD)
        paid = await self.allowance.reserve(amount, None, self.clock.steady_ns() + 20 * NS)
        paid.settle(amount)

    async def spend_all(self, usd: float) -> int:
        """How often so much can be spent."""
        for count in range(1000):
            try:
                await self.spend(usd)
            except Refusal:
                return count
        raise AssertionError

    async def found(self) -> None:
        async with asyncio.timeout(20):
            while self.reach.lost:
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        await self.budgets.drain()
        await self.reach.drain()

    @property
    def booked(self) -> float:
        return sum(self.accounts.spent.values()) / USD


def play(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(act())


def test_while_the_accounts_are_away_a_worker_spends_its_share_of_what_was_left() -> None:
    async def scene() -> None:
        one = Scene()
        await one.spend(0.2)
        one.accounts.there = False
        assert await one.spend_all(0.01) in (19, 20, 21)  # a quarter of the eighty cents, and what it held
        with pytest.raises(Over, match="this worker's share of it") as told:
            await one.spend(0.05)
        assert (told.value.reason, told.value.retry_after_s) == (Reason.BUDGET_SPENT, 1.0)
        one.accounts.there = True
        await one.found()
        spent = 0.2 + 0.01 * await one.spend_all(0.01)
        await one.end()
        assert 0.99 <= one.booked <= 1.0
        assert spent < one.booked

    play(scene)


def test_one_that_never_reached_them_has_its_share_of_the_whole() -> None:
    async def scene() -> None:
        one = Scene()
        one.accounts.there = False
        assert await one.spend_all(0.01) == 25
        one.accounts.there = True
        await one.found()
        await one.spend(0.01)
        await one.end()
        assert one.booked == pytest.approx(0.26)

    play(scene)


def test_where_it_is_declared_nothing_is_spent_but_what_was_lent() -> None:
    async def scene() -> None:
        one = Scene(refuses=True)
        await one.spend(0.001)
        one.accounts.there = False
        with pytest.raises(Refusal, match="can't be reached") as told:
            await one.spend(0.5)
        assert told.value.reason is Reason.NO_COUNTER
        assert await one.spend_all(0.001) == 11  # a twentieth of it, over four workers
        one.accounts.there = True
        await one.found()
        await one.spend(0.5)
        await one.end()
        assert one.booked == pytest.approx(0.512)

    play(scene)


@pytest.mark.parametrize("refuses", [False, True])
def test_what_is_only_observed_is_never_refused(refuses: bool) -> None:
    async def scene() -> None:
        one = Scene(refuses, observed=True)
        one.accounts.there = False
        for _ in range(40):
            await one.spend(0.05)
        assert set(one.counted) == {"acme: dollars a day"}
        one.accounts.there = True
        await one.found()
        await one.spend(0.05)
        await one.end()
        assert one.booked == pytest.approx(2.05)

    play(scene)


def test_accounts_that_were_lost_hear_it_all_again() -> None:
    async def scene() -> None:
        one = Scene(every_s=0.05)
        await one.reach.start()
        for _ in range(6):
            await one.spend(0.1)
        one.accounts.lose()
        async with asyncio.timeout(20):
            while one.booked < 0.59:
                await asyncio.sleep(0.01)
        assert await one.spend_all(0.1) in (3, 4)
        await one.end()
        assert one.booked <= 1.0

    play(scene)


def test_a_day_is_that_of_the_clock_that_is_shared() -> None:
    """This machine is two days behind."""

    async def scene() -> None:
        one = Scene(every_s=60)
        one.accounts.ahead_ns = one.clock.wall_ns() - one.clock.steady_ns() + 2 * 86_400 * NS
        await one.spend(0.1)  # before it was seen: of its share
        await one.reach.start()
        await one.spend(0.1)
        await one.end()
        days = {name.rpartition("/")[2]: usd for name, usd in one.accounts.spent.items()}
        shared = window_of(Span.DAY, one.clock.wall_ns() + 2 * 86_400 * NS).name
        assert days[shared] == 0.1 * USD
        assert sum(days.values()) == 0.2 * USD

    play(scene)


def test_a_worker_that_ends_without_its_accounts_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        one = Scene()
        await one.spend(0.2)
        one.accounts.there = False
        await one.spend(0.01)
        await one.end()
        await one.end()

    play(scene)
    assert "is in none of them" in caplog.text

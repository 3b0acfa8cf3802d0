"""Budgets of dollars and tokens in one worker: a call is paid out of a slice, and slices come off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from servery.host.clock import Clock
from servery.quota.budgets import NS, RENEW_NS, Account, Granted, Ledger, Purse, Report, Span, window_of
from servery.terms.limits import Spending
from servery.terms.money import from_usd, to_usd
from servery.terms.reasons import Reason, Refusal
from servery.terms.text import Tokens

log = logging.getLogger("servery.worker")


class _Open(msgspec.Struct, frozen=True):
    """An account, and this worker's slice of it."""

    account: Account
    purse: Purse


class Holder(msgspec.Struct, frozen=True):
    """Whose budgets these are. `account` is theirs alone, `told` what a caller reads; where one is spent another tier may be
    asked if `cheaper`, and nobody is refused if `observed`.
    """

    account: str
    told: str
    cheaper: bool
    observed: bool


class Spent(Refusal):
    """A budget doesn't hold what a call may cost. `final`: no other tier is asked."""

    def __init__(self, message: str, retry_after_s: float, final: bool) -> None:
        super().__init__(Reason.BUDGET_SPENT, message, retry_after_s)
        self.final = final


class Budget:
    """One limit of one Holder: so much a `span`, in pico-dollars or in tokens (`of_tokens`)."""

    def __init__(self, holder: Holder, span: Span, of_tokens: bool, limit: int, budgets: Budgets) -> None:
        self.of_tokens = of_tokens
        self.observed = holder.observed
        self._holder = holder
        self._limit = limit
        self._span = span
        self._name = f"{holder.account}/{'tokens' if of_tokens else 'usd'}/{span.value}"
        self._budgets = budgets
        self._now = self._opened()
        self._before: list[_Open] = []  # windows that have ended, but not all of their calls
        self._renewing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False

    def _opened(self) -> _Open:
        window = window_of(self._span, self._budgets.clock.wall_ns())
        return _Open(Account(f"{self._name}/{window.name}", self._limit, window.ends_ns), Purse())

    def take(self, amount: int) -> Purse | None:
        """The purse that `amount` was put aside in, where this worker's slice holds it."""
        if self._budgets.clock.wall_ns() >= self._now.account.ends_ns:
            return None
        purse = self._now.purse
        return purse if purse.reserve(amount) else None

    async def reserve(self, amount: int, until_ns: int) -> Purse | None:
        """The purse that `amount` was put aside in; None where it isn't to be had. With 0, some must be left.

        An account that can't be reached refuses nobody: what is spent meanwhile is booked later.
        """
        clock, need = self._budgets.clock, max(amount, 1)
        while True:
            if clock.wall_ns() >= self._now.account.ends_ns:
                self._before.append(self._now)
                self._now = self._opened()
            purse = self._now.purse
            if purse.reserve(amount):
                return purse
            now_ns = clock.steady_ns()
            if purse.refuses(need, now_ns) or now_ns >= until_ns:
                return None
            if self._renewing is None or self._renewing.done():
                self._renewing = self._budgets.spawn(self._renew(self._now, need))
            await asyncio.wait((self._renewing,), timeout=(until_ns - now_ns) / NS)
            if self._failing:
                return self.on_credit(amount)

    def on_credit(self, amount: int) -> Purse:
        """The purse that `amount` was taken from, though it isn't there."""
        self._now.purse.force(amount)
        return self._now.purse

    def refused(self) -> Spent:
        """What a caller is told."""
        left_s = max((self._now.account.ends_ns - self._budgets.clock.wall_ns()) / NS, 1.0)
        amount = f"{self._limit:,} tokens" if self.of_tokens else f"${to_usd(self._limit):g}"
        message = f"{self._holder.told} budget of {amount} a {self._span.value} doesn't hold what this call may cost"
        return Spent(message, left_s, not self._holder.cheaper)

    async def settle_up(self) -> None:
        """Report what was spent, and give back what isn't put aside."""
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            await asyncio.wait((self._renewing,))
        for one in (*self._before, self._now):
            if not one.purse.idle:
                await self._renew(one, 0)
        self._before = [one for one in self._before if not one.purse.idle]

    def forget(self) -> None:
        """Nobody will renew it any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def _renew(self, one: _Open, need: int) -> None:
        budgets, purse = self._budgets, one.purse
        report = purse.report(budgets.worker, need)
        try:
            given = await budgets.ask(one.account, report)
        except OSError as error:
            purse.again(report)
            if not self._failing:
                log.error("%s; until then budgets refuse nobody", error)
            self._failing = True
        else:
            if self._failing:
                log.warning("the accounts of budgets can be used again")
            self._failing = False
            purse.begin(given, need, budgets.clock.steady_ns())
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(RENEW_NS / NS, self._in_time)

    def _in_time(self) -> None:
        """Say that this worker is still there, and give back what it doesn't need."""
        self._budgets.spawn(self.settle_up())


class Paid:
    """What was put aside for one call, in every budget that it counts on."""

    __slots__ = ("parts",)

    def __init__(self, parts: list[tuple[Budget, Purse, int]]) -> None:
        self.parts = parts

    def settle(self, pico_usd: int, tokens: int = 0) -> None:
        """The call has ended: what it cost, and took."""
        for budget, purse, reserved in self.parts:
            purse.settle(reserved, tokens if budget.of_tokens else pico_usd)

    def take_back(self) -> None:
        """The call isn't made."""
        self.settle(0)


class Allowance:
    """All budgets that a call counts on in one worker, those of one Holder or of several."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Budget, ...]) -> None:
        self.parts = parts

    def beside(self, other: Allowance | None) -> Allowance:
        """Both."""
        return self if other is None else Allowance(self.parts + other.parts)

    def take(self, pico_usd: int, tokens: Tokens) -> Paid | None:
        """Put aside what a call may cost, where this worker's slices hold it; else None, and nothing is."""
        paid = Paid([])
        for budget in self.parts:
            amount = tokens.total if budget.of_tokens else pico_usd
            if not amount:
                continue
            purse = budget.take(amount)
            if purse is None:
                paid.take_back()
                return None
            paid.parts.append((budget, purse, amount))
        return paid

    async def reserve(self, pico_usd: int | None, tokens: int | None, until_ns: int) -> Paid:
        """Put aside what a call may cost, in all budgets or in none; None is never short of anything. Refusal.

        Where budgets are only observed the call is counted, and made.
        """
        paid = Paid([])
        try:
            for budget in self.parts:
                amount = tokens if budget.of_tokens else pico_usd
                if amount is None:
                    continue
                purse = await budget.reserve(amount, until_ns)
                if purse is None and budget.observed:
                    purse = budget.on_credit(amount)
                if purse is None:
                    raise budget.refused()
                paid.parts.append((budget, purse, amount))
        except BaseException:  # the caller may leave while a slice is asked for
            paid.take_back()
            raise
        return paid


MakeAllowance = Callable[[Holder, Spending], Allowance | None]


class Budgets:
    """A Service: all budgets in one worker. `ledger` is used in a thread of its own."""

    name = "budgets"
    unready = ""

    def __init__(self, ledger: Ledger, worker: str, workers: int, clock: Clock) -> None:
        self.clock = clock
        self.worker = worker
        self._workers = workers
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="budgets")
        self._made: list[Allowance] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def make(self, holder: Holder, spending: Spending) -> Allowance | None:
        """The budgets of a Holder; None where it has none."""
        dollars = ((Span.DAY, spending.usd_per_day), (Span.MONTH, spending.usd_per_month))
        parts = [Budget(holder, span, False, from_usd(usd), self) for span, usd in dollars if usd is not None]
        if spending.tokens_per_minute is not None:
            parts.append(Budget(holder, Span.MINUTE, True, spending.tokens_per_minute, self))
        if not parts:
            return None
        allowance = Allowance(tuple(parts))
        self._made.append(allowance)
        return allowance

    async def ask(self, account: Account, report: Report) -> Granted:
        """Renew a slice, off the event loop. OSError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, self._ledger.renew, account, report, self._workers, self.clock.wall_ns()
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do `work` beside what goes on; it is waited for at the end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def start(self) -> None:
        """Nothing is asked before a request comes."""

    async def drain(self) -> None:
        """Report all that was spent. What is under way is over by now."""
        for allowance in self._made:
            for budget in allowance.parts:
                await budget.settle_up()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.close)
        self._thread.shutdown(wait=True)
        for allowance in self._made:
            for budget in allowance.parts:
                budget.forget()

"""One budget in one worker: a call is paid out of a slice, and slices come off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec

from servery.gateway.holder import Holder, Over, no_counter
from servery.gateway.reach import Reach
from servery.host.clock import Clock
from servery.quota.budgets import NS, RENEW_NS, Account, Granted, Purse, Report, Span, Window, window_of
from servery.terms.money import to_usd
from servery.terms.reasons import Reason


class Accounts(Protocol):
    """Where a Budget gets its slices. `worker` is what this one is called there: no other one is called so."""

    clock: Clock
    reach: Reach
    worker: str

    async def ask(self, account: Account, report: Report, last: bool) -> Granted:
        """Renew a slice, off the event loop. OSError."""
        ...

    def spawn(self, work: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        """Do `work` beside what goes on; it is waited for at the end."""
        ...


class _Open(msgspec.Struct, frozen=True):
    """An account in one window, and this worker's slice of it."""

    name: str
    window: Window
    purse: Purse


class Budget:
    """One limit of one Holder: so much a `span`, in pico-dollars or in tokens (`of_tokens`). Owned by the worker by account,
    so what is spent outlives Tables.
    """

    def __init__(self, account: str, span: Span, of_tokens: bool, budgets: Accounts) -> None:
        self.of_tokens = of_tokens
        self._span = span
        self._name = f"{account}/{'tokens' if of_tokens else 'usd'}/{span.value}"
        self._budgets = budgets
        self._reach = budgets.reach
        self._now = self._opened()
        self._before: list[_Open] = []  # windows that have ended, but not all of their calls
        self._renewing: asyncio.Task[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def keep(self, holder: Holder, limit: int) -> None:
        """Go on by this limit."""
        self.holder = holder
        self._limit = limit

    def _opened(self) -> _Open:
        window = window_of(self._span, self._reach.calendar_ns())
        return _Open(f"{self._name}/{window.name}", window, Purse())

    def take(self, amount: int) -> Purse | None:
        """The purse that `amount` was put aside in, where this worker's slice holds it."""
        one = self._now
        if not one.window.begins_ns <= self._reach.calendar_ns() < one.window.ends_ns:
            return None
        return one.purse if one.purse.reserve(amount) else None

    async def reserve(self, amount: int, until_ns: int) -> Purse | None:
        """The purse that `amount` was put aside in; None where it isn't to be had. With 0, some must be left.

        While the account can't be reached that is this worker's share of what was left, or Refusal.
        """
        budgets, reach, need = self._budgets, self._reach, max(amount, 1)
        while True:
            purse = self.take(amount)
            if purse is not None:
                return purse
            self._turn_over()
            purse = self._now.purse
            if reach.lost:
                if reach.refuses:
                    raise no_counter()
                purse.alone(self._limit, reach.workers)
                return purse if purse.reserve(amount) else None
            now_ns = budgets.clock.steady_ns()
            if purse.refuses(need, now_ns) or now_ns >= until_ns:
                return None
            if self._renewing is None or self._renewing.done():
                self._renewing = budgets.spawn(self._renew(self._now, need))
            await asyncio.wait((self._renewing,), timeout=(until_ns - now_ns) / NS)

    def on_credit(self, amount: int) -> Purse:
        """The purse that `amount` was taken from, though it isn't there."""
        self._now.purse.force(amount)
        return self._now.purse

    def refused(self) -> Over:
        """What a caller is told."""
        amount = f"{self._limit:,} tokens" if self.of_tokens else f"${to_usd(self._limit):g}"
        message = f"{self.holder.told} budget of {amount} a {self._span.value} doesn't hold what this call may cost"
        left_s = max((self._now.window.ends_ns - self._reach.calendar_ns()) / NS, 1.0)
        if self._reach.lost:
            message, left_s = f"{message}: this worker's share of it, while the accounts can't be reached", 1.0
        return Over(Reason.BUDGET_SPENT, message, left_s, not self.holder.cheaper)

    def would_refuse(self) -> None:
        """Count what isn't refused because its Holder is only observed."""
        self.holder.would_refuse(f"{'tokens' if self.of_tokens else 'dollars'} a {self._span.value}")

    async def settle_up(self, last: bool = False) -> bool:
        """Report what was spent, and give back what isn't put aside; whether the account has heard of it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            await asyncio.wait((self._renewing,))
        for one in (*self._before, self._now):
            if not one.purse.idle and not await self._renew(one, 0, last):
                return False
        self._before = [one for one in self._before if not one.purse.idle]
        return True

    async def tell_again(self) -> None:
        """The accounts were lost: tell all that this worker has spent of them."""
        for one in (*self._before, self._now):
            one.purse.forget()
        await self.settle_up()

    def forget(self) -> None:
        """Nobody will renew it any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _turn_over(self) -> None:
        window = self._now.window
        if not window.begins_ns <= self._reach.calendar_ns() < window.ends_ns:
            self._before.append(self._now)
            self._now = self._opened()

    async def _renew(self, one: _Open, need: int, last: bool = False) -> bool:
        budgets, purse = self._budgets, one.purse
        report = purse.report(budgets.worker, need)
        try:
            given = await budgets.ask(Account(one.name, self._limit, one.window.ends_ns), report, last)
        except OSError:
            heard = False
        else:
            heard = True
            purse.begin(given, report, need, budgets.clock.steady_ns())
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(RENEW_NS / NS, self._in_time)
        return heard

    def _in_time(self) -> None:
        """Say that this worker is still there, and give back what it doesn't need."""
        self._budgets.spawn(self.settle_up())

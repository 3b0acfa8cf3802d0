"""All budgets of dollars and tokens in one worker, and how they reach their accounts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

from servery.gateway.allowances import Allowance
from servery.gateway.budget import Budget
from servery.gateway.holder import Holder
from servery.gateway.reach import Reach
from servery.host.clock import Clock
from servery.quota.budgets import Account, Granted, Ledger, Report, Span
from servery.terms.limits import Limits
from servery.terms.money import from_usd

log = logging.getLogger("servery.worker")


class Budgets:
    """A Service: all budgets in one worker. `worker` is what the ledger knows this one by: no other one is called so."""

    name = "budgets"
    unready = ""

    def __init__(self, ledger: Ledger, worker: str, reach: Reach, clock: Clock) -> None:
        self.clock = clock
        self.worker = worker
        self.reach = reach
        self._ledger = ledger
        self._made: dict[tuple[str, Span, bool], Budget] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        reach.when_forgotten(self._tell_again)

    def of(self, holder: Holder, limits: Limits) -> Allowance | None:
        """The budgets of a Holder, going on by these limits; None where it has none."""
        parts = tuple(self._parts(holder, limits))
        return Allowance(parts) if parts else None

    def _parts(self, holder: Holder, limits: Limits) -> Iterator[Budget]:
        dollars = ((Span.DAY, limits.usd_per_day), (Span.MONTH, limits.usd_per_month))
        wanted = [(span, False, from_usd(usd)) for span, usd in dollars if usd is not None]
        if limits.tokens_per_minute is not None:
            wanted.append((Span.MINUTE, True, limits.tokens_per_minute))
        for span, of_tokens, limit in wanted:
            key = (holder.account, span, of_tokens)
            budget = self._made.get(key)
            if budget is None:
                budget = self._made[key] = Budget(*key, self)
            budget.keep(holder, limit)
            yield budget

    async def ask(self, account: Account, report: Report, last: bool) -> Granted:
        """Renew a slice, off the event loop. OSError."""
        now_ns, workers = self.reach.calendar_ns(), self.reach.workers
        return await self.reach.ask(lambda: self._ledger.renew(account, report, workers, now_ns), last=last)

    def spawn(self, work: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        """Do `work` beside what goes on; it is waited for at the end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tell_again(self) -> None:
        self.spawn(self._tell_all_again())

    async def _tell_all_again(self) -> bool:
        for budget in list(self._made.values()):
            await budget.tell_again()
        return True

    async def start(self) -> None:
        """Nothing is asked before a request comes."""

    async def drain(self) -> None:
        """Report all that was spent. What is under way is over by now."""
        for budget in self._made.values():
            if not await budget.settle_up(last=True):
                log.error("what this worker has spent since it last reached the accounts of budgets is in none of them")
                break
        while self._tasks:
            await asyncio.wait(self._tasks)
        for budget in self._made.values():
            budget.forget()

"""What a call is paid from: put aside before it in every budget that it counts on, and settled after it."""

from __future__ import annotations

from servery.gateway.budget import Budget
from servery.quota.budgets import Purse
from servery.terms.reasons import Refusal
from servery.terms.text import Tokens


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
                purse = budget.take(amount) or await _reserved(budget, amount, until_ns)
                paid.parts.append((budget, purse, amount))
        except BaseException:  # the caller may leave while a slice is asked for
            paid.take_back()
            raise
        return paid


async def _reserved(budget: Budget, amount: int, until_ns: int) -> Purse:
    """The purse that `amount` was put aside in. Refusal, unless it is only observed."""
    try:
        purse = await budget.reserve(amount, until_ns)
        if purse is None:
            raise budget.refused()
    except Refusal:
        if not budget.holder.observed:
            raise
        budget.would_refuse()
        return budget.on_credit(amount)
    return purse

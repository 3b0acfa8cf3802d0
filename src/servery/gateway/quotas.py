"""What a Holder may ask in one worker: requests a minute, and at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from servery.gateway.holder import Holder, Over
from servery.gateway.minutes import MakeMinute, Minute
from servery.host.clock import Clock
from servery.terms.limits import Limits
from servery.terms.reasons import Reason, Refusal


class Reached(Over):
    """A Quota that is used up."""

    def __init__(self, quota: Quota, message: str, retry_after_s: float) -> None:
        super().__init__(Reason.RATE_LIMITED, message, retry_after_s, not quota.holder.cheaper)
        self.quota = quota


class Quota:
    """One Holder's. Owned by the worker by account, so it outlives Tables; `inside` is what is under way here."""

    __slots__ = ("_make", "at_once", "holder", "inside", "minute")

    def __init__(self, make: MakeMinute, holder: Holder, limits: Limits) -> None:
        self._make = make
        self.minute: Minute | None = None
        self.inside = 0
        self.keep(holder, limits)

    def keep(self, holder: Holder, limits: Limits) -> None:
        """Go on by these limits; what was used in the last minute stays counted where there was a limit before."""
        self.holder = holder
        self.at_once = limits.concurrency_per_worker
        most = limits.requests_per_minute
        if most is None:
            self.minute = None
        elif self.minute is None:
            self.minute = self._make(holder.account, most)
        else:
            self.minute.limit = most

    def full(self) -> None:
        """Refuse one more at once, or say that it would have been."""
        if self.holder.observed:
            self.holder.would_refuse("concurrency_per_worker")
            return
        message = (
            f"{self.inside} are under way here, and {self.holder.told} concurrency_per_worker is {self.at_once}; "
            "wait for one to end"
        )
        raise Reached(self, message, 1.0)

    def used_up(self, minute: Minute, wait_s: float) -> None:
        """Refuse one more a minute, or say that it would have been."""
        if self.holder.observed:
            self.holder.would_refuse("requests_per_minute")
            return
        message = f"{self.holder.told} {minute.limit} requests_per_minute are used up; try again in {wait_s:.1f} s"
        raise Reached(self, message, wait_s)


Quotas = tuple[Quota, ...]


def enter(quotas: Sequence[Quota], now_ns: int) -> Minute | None:
    """Count one more on all of these, or refuse and count it on none. Who isn't refused has to `leave` them.

    Returned is a minute that has to be renewed first; then nothing is counted on minutes yet, and `count_later` finishes this.
    """
    for quota in quotas:
        if quota.at_once is not None and quota.inside >= quota.at_once:
            quota.full()
    waiting = count(quotas, now_ns)
    for quota in quotas:
        quota.inside += 1
    return waiting


def leave(quotas: Sequence[Quota]) -> None:
    """One less is under way."""
    for quota in quotas:
        quota.inside -= 1


def count(quotas: Sequence[Quota], now_ns: int) -> Minute | None:
    """Count one more on all the minutes of these, or on none: because one is used up (Refusal), or has to be renewed first."""
    for quota in quotas:
        minute = quota.minute
        if minute is None:
            continue
        try:
            wait_s = minute.take(now_ns)
            if wait_s:
                quota.used_up(minute, wait_s)
        except Refusal:
            if quota.holder.observed:
                continue
            give_back(quotas[: quotas.index(quota)], now_ns)
            raise
        if wait_s is None:
            give_back(quotas[: quotas.index(quota)], now_ns)
            return minute
    return None


def give_back(quotas: Sequence[Quota], at_ns: int) -> None:
    """What was counted at this moment isn't done after all."""
    for quota in quotas:
        if quota.minute is not None:
            quota.minute.give_back(at_ns)


async def count_later(quotas: Sequence[Quota], waiting: Minute, clock: Clock, until_ns: int) -> int:
    """Finish what `count` couldn't, as minutes are renewed; when it was counted. Refusal."""
    minute: Minute | None = waiting
    now_ns = clock.steady_ns()
    while minute is not None:
        if now_ns >= until_ns:
            raise Refusal(Reason.DEADLINE_EXCEEDED, "the deadline passed while a limit was looked up")
        await asyncio.wait((minute.renewal(),), timeout=(until_ns - now_ns) / 1e9)
        now_ns = clock.steady_ns()
        minute = count(quotas, now_ns)
    return now_ns


async def come(quotas: Sequence[Quota], clock: Clock, until_ns: int) -> int:
    """Count one more on all of these, or refuse and count it on none; when it was counted. Who isn't refused has to `leave`
    them.
    """
    now_ns = clock.steady_ns()
    waiting = enter(quotas, now_ns)
    if waiting is None:
        return now_ns
    try:
        return await count_later(quotas, waiting, clock, until_ns)
    except BaseException:
        leave(quotas)
        raise


class Stay:
    """Where a Request in text is counted while it is under way. What it asks for is known only when it has come in, so it is
    counted in two steps. `over` is a limit that is reached, and that leaves it the cheaper tiers.
    """

    __slots__ = ("_clock", "_counted", "over")

    def __init__(self, clock: Clock) -> None:
        self.over: Reached | None = None
        self._clock = clock
        self._counted: list[tuple[Quotas, int]] = []  # where, and when

    async def come(self, quotas: Quotas, until_ns: int) -> None:
        """Count it on these too. Refusal; then it isn't counted anywhere."""
        while quotas:
            try:
                at_ns = await come(quotas, self._clock, until_ns)
            except Reached as reached:
                if reached.final:
                    self._give_back()
                    raise
                self.over = self.over or reached
                quotas = tuple(quota for quota in quotas if quota is not reached.quota)
            else:
                self._counted.append((quotas, at_ns))
                return

    def leave(self) -> None:
        """It is under way no longer."""
        for quotas, _ in self._counted:
            leave(quotas)

    def _give_back(self) -> None:
        for quotas, at_ns in self._counted:
            give_back(quotas, at_ns)

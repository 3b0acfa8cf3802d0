"""Amounts per calendar window (dollars a day or month, tokens a minute) over several workers, by leases. Pure.

A worker holds a slice of what is left, spends it call by call (reserve before, settle after), and reports what it spent when
it asks for the next slice. What all workers hold unspent is at most a twentieth of the limit, so nobody is refused before 95 %
of it is spent; what is spent beyond it is at most what calls under way cost more than was reserved for them, and one slice for
each worker that dies.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

NS = 1_000_000_000
# A lease that isn't renewed comes back: its worker is gone.
LIFE_NS = 60 * NS
# How often a worker says that it still is there, and gives back what it doesn't need.
RENEW_NS = 20 * NS
# Together, the slices that lie unspent with all workers are at most so much of the limit.
_LENT = 0.05
# What a refusal is remembered for: others' slices may come back.
_REFUSED_NS = NS // 4


class Span(enum.Enum):
    """How long an amount lasts; each begins with the calendar's, in UTC."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"


class Window(msgspec.Struct, frozen=True):
    """One such time, from and up to a moment of the calendar (wall ns)."""

    name: str
    begins_ns: int
    ends_ns: int


class Account(msgspec.Struct, frozen=True):
    """What is counted: whose, in which window, up to which limit (pico-dollars or tokens)."""

    name: str
    limit: int
    ends_ns: int


class Report(msgspec.Struct, frozen=True):
    """What a worker says of an account: all that it has spent so far, what it still holds, and wants at least (0: nothing).

    As `spent` only grows, a report that comes twice is booked once, and an account that was lost is told again.
    """

    worker: str
    spent: int
    held: int
    need: int


class Granted(msgspec.Struct, frozen=True):
    """What may be spent more; `left` is what nobody had spent or held before."""

    amount: int
    left: int


class Ledger(Protocol):
    """The account of each name, shared by all workers. `now_ns` is of the clock that all of them go by."""

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        """Book a report and grant a slice, at once or not at all. OSError when the account can't be reached."""
        ...


def window_of(span: Span, wall_ns: int) -> Window:
    """The window that a moment lies in."""
    at = datetime.fromtimestamp(wall_ns // NS, UTC)
    if span is Span.MINUTE:
        begin = at.replace(second=0, microsecond=0)
        end, name = begin + timedelta(minutes=1), f"{begin:%Y-%m-%dT%H:%M}"
    elif span is Span.DAY:
        begin = at.replace(hour=0, minute=0, second=0, microsecond=0)
        end, name = begin + timedelta(days=1), f"{begin:%Y-%m-%d}"
    else:
        begin = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end, name = (begin + timedelta(days=32)).replace(day=1), f"{begin:%Y-%m}"
    return Window(name, int(begin.timestamp()) * NS, int(end.timestamp()) * NS)


def lent(limit: int, workers: int) -> int:
    """What may lie unspent with one of `workers`, of this limit."""
    return int(limit * _LENT) // workers


def grant(limit: int, spent: int, held: int, need: int, workers: int) -> Granted:
    """A slice for one of `workers`; `held` is what all of them hold. What doesn't cover `need` isn't lent."""
    left = limit - spent - held
    slice_ = min(left // (2 * workers), lent(limit, workers))
    if need <= 0 or left < need:
        return Granted(0, left)
    return Granted(max(slice_, need), left)


class Purse:
    """One worker's slice of one account. Owned by one event loop."""

    __slots__ = ("_alone", "_known", "_left", "_need", "_refused_ns", "_reserved", "_spent", "_told")

    def __init__(self) -> None:
        self._left = self._reserved = self._spent = self._told = 0
        self._need = self._refused_ns = 0
        self._known: int | None = None  # what nobody had spent or held when the account was last reached
        self._alone = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to report and nothing held."""
        return self._spent == self._told and not self._reserved and self._left <= 0

    def reserve(self, amount: int) -> bool:
        """Put `amount` aside for a call. With 0, whether anything is left."""
        if self._left < amount or self._left <= 0:
            return False
        self._left -= amount
        self._reserved += amount
        return True

    def force(self, amount: int) -> None:
        """Put `amount` aside though it isn't there: what is spent is counted all the same."""
        self._left -= amount
        self._reserved += amount

    def refuses(self, need: int, now_ns: int) -> bool:
        """Whether a slice for `need` was refused a moment ago."""
        return now_ns < self._refused_ns and need >= self._need

    def settle(self, reserved: int, cost: int) -> None:
        """A call has ended: what was put aside for it, and what it cost."""
        self._reserved -= reserved
        self._left += reserved - cost
        self._spent += cost

    def report(self, worker: str, need: int) -> Report:
        """What the account is to hear; without `need` all that isn't put aside goes back."""
        if not need and not self._alone:
            self._left = min(self._left, 0)
        # What was never granted isn't held.
        left = 0 if self._alone else max(self._left, 0)
        return Report(worker, self._spent, left + self._reserved, max(need - left, 1) if need else 0)

    def begin(self, granted: Granted, report: Report, need: int, now_ns: int) -> None:
        """The account has heard `report`: spend what was granted, or refuse by it for a moment."""
        # What was overspent is in the account by now.
        self._left = granted.amount + (0 if self._alone else max(self._left, 0))
        self._alone = False
        self._told = report.spent
        self._known = granted.left - granted.amount
        if need and not granted.amount:
            self._need, self._refused_ns = need, now_ns + _REFUSED_NS

    def alone(self, limit: int, workers: int) -> None:
        """While the account can't be reached, spend no more than one worker's share of what was left when it last was."""
        if not self._alone:
            self._alone = True
            self._left += max(limit if self._known is None else self._known, 0) // workers

    def forget(self) -> None:
        """The account was lost: it is to hear of all again."""
        self._told = 0

"""Requests in any 60 seconds over several workers, exactly: each worker spends slices of one shared window. Pure.

A slice is booked in the window as if all of it were spent in the last second in which it may be: so nobody can ever
see more than the limit in 60 seconds, whichever workers they ask. When a slice ends, what was spent is booked where it was
spent, and the rest comes back. A worker that dies keeps its slice booked for the minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from servery.quota.buckets import SECONDS

NS = 1_000_000_000
# A slice may be spent in the second in which it is granted and in the next one.
LIFE_S = 2
# Together, the slices that lie unspent with all workers are at most so much of the limit (or one request each).
_LENT = 0.05
# What a refusal is remembered for, however long the wait: others' slices may come back.
_REFUSED_NS = NS // 4

Changes = dict[int, int]  # requests to add, by second


class Grant(msgspec.Struct, frozen=True):
    """So many requests may be spent up to and with the second `until`; none: in `wait_s` seconds there are some."""

    count: int
    until: int = 0
    wait_s: float = 0.0


class Counter(Protocol):
    """The window of each name, shared by all workers. `now_ns` is of the clock that all of them go by."""

    def take(self, name: str, limit: int, workers: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        """Book `changes` and, if `wanted`, a slice; at once or not at all. OSError when the window can't be reached."""
        ...


def lent(limit: int, workers: int) -> int:
    """What may lie unspent with one of `workers`, of this limit."""
    return int(limit * _LENT) // workers


def grant(booked: Mapping[int, int], limit: int, workers: int, now_ns: int) -> Grant:
    """A slice for one of `workers`, by what is booked. Slices shrink as the limit comes near."""
    now = now_ns // NS
    left = limit - sum(count for second, count in booked.items() if second > now - SECONDS)
    if left <= 0:
        # What is booked ahead is in others' hands: it may have been spent by now.
        oldest = min(
            (second for second, count in booked.items() if now - SECONDS < second < now and count > 0), default=now
        )
        return Grant(0, 0, max(oldest + SECONDS - now_ns / NS, 0.001))
    share = min(left // (2 * workers), lent(limit, workers))
    return Grant(min(max(share, 1), left), now + LIFE_S - 1)


class Lease:
    """One worker's part of one minute."""

    __slots__ = ("_granted", "_left", "_refused_ns", "_spent", "_until", "_wait_ns")

    def __init__(self) -> None:
        self._granted = self._left = self._until = 0
        self._spent: Changes = {}
        self._refused_ns = self._wait_ns = 0

    @property
    def open(self) -> bool:
        """Whether there is a slice whose end the counter has not heard of."""
        return self._granted > 0

    @property
    def ends_ns(self) -> int:
        """When the slice may be spent no longer."""
        return (self._until + 1) * NS

    def take(self, now_ns: int) -> float | None:
        """0.0 when a request may pass, or the seconds after which one may; None: another slice has to be asked for."""
        now = now_ns // NS
        if self._left and now <= self._until:
            self._left -= 1
            self.note(now_ns, 1)
            return 0.0
        if now_ns < self._refused_ns:
            return max((self._wait_ns - now_ns) / NS, 0.001)
        return None

    def note(self, at_ns: int, count: int) -> None:
        """So many requests passed at this moment: the counter will hear of it."""
        at = at_ns // NS
        self._spent[at] = self._spent.get(at, 0) + count

    def give_back(self, at_ns: int) -> None:
        """A request that passed at this moment isn't made after all."""
        self.note(at_ns, -1)
        if self._left < self._granted and at_ns // NS <= self._until:
            self._left += 1

    def end(self) -> Changes:
        """End the slice; what the counter is to book for it."""
        changes = self._spent
        if self._granted:
            changes[self._until] = changes.get(self._until, 0) - self._granted
        self._granted = self._left = 0
        self._spent = {}
        return changes

    def begin(self, given: Grant, now_ns: int) -> None:
        """Spend `given` from now on, or refuse by it for a moment."""
        self._granted = self._left = given.count
        self._until = given.until
        if not given.count:
            self._wait_ns = now_ns + round(given.wait_s * NS)
            self._refused_ns = min(self._wait_ns, now_ns + _REFUSED_NS)

    def again(self, changes: Changes) -> None:
        """The counter was not reached: tell it of `changes` the next time."""
        for second, count in changes.items():
            self._spent[second] = self._spent.get(second, 0) + count


def share_alone(limit: int, workers: int) -> int:
    """What a worker may let pass in a minute by itself, while the counter can't be reached: its part, and at least one."""
    return max(limit // workers, 1)

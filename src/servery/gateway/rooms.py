"""What mirrored calls may take in a worker, and what they take."""

from __future__ import annotations

from collections.abc import Collection

from servery.terms.change import Candidate
from servery.terms.money import from_usd

_HOUR_NS = 3_600 * 10**9


class Room:
    """One Rollout's: so many calls at once, and so many pico-dollars in this hour (0: any)."""

    __slots__ = ("_hour", "_most", "_most_pico", "_spent", "inside")

    def __init__(self) -> None:
        self._most = self._most_pico = 0
        self._hour = self._spent = 0
        self.inside = 0

    def allow(self, most: int, most_pico: int) -> None:
        """From now on."""
        self._most, self._most_pico = most, most_pico

    def free(self, now_ns: int) -> bool:
        """Whether one more may be mirrored now (steady)."""
        if now_ns // _HOUR_NS != self._hour:
            self._hour, self._spent = now_ns // _HOUR_NS, 0
        return self.inside < self._most and (not self._most_pico or self._spent < self._most_pico)

    def leave(self, pico_usd: int = 0) -> None:
        """One has ended, and cost so much."""
        self.inside -= 1
        self._spent += pico_usd


class Rooms:
    """The worker's own, by Rollout, so that what is under way outlives a Table."""

    def __init__(self) -> None:
        self._all: dict[str, Room] = {}

    def of(self, candidate: Candidate, workers: int) -> Room:
        """The Room of a candidate that is mirrored, of whose money this worker has its part."""
        mirror = candidate.model.rollout.mirror
        pico = 0 if mirror.usd_per_hour is None else max(from_usd(mirror.usd_per_hour) // workers, 1)
        room = self._all.setdefault(candidate.rollout, Room())
        room.allow(mirror.concurrency, pico)
        return room

    def keep(self, rollouts: Collection[str]) -> None:
        """Forget all others."""
        self._all = {name: room for name, room in self._all.items() if name in rollouts}

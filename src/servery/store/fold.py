"""Records folded into counts and money per minute: what is kept of them when there is no room for the lines. Pure."""

from __future__ import annotations

import hashlib

from servery.terms.record import Late, Outcome, Record, Summary, answering

MINUTE_NS = 60 * 10**9
OTHER = "(other)"
_MOST = 10**18  # of which some still make a sum of 64 bits
_GROUP_BYTES = 128  # a Summary's numbers and id when encoded, rounded up

Key = tuple[int, str, str, str, str, str, Outcome]  # minute, tenant, route, tier, model, version, outcome


class Fold:
    """A bounded map of groups. What has no group of its own is added to `(other)`, so no count or dollar is lost.

    `name` makes the ids of the Summaries unique; it must never be used by another Fold whose lines are kept.
    """

    def __init__(self, name: str, limit_bytes: int = 100 * 1024) -> None:
        self._name = name
        self._limit = limit_bytes
        self._groups: dict[Key, list[int]] = {}  # serial, requests, rows, answered, busy_ns, pico_usd
        self._serial = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, record: Record) -> None:
        """Fold one Record: its Attempts to their own groups, the Request itself to the one that answered."""
        minute = record.at_ns // MINUTE_NS * MINUTE_NS
        attempts, tenant, route, outcome = record.attempts, record.tenant, record.route, record.outcome
        rest = record.pico_usd
        for attempt in attempts:
            key = (minute, tenant, route, attempt.tier, attempt.model, attempt.version, outcome)
            self._put(key, 0, attempt.rows, attempt.answered, attempt.busy_ns, attempt.pico_usd)
            rest -= attempt.pico_usd
        if attempts:
            answer = attempts[answering(attempts)]
            key = (minute, tenant, route, answer.tier, answer.model, answer.version, outcome)
            self._put(key, 1, 0, 0, 0, rest)
        else:
            self._put((minute, tenant, route, "", "", "", outcome), 1, record.rows, 0, 0, rest)

    def add_late(self, line: Late) -> None:
        """What an Attempt cost that ended after its Request, which has been counted itself."""
        one = line.attempt
        minute = line.at_ns // MINUTE_NS * MINUTE_NS
        key = (minute, line.tenant, line.route, one.tier, one.model, one.version, one.outcome)
        self._put(key, 0, one.rows, 0, one.busy_ns, one.pico_usd)

    def merge(self, summary: Summary) -> None:
        """Add what another Fold has counted; its id is not kept."""
        key = (
            summary.minute_ns, summary.tenant, summary.route, summary.tier, summary.model, summary.version,
            summary.outcome,
        )  # fmt: skip
        self._put(key, summary.requests, summary.rows, summary.answered, summary.busy_ns, summary.pico_usd)

    def lines(self) -> list[Summary]:
        """The groups as lines. A group keeps its id until `clear`, so that a line written twice counts once."""
        return [
            Summary(_id(self._name, group[0]), key[0], key[1], key[2], key[3], key[4], key[5], key[6], *group[1:])
            for key, group in self._groups.items()
        ]

    def clear(self) -> None:
        """Forget all groups; later ones get new ids."""
        self._groups.clear()
        self._bytes = 0

    def _put(self, key: Key, *numbers: int) -> None:
        group = self._groups.get(key)
        if group is None:
            key = self._place(key)
            group = self._groups.get(key)
        if group is None:
            self._serial += 1
            self._groups[key] = [self._serial, *map(_held, numbers)]
            return
        for index, number in enumerate(numbers, 1):
            group[index] = _held(group[index] + number)

    def _place(self, key: Key) -> Key:
        """The finest group that there is still room for."""
        minute, tenant, *_, outcome = key
        coarse = (minute, tenant, OTHER, "", "", "", outcome)
        for candidate, part in ((key, 0.8), (coarse, 0.95)):
            if candidate in self._groups:
                return candidate
            size = _GROUP_BYTES + sum(len(text.encode()) for text in candidate[1:6])
            if self._bytes + size <= part * self._limit:
                self._bytes += size
                return candidate
        return (next(iter(self._groups), key)[0], OTHER, OTHER, "", "", "", outcome)


def _held(number: int) -> int:
    """As much of it as may be true: a number beyond 64 bits would take all others along."""
    return max(min(number, _MOST), -_MOST)


def _id(name: str, serial: int) -> bytes:
    return hashlib.blake2b(f"{name}/{serial}".encode(), digest_size=16).digest()

"""Windows: what Requests and Attempts were like in each second and each minute, folded where Records are stored.

A window belongs to the time at which its Requests ended. Sums and sketches only grow, so windows that are folded in
parts add up to what one fold of all Records gives, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, bindparam, select
from sqlalchemy.dialects import sqlite

from servery.stats.sketch import Sketch
from servery.store import schema
from servery.terms.reasons import Reason
from servery.terms.record import Attempt, Late, Record, answering
from servery.terms.rollouts import AGAIN

NS = 10**9
SECOND, MINUTE = 1, 60
# How long windows of a second are kept; those of a minute are kept as long as Records.
KEPT_S = 7_200
_STAMP = "windows_stamp"

Key = tuple[Any, ...]  # seconds, start, and what a family is told apart by


class Sums(msgspec.Struct):
    """The Requests, or the Attempts, of one window. `times` is the distribution of their ns; `prices` that of pico-dollars a
    row, where an arm wants to know.
    """

    n: int = 0
    rows: int = 0
    ns: int = 0
    ns_squared: float = 0.0
    pico_usd: int = 0
    pico_usd_squared: float = 0.0
    times: Sketch = msgspec.field(default_factory=Sketch)
    prices: Sketch = msgspec.field(default_factory=Sketch)

    def add(self, rows: int, ns: int, pico_usd: int, priced: bool) -> None:
        """One more."""
        self.n += 1
        self.rows += rows
        self.ns += ns
        self.ns_squared += float(ns) * ns
        self.pico_usd += pico_usd
        self.pico_usd_squared += float(pico_usd) * pico_usd
        self.times.add(ns)
        if priced:
            self.prices.add(pico_usd / max(rows, 1))

    def merge(self, other: Sums) -> None:
        """Those of another part of the same window."""
        self.n += other.n
        self.rows += other.rows
        self.ns += other.ns
        self.ns_squared += other.ns_squared
        self.pico_usd += other.pico_usd
        self.pico_usd_squared += other.pico_usd_squared
        self.times.merge(other.times)
        self.prices.merge(other.prices)


class Folded(msgspec.Struct):
    """Both families of windows. A Request counts by the tier that answered most of its rows, an Attempt by its own Version."""

    requests: dict[Key, Sums]
    attempts: dict[Key, Sums]


def fold(records: Iterable[Record]) -> Folded:
    """The windows of these Records, of seconds and of minutes."""
    requests: dict[Key, Sums] = {}
    attempts: dict[Key, Sums] = {}
    for record in records:
        second = (record.at_ns + record.duration_ns) // NS
        made = record.attempts
        # What a caller asked for that isn't there is the caller's own word: it makes no window.
        route = "" if record.reason == Reason.NOT_FOUND.word else record.route
        tier = made[answering(made)].tier if made else ""
        arms = ",".join([f"{one.rollout}/{one.arm}" for one in record.arms]) if record.arms else ""
        key: Key = (SECOND, second, route, tier, record.tenant, arms, record.outcome.value)
        _put(requests, key, record.rows, record.duration_ns, record.pico_usd, False)
        for one, arm in zip(made, arms_of(record), strict=True):
            key = (SECOND, second, route, one.model, one.version, one.role.value, one.reason, arm, one.outcome.value)
            _put(attempts, key, one.rows, one.took_ns, one.pico_usd, bool(arm))
    return Folded(_with_minutes(requests), _with_minutes(attempts))


def counts_for(record: Record, attempt: Attempt) -> str:
    """The arm that a Request counts for by this Attempt, with how its unit was drawn."""
    drawn = [one.drawn for one in record.arms if one.drawn and attempt.arm.startswith(f"{one.rollout}/")]
    return f"{attempt.arm}/{drawn[0]}" if attempt.arm and drawn else attempt.arm


def arms_of(record: Record) -> list[str]:
    """What each Attempt counts for. Of one arm only the first one is an observation: the others weren't drawn by themselves."""
    if not record.arms:
        return [one.arm for one in record.attempts]
    met: set[str] = set()
    arms: list[str] = []
    for one in record.attempts:
        arms.append(f"{one.arm}/{AGAIN}" if one.arm in met else counts_for(record, one))
        if one.arm:
            met.add(one.arm)
    return arms


def fold_late(lines: Iterable[Late]) -> dict[Key, Sums]:
    """The windows of Attempts that ended after their Requests."""
    attempts: dict[Key, Sums] = {}
    for line in lines:
        one = line.attempt
        key = (
            SECOND, line.at_ns // NS, line.route, one.model, one.version, one.role.value, one.reason, one.arm,
            one.outcome.value,
        )  # fmt: skip
        _put(attempts, key, one.rows, one.took_ns, one.pico_usd, bool(one.arm))
    return _with_minutes(attempts)


def _put(family: dict[Key, Sums], key: Key, rows: int, ns: int, pico_usd: int, priced: bool) -> None:
    sums = family.get(key)
    if sums is None:
        sums = family[key] = Sums()
    sums.add(rows, ns, pico_usd, priced)


def _with_minutes(seconds: dict[Key, Sums]) -> dict[Key, Sums]:
    minutes: dict[Key, Sums] = {}
    for (_, start, *names), sums in seconds.items():
        minutes.setdefault((MINUTE, start - start % MINUTE, *names), Sums()).merge(sums)
    return {**seconds, **minutes}


class Windows:
    """Works inside the transaction of the ledger whose connection it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._statements = {table.name: _statements(table, connection) for table in _FAMILIES}

    def add(self, records: Iterable[Record], now_s: int, stamp: int) -> None:
        """Fold Records that weren't folded before."""
        folded = fold(records)
        for table, family in zip(_FAMILIES, (folded.requests, folded.attempts), strict=True):
            self._merge(table, family, now_s, stamp)

    def add_late(self, lines: Iterable[Late], now_s: int, stamp: int) -> None:
        """The same for Attempts that ended after their Requests."""
        self._merge(schema.attempt_windows, fold_late(lines), now_s, stamp)

    def retain(self, now_s: int, keep_s: int) -> None:
        """Remove the windows that are older than is kept."""
        for table in _FAMILIES:
            for seconds, kept in ((SECOND, KEPT_S), (MINUTE, keep_s)):
                old = (table.c.seconds == seconds) & (table.c.start_s < now_s - kept)
                self._connection.execute(table.delete().where(old))
        facts = schema.feedback_windows
        self._connection.execute(facts.delete().where(facts.c.start_s < now_s - keep_s))

    def _merge(self, table: Table, family: dict[Key, Sums], now_s: int, stamp: int) -> None:
        find, put = self._statements[table.name]
        rows: list[tuple[Any, ...]] = []
        for key, sums in family.items():
            if key[0] == SECOND and key[1] < now_s - KEPT_S:
                continue
            before = self._connection.exec_driver_sql(find, key).one_or_none()
            if before is not None:
                sums.merge(sums_of(tuple(before)))
            rows.append((*key, *_row(sums), stamp))
        if rows:
            self._connection.exec_driver_sql(put, rows)


def next_stamp(connection: Connection) -> int:
    """A number that grows with each change of the windows."""
    insert = sqlite.insert(schema.counts).values(name=_STAMP, count=1)
    grown = insert.on_conflict_do_update(index_elements=["name"], set_={"count": schema.counts.c.count + 1})
    return connection.execute(grown.returning(schema.counts.c.count)).scalar_one()


def attempts_since(connection: Connection, arms: tuple[str, ...], stamp: int) -> Iterator[tuple[Key, Sums, int]]:
    """The minutes of these arms that have changed after `stamp`: key, sums, and the stamp of their last change."""
    table = schema.attempt_windows
    changed = (table.c.arm.in_(arms)) & (table.c.stamp > stamp) & (table.c.seconds == MINUTE)
    names = len(table.primary_key)
    for row in connection.execute(select(table).where(changed)):
        yield tuple(row[:names]), sums_of(tuple(row[names:])), row[-1]


def attempts_of(connection: Connection, model: str, version: str, since_s: int) -> Iterator[tuple[Key, Sums]]:
    """The minutes since then of a Version's Attempts that were no part of a comparison."""
    table = schema.attempt_windows
    minutes = (table.c.seconds == MINUTE) & (table.c.start_s >= since_s)
    names = len(table.primary_key)
    of = select(table).where(minutes, table.c.model == model, table.c.version == version, table.c.arm == "")
    for row in connection.execute(of):
        yield tuple(row[:names]), sums_of(tuple(row[names:]))


def sums_of(row: tuple[Any, ...]) -> Sums:
    """The sums of a row, from its first sum on."""
    n, rows, ns, ns_squared, pico_usd, pico_usd_squared, times, prices = row[:8]
    return Sums(
        n, rows, ns, ns_squared, pico_usd, pico_usd_squared, Sketch.from_bytes(times), Sketch.from_bytes(prices)
    )


def _row(sums: Sums) -> tuple[Any, ...]:
    numbers = (sums.n, sums.rows, sums.ns, sums.ns_squared, sums.pico_usd, sums.pico_usd_squared)
    return (*numbers, sums.times.to_bytes(), sums.prices.to_bytes())


def _statements(table: Table, connection: Connection) -> tuple[str, str]:
    """How a window is found, and how it is put in its place; compiled once."""
    keys = list(table.primary_key)
    rest = [column for column in table.columns if not column.primary_key]
    find = select(*rest)
    for column in keys:
        find = find.where(column == bindparam(column.name))
    insert = sqlite.insert(table)
    put = insert.on_conflict_do_update(
        index_elements=[column.name for column in keys],
        set_={column.name: insert.excluded[column.name] for column in rest},
    )
    return str(find.compile(dialect=connection.dialect)), str(put.compile(dialect=connection.dialect))


_FAMILIES = (schema.request_windows, schema.attempt_windows)

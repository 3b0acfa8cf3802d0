"""Feedback on Requests that met a Rollout, folded by arm as it is joined. Of each (Record, row, name) the last counts.

The window is that of the Record, so what comes late, or corrects what came before, is found where it belongs. It is told apart by
how long after the Request it came: a correction stands where it came itself, so all that came within some age is what was known of
each Request at that age. A Request was drawn once, so it tells once of each name: by its first row, or as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import sqlite

from servery.store import schema
from servery.store.rows import Row, feedback_of, record_of
from servery.store.unit_sums import UnitFolds
from servery.store.windows import arms_of, counts_for
from servery.terms.folds import AGREEMENT, Told, measured_arm
from servery.terms.record import Attempt, Feedback, Late, Record, answering
from servery.terms.rollouts import AGAIN, AGES_S

_MINUTE_NS = 60 * 10**9
_NS = 10**9

Key = tuple[int, str, str, int]  # start (s), arm, name, within (s)


class Facts:
    """Works inside the transaction of the ledger whose connection it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        records, feedback, windows = schema.records, schema.feedback, schema.feedback_windows
        exposed = select(records).where(
            records.c.day == bindparam("day"), records.c.id == bindparam("id"), records.c.arms != "[]"
        )
        last = (
            select(feedback)
            .where(
                feedback.c.day == bindparam("day"), feedback.c.record_id == bindparam("id"),
                feedback.c.row <= 0, feedback.c.name == bindparam("name"),
            )
            .order_by(feedback.c.at_ns.desc(), feedback.c.id.desc())
            .limit(1)
        )  # fmt: skip
        self._exposed, self._last = exposed, last
        self._unit_folds = UnitFolds(connection)
        insert = sqlite.insert(windows)
        sums = [column.name for column in windows.columns if not column.primary_key]
        self._put = insert.on_conflict_do_update(
            index_elements=[column.name for column in windows.primary_key],
            set_={name: insert.excluded[name] for name in sums},
        )

    def add(self, lines: Iterable[Row], stamp: int) -> None:
        """Fold Feedback (rows of the table `feedback`) that is about to be stored."""
        folded: dict[Key, Told] = {}
        newest: dict[tuple[bytes, str], Feedback] = {}
        for line in sorted(lines, key=lambda row: (row[4], row[5])):
            fact = feedback_of(line)
            if fact.row > 0:
                continue
            named = {"day": line[0], "id": fact.record_id}
            found = self._connection.execute(self._exposed, named).one_or_none()
            if found is None:
                continue
            place = (fact.record_id, fact.name)
            before = newest.get(place) or self._before(named, fact)
            if before is not None and (before.at_ns, before.id) >= (fact.at_ns, fact.id):
                continue
            newest[place] = fact
            record = record_of(tuple(found))
            _fold(folded, record, fact, before)
            self._unit_folds.tell(record, fact, _change(Told(), record, fact, before))
        for key, told in folded.items():
            self._merge(key, told, stamp)

    def add_measured(self, records: Iterable[Record], stamp: int) -> None:
        """Fold what was measured of the answers of Attempts that are compared."""
        folded: dict[Key, Told] = {}
        for record in records:
            if any(attempt.measured for attempt in record.attempts):
                start = (record.at_ns + record.duration_ns) // _MINUTE_NS * 60
                for attempt, arm in zip(record.attempts, arms_of(record), strict=True):
                    _measure(folded, start, attempt, arm)
        for key, told in folded.items():
            self._merge(key, told, stamp)

    def add_late(self, lines: Iterable[Late], stamp: int) -> None:
        """Fold what was compared of answers that nobody was given. Feedback never has this arm: it is about what callers got."""
        folded: dict[Key, Told] = {}
        for line in lines:
            start = line.at_ns // _MINUTE_NS * 60
            _measure(folded, start, line.attempt, line.attempt.arm)
            if line.rows:
                told = folded.setdefault((start, line.attempt.arm, AGREEMENT, 0), Told())
                told.add(line.alike / line.rows, None)
        for key, told in folded.items():
            self._merge(key, told, stamp)

    def _before(self, named: dict[str, Any], fact: Feedback) -> Feedback | None:
        row = self._connection.execute(self._last, {**named, "name": fact.name}).one_or_none()
        return None if row is None else feedback_of(tuple(row))

    def _merge(self, key: Key, told: Told, stamp: int) -> None:
        table = schema.feedback_windows
        query = select(table).where(*(column == part for column, part in zip(table.primary_key, key, strict=True)))
        row = self._connection.execute(query).one_or_none()
        if row is not None:
            told.merge(_told(tuple(row)))
        names = [column.name for column in table.primary_key]
        values = {**dict(zip(names, key, strict=True)), **msgspec.structs.asdict(told), "stamp": stamp}
        self._connection.execute(self._put, values)


def told_since(connection: Connection, arms: Sequence[str], stamp: int) -> Iterator[tuple[Key, Told, int]]:
    """What of these arms has changed after `stamp`, with the stamp of its last change."""
    table = schema.feedback_windows
    for row in connection.execute(select(table).where(table.c.arm.in_(arms), table.c.stamp > stamp)):
        yield (row.start_s, row.arm, row.name, row.within_s), _told(tuple(row)), row.stamp


def _told(row: Sequence[Any]) -> Told:
    return Told(*row[4:-1])


def _fold(folded: dict[Key, Told], record: Record, fact: Feedback, before: Feedback | None) -> None:
    attempt = _answer(record, fact.row)
    if attempt is None or not attempt.arm:
        return
    ended_ns = record.at_ns + record.duration_ns
    within = next((age for age in AGES_S if fact.at_ns - ended_ns <= age * _NS), 0)
    key = (ended_ns // _MINUTE_NS * 60, counts_for(record, attempt), fact.name, within)
    _change(folded.setdefault(key, Told()), record, fact, before)


def _change(told: Told, record: Record, fact: Feedback, before: Feedback | None) -> Told:
    """Have `told` say this, in the place of what was said before."""
    if before is not None:
        told.add(before.value, _predicted(record, before.row), -1)
    told.add(fact.value, _predicted(record, fact.row))
    return told


def _predicted(record: Record, row: int) -> str | None:
    row = 0 if row < 0 and record.rows == 1 else row
    return record.predictions[row] if 0 <= row < len(record.predictions) else None


def _measure(folded: dict[Key, Told], start: int, attempt: Attempt, arm: str) -> None:
    """`arm`: what the Attempt counts for."""
    if not arm.endswith(f"/{AGAIN}"):
        for name, value in attempt.measured:
            folded.setdefault((start, measured_arm(arm), name, 0), Told()).add(value, None)


def _answer(record: Record, row: int) -> Attempt | None:
    """The Attempt whose answer the Feedback is about."""
    attempts = record.attempts
    at = record.answered_by[row] if 0 <= row < len(record.answered_by) else answering(attempts)
    return attempts[at] if attempts else None

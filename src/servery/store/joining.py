"""How Feedback finds its Record: only the Record's tenant may give it, and only on rows that it has."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, select
from sqlalchemy.dialects import sqlite

from servery.store import schema
from servery.store.facts import Facts
from servery.store.rows import Row

WAIT_NS = 3_600 * 10**9
WAITING_MOST = 100_000

REJECTED = "feedback_rejected"
EXPIRED = "feedback_expired"


class Joining:
    """Works inside the transaction of the ledger whose connection it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        records = schema.records
        query = select(records.c.tenant, records.c.rows).where(
            records.c.day == bindparam("day"), records.c.id == bindparam("id")
        )
        self._find = str(query.compile(dialect=connection.dialect))
        self.facts = Facts(connection)
        known = sqlite.insert(schema.feedback).on_conflict_do_nothing()
        self._insert = str(known.compile(dialect=connection.dialect))

    def join(self, lines: Sequence[Row], new_records: bool, now_ns: int, stamp: int) -> None:
        """Store Feedback (rows of the table `feedback`) whose Record is known, and let the rest wait for an hour.

        With `new_records` what waits is tried again.
        """
        waiting = schema.feedback_waiting
        waits = self._connection.execute(select(func.count()).select_from(waiting)).scalar_one()
        if waits and new_records:
            self._join_waiting(stamp)
        if waits:
            expired = self._connection.execute(delete(waiting).where(waiting.c.expires_ns < now_ns)).rowcount
            self._count(EXPIRED, expired)
        known: list[Row] = []
        unknown: list[Row] = []
        rejected = 0
        for line in lines:
            verdict = self._verdict(line)
            if verdict is None and waits + len(unknown) < WAITING_MOST:
                unknown.append(line)
            elif verdict:
                known.append(line)
            else:
                rejected += 1
        self._keep(known, stamp)
        if unknown:
            names = [column.name for column in schema.feedback.columns]
            self._connection.execute(
                sqlite.insert(waiting).on_conflict_do_nothing(),
                [dict(zip(names, line, strict=True)) | {"expires_ns": now_ns + WAIT_NS} for line in unknown],
            )
        self._count(REJECTED, rejected)

    def _join_waiting(self, stamp: int) -> None:
        waiting, records = schema.feedback_waiting, schema.records
        columns = [waiting.c[column.name] for column in schema.feedback.columns]
        query = select(*columns).join(records, (records.c.day == waiting.c.day) & (records.c.id == waiting.c.record_id))
        found = [tuple(row) for row in self._connection.execute(query)]
        kept = [line for line in found if self._verdict(line)]
        self._keep(kept, stamp)
        for line in found:
            self._connection.execute(delete(waiting).where(waiting.c.id == line[5]))
        self._count(REJECTED, len(found) - len(kept))

    def _verdict(self, line: Row) -> bool | None:
        """Whether the Record may have this Feedback; None when there is no such Record yet."""
        day, record_id, row, _, _, _, tenant, _ = line
        record = self._connection.exec_driver_sql(self._find, (day, record_id)).one_or_none()
        return None if record is None else record.tenant == tenant and -1 <= row < record.rows

    def _keep(self, lines: Sequence[Row], stamp: int) -> None:
        if lines:
            self.facts.add(lines, stamp)
            self._connection.exec_driver_sql(self._insert, list(lines))

    def _count(self, name: str, more: int) -> None:
        if more:
            insert = sqlite.insert(schema.counts).values(name=name, count=more)
            total = schema.counts.c.count + insert.excluded.count
            self._connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"count": total}))

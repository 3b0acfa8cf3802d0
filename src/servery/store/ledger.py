"""The ledger: append-only tables of Records, Feedback, uptime and summaries, in SQLite (later PostgreSQL).

One process writes (the shipper), any number read. Every line has an id and is inserted only where the id is new, so
lines may come twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Insert, Select, Table, bindparam, func, select, tuple_
from sqlalchemy.dialects import sqlite

from servery.stats.asymptotic import UnitSums
from servery.store import schema
from servery.store.database import bring_up, engine_of, revision_of
from servery.store.facts import Key as FactKey
from servery.store.facts import told_since
from servery.store.joining import Joining
from servery.store.judged import judged
from servery.store.rows import (
    DAY_NS,
    Row,
    day_of,
    feedback_of,
    feedback_row,
    late_of,
    late_row,
    record_of,
    record_row,
    sketch_of,
    sketch_row,
    summary_of,
    summary_row,
    uptime_of,
    uptime_row,
)
from servery.store.unit_sums import Counts, UnitFolds, counts_of, sums_of
from servery.store.units import Units
from servery.store.windows import Key, Sums, Windows, attempts_of, attempts_since, next_stamp
from servery.terms.drift import Judged
from servery.terms.experiments import Metric
from servery.terms.folds import Told
from servery.terms.record import AnyLine, Attempt, Feedback, Late, Record, Sketched, Summary, Uptime, with_late

CHUNK = 2_000
RETIRED_AT_ONCE = 10_000


class WrongLedger(Exception):
    """The ledger can't be used as it is: missing, or written by another version of Servery."""


class NoLedger(WrongLedger):
    """There is none yet: it is made with the first Record."""


class Cursor(msgspec.Struct, frozen=True):
    """How far a run is shipped: all segments below `segment`, and of it the groups up to `group`."""

    segment: int = 0
    group: int = 0


class Chunk(msgspec.Struct, frozen=True):
    """Some Records, oldest first, and all Feedback on them in the order in which it came."""

    records: list[Record]
    feedback: list[Feedback]


class Ledger:
    """One connection to one ledger, used by one thread at a time. Errors of the database are SQLAlchemy's DBAPIError."""

    def __init__(self, path: Path, create: bool = False) -> None:
        """Open the ledger; `create` makes it, or brings its schema up to date, where that is needed."""
        if not create and not path.exists():
            raise NoLedger(f"{path} does not exist: no Records were ever stored here; give the data folder with --data")
        self.path = path
        self._engine = engine_of(path, writes=create)
        self._connection = self._engine.connect()
        try:
            if create:
                self._create()
            self._check()
            self._insert_records = self._ignore_known(schema.records)
            self._insert_late = self._ignore_known(schema.late)
            self._insert_summaries = self._ignore_known(schema.summaries)
            self._insert_sketches = self._ignore_known(schema.sketches)
            self._insert_uptime = self._longer_uptime()
            self._joining = Joining(self._connection)
            self._windows = Windows(self._connection)
            self._units = Units(self._connection)
            self._unit_folds = UnitFolds(self._connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def write(self, lines: Sequence[AnyLine], run: str, cursor: Cursor, now_ns: int) -> None:
        """Store `lines` and how far `run` is shipped with them, in one transaction."""
        records: list[Record] = []
        feedback: list[Row] = []
        uptimes: list[Row] = []
        summaries: list[Row] = []
        sketches: list[Row] = []
        late: list[Late] = []
        for line in lines:
            match line:
                case Record():
                    records.append(line)
                case Feedback():
                    feedback.append(feedback_row(line))
                case Late():
                    late.append(line)
                case Uptime():
                    uptimes.append(uptime_row(line))
                case Summary():
                    summaries.append(summary_row(line))
                case Sketched():
                    sketches.append(sketch_row(line))
        # In the table's own order, so that it only grows at its end.
        records = [record for _, record in sorted({record.id: record for record in records}.items())]
        with self._connection.begin():
            stamp = next_stamp(self._connection) if records or feedback or late else 0
            if records:
                fresh = self._insert(self._units.marked(records))
                self._windows.add(fresh, now_ns // 10**9, stamp)
                self._unit_folds.add(fresh)
                self._joining.facts.add_measured(fresh, stamp)
            if late:
                added = [line for line in late if self._is_new(line)]
                self._windows.add_late(added, now_ns // 10**9, stamp)
                self._joining.facts.add_late(added, stamp)
            for statement, rows in (
                (self._insert_uptime, uptimes),
                (self._insert_summaries, summaries),
                (self._insert_sketches, sketches),
            ):
                if rows:
                    self._connection.exec_driver_sql(statement, rows)
            self._joining.join(feedback, bool(records), now_ns, stamp)
            self._move_cursor(run, cursor)

    def _insert(self, records: list[Record]) -> list[Record]:
        """Store Records; those that weren't there before, which almost always are all."""
        with self._connection.begin_nested() as tried:
            done = self._connection.exec_driver_sql(self._insert_records, [record_row(record) for record in records])
            if done.rowcount == len(records):
                return records
            tried.rollback()
        table = schema.records
        known = select(table.c.id).where(table.c.day == bindparam("day"), table.c.id == bindparam("id"))
        fresh = {
            record.id: record
            for record in records
            if self._connection.execute(known, {"day": day_of(record.id), "id": record.id}).one_or_none() is None
        }
        if fresh:
            self._connection.exec_driver_sql(self._insert_records, [record_row(record) for record in fresh.values()])
        return list(fresh.values())

    def _is_new(self, line: Late) -> bool:
        """Store a line; whether it wasn't there before."""
        return self._connection.exec_driver_sql(self._insert_late, late_row(line)).rowcount > 0

    def windows(self, arms: tuple[str, ...], stamp: int = 0) -> list[tuple[Key, Sums, int]]:
        """The minutes of Attempts of these arms that changed after `stamp`, each with its own stamp."""
        with self._connection.begin():
            return list(attempts_since(self._connection, arms, stamp))

    def before(self, model: str, version: str, since_s: int) -> list[tuple[Key, Sums]]:
        """The minutes of a Version's Attempts that nothing was compared by, since then."""
        with self._connection.begin():
            return list(attempts_of(self._connection, model, version, since_s))

    def told(self, arms: tuple[str, ...], stamp: int = 0) -> list[tuple[FactKey, Told, int]]:
        """What Feedback says of these arms, as far as it has changed after `stamp`."""
        with self._connection.begin():
            return list(told_since(self._connection, arms, stamp))

    def units(self, experiment: str) -> dict[str, Counts]:
        """What each arm of an Experiment has by now."""
        with self._connection.begin():
            return counts_of(self._connection, experiment)

    def unit_sums(
        self,
        experiment: str,
        metrics: Sequence[Metric],
        until_ns: int,
        segment: str = "",
        within_ns: int | None = None,
    ) -> list[Mapping[str, UnitSums]]:
        """For each metric the sums by arm, over the units (of a Segment: "" is all) that have begun by then. `within_ns`: where
        each Request is a unit, Feedback counts that was told so soon after it.
        """
        with self._connection.begin():
            return [sums_of(self._connection, experiment, metric, until_ns, segment, within_ns) for metric in metrics]

    def cursor(self, run: str) -> Cursor:
        """How far `run` is shipped."""
        table = schema.cursors
        with self._connection.begin():
            row = self._connection.execute(
                select(table.c.segment, table.c.group_number).where(table.c.run == run)
            ).one_or_none()
        return Cursor(row.segment, row.group_number) if row else Cursor()

    def forget_run(self, run: str) -> None:
        """Drop the cursor of a run whose files are gone."""
        with self._connection.begin():
            self._connection.execute(schema.cursors.delete().where(schema.cursors.c.run == run))

    def retain(self, now_ns: int, keep_days: int) -> int:
        """Remove what is older than `keep_days` days, a few thousand rows a transaction; the number of Records removed."""
        oldest_day = now_ns // DAY_NS - keep_days
        removed = 0
        for table, key in (
            (schema.records, schema.records.c.id),
            (schema.feedback, schema.feedback.c.record_id),
            (schema.late, schema.late.c.record_id),
        ):
            while (day := self._oldest_day(table)) is not None and day < oldest_day:
                edge = select(key).where(table.c.day == day).order_by(key).offset(RETIRED_AT_ONCE).limit(1)
                with self._connection.begin():
                    limit = self._connection.execute(edge).scalar_one_or_none()
                    rows = table.delete().where(table.c.day == day)
                    result = self._connection.execute(rows if limit is None else rows.where(key < limit))
                removed += result.rowcount if table is schema.records else 0
        with self._connection.begin():
            self._units.retain(now_ns // 10**9)
            self._windows.retain(now_ns // 10**9, keep_days * DAY_NS // 10**9)
            self._unit_folds.retain(now_ns // 10**9)
            for table, at in (
                (schema.uptime, schema.uptime.c.until_ns),
                (schema.summaries, schema.summaries.c.minute_ns),
                (schema.sketches, schema.sketches.c.until_ns),
            ):
                self._connection.execute(table.delete().where(at < oldest_day * DAY_NS))
        return removed

    def read(self, since_ns: int, until_ns: int, route: str | None = None) -> Iterator[Chunk]:
        """Records that began in [since, until), with their Feedback, a few thousand at a time."""
        table = schema.records
        position: tuple[int, bytes] = (since_ns // DAY_NS, (since_ns // 1_000_000).to_bytes(6, "big"))
        last = (until_ns // DAY_NS, (until_ns // 1_000_000).to_bytes(6, "big"))
        key = tuple_(table.c.day, table.c.id)
        base = select(table).where(key < last).order_by(table.c.day, table.c.id).limit(CHUNK)
        if route is not None:
            base = base.where(table.c.route == route)
        while rows := self._all(base.where(key > position)):
            position = (rows[-1][0], rows[-1][1])
            first = (rows[0][0], rows[0][1])
            late = self._late_between(first, position)
            records = [with_late(record_of(row), late.get(row[1], ())) for row in rows]
            known = {record.id for record in records}  # others' lie between them where one route is read
            told = [line for line in self._feedback_between(first, position) if line.record_id in known]
            yield Chunk(records, told)

    def uptimes(self, since_ns: int, until_ns: int) -> list[Uptime]:
        """All uptime that touches [since, until), uncut."""
        table = schema.uptime
        query = select(table).where(table.c.until_ns > since_ns, table.c.since_ns < until_ns)
        return [uptime_of(row) for row in self._all(query)]

    def summaries(self, since_ns: int, until_ns: int) -> list[Summary]:
        """Summaries of the minutes that begin in [since, until)."""
        table = schema.summaries
        query = select(table).where(table.c.minute_ns >= since_ns, table.c.minute_ns < until_ns)
        return [summary_of(row) for row in self._all(query)]

    def first_sketched(self, model: str) -> dict[str, int]:
        """By Version since when (ns since 1970) it has been counted for drift."""
        table = schema.sketches
        query = select(table.c.version, func.min(table.c.since_ns)).where(table.c.model == model)
        with self._connection.begin():
            rows = self._connection.execute(query.group_by(table.c.version)).all()
        return {version: since_ns for version, since_ns in rows}  # noqa: C416 these are rows

    def sketches(self, model: str, since_ns: int, until_ns: int) -> Iterator[Sketched]:
        """What was counted of a Model for drift and written in [since, until), some hundreds at a time."""
        table = schema.sketches
        key = tuple_(table.c.until_ns, table.c.id)
        position: tuple[int, bytes] = (since_ns, b"")
        query = (
            select(table)
            .where(table.c.model == model, table.c.until_ns < until_ns)
            .order_by(table.c.until_ns, table.c.id)
            .limit(CHUNK // 4)
        )
        while rows := self._all(query.where(key > position)):
            position = (rows[-1][1], rows[-1][2])
            yield from map(sketch_of, rows)

    def judged(self, model: str, name: str, since_ns: int) -> list[Judged]:
        """What Feedback of this name says of a Model's answers, in the order in which it came since then."""
        with self._connection.begin():
            return judged(self._connection, model, name, since_ns)

    def count(self, name: str) -> int:
        """How many lines were dropped by the rule `name`: feedback_rejected or feedback_expired."""
        rows = self._all(select(schema.counts.c.count).where(schema.counts.c.name == name))
        return rows[0][0] if rows else 0

    def _feedback_between(self, first: tuple[int, bytes], last: tuple[int, bytes]) -> list[Feedback]:
        table = schema.feedback
        key = tuple_(table.c.day, table.c.record_id)
        order = (table.c.day, table.c.record_id, table.c.row, table.c.name, table.c.at_ns, table.c.id)
        query = select(table).where(key >= first, key <= last).order_by(*order)
        return [feedback_of(row) for row in self._all(query)]

    def _late_between(self, first: tuple[int, bytes], last: tuple[int, bytes]) -> dict[bytes, list[Attempt]]:
        """Attempts that ended after their Requests, by Record."""
        table = schema.late
        key = tuple_(table.c.day, table.c.record_id)
        found: dict[bytes, list[Attempt]] = {}
        for row in self._all(select(table).where(key >= first, key <= last).order_by(table.c.at_ns, table.c.id)):
            line = late_of(row)
            found.setdefault(line.record_id, []).append(line.attempt)
        return found

    def _all(self, query: Select[Any]) -> list[Row]:
        with self._connection.begin():
            return [tuple(row) for row in self._connection.execute(query).all()]

    def _oldest_day(self, table: Table) -> int | None:
        with self._connection.begin():
            return self._connection.execute(select(func.min(table.c.day))).scalar_one_or_none()

    def _move_cursor(self, run: str, cursor: Cursor) -> None:
        numbers = {"segment": cursor.segment, "group_number": cursor.group}
        self._connection.execute(
            sqlite.insert(schema.cursors)
            .values(run=run, **numbers)
            .on_conflict_do_update(index_elements=["run"], set_=numbers)
        )

    def _ignore_known(self, table: Table) -> str:
        return self._compile(sqlite.insert(table).on_conflict_do_nothing())

    def _longer_uptime(self) -> str:
        insert = sqlite.insert(schema.uptime)
        longer = func.max(schema.uptime.c.until_ns, insert.excluded.until_ns)
        keys = [column.name for column in schema.uptime.primary_key]
        return self._compile(insert.on_conflict_do_update(index_elements=keys, set_={"until_ns": longer}))

    def _compile(self, insert: Insert) -> str:
        # Compiled once: the statement cache costs more than the database for rows as small as these.
        return str(insert.compile(dialect=self._engine.dialect))

    def _create(self) -> None:
        with self._connection.begin():
            if revision_of(self._connection) != schema.HEAD:
                bring_up(self._connection, "versions", schema.HEAD, schema.metadata)

    def _check(self) -> None:
        with self._connection.begin():
            revision = revision_of(self._connection)
        if revision != schema.HEAD:
            raise (WrongLedger if revision else NoLedger)(
                f"the schema of {self.path} is {revision or 'missing'}, this Servery reads {schema.HEAD}; "
                "`servery up` on this data folder brings an older one up to date"
            )

"""Where Content rests: a database apart from the ledger, in SQLite (later others), of boxes that it can't open itself.

What is erased is overwritten (`secure_delete`), the log of the database is emptied after it, and what comes late of the same is not
stored: it may have waited in a worker or its spool. Nothing here knows of Records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, and_, exists, func, literal, or_, select
from sqlalchemy.dialects import sqlite

from servery.store.contents_schema import HEAD, contents, dropped, erasures, metadata
from servery.store.database import bring_up, engine_of, revision_of
from servery.terms.content import ContentLine, Dropped, Erasure, Sealed
from servery.terms.record import record_time_ns

AT_ONCE = 500  # rows of one transaction
REMEMBERED_NS = 30 * 86_400 * 10**9  # an erasure; what is later than that of its Record isn't stored at all
_MS = 1_000_000


class WrongContents(Exception):
    """The database can't be used as it is: missing, or written by another version of Servery."""


class Counted(msgspec.Struct, frozen=True):
    """Content of one tenant, in one region, under one key. `size` is what it takes, in bytes."""

    tenant: str
    region: str
    key_id: str
    count: int
    size: int
    oldest_ns: int  # when the first of its requests began
    last_ns: int  # when the last of it expires


class Contents:
    """One connection, used by one thread at a time. Errors of the database are SQLAlchemy's DBAPIError.

    Who stores opens it with `create`; who reads or erases doesn't.
    """

    def __init__(self, path: Path, *, create: bool = False, write: bool = False) -> None:
        if not create and not path.exists():
            raise WrongContents(
                f"{path} does not exist: no Content was ever kept here; give the data folder with --data"
            )
        self.path = path
        self.clean = True  # whether nothing of what was erased is left in the database's log
        self._engine = engine_of(path, writes=create or write, more=("secure_delete=ON",))
        self._connection = self._engine.connect()
        try:
            with self._connection.begin():
                if create and revision_of(self._connection) != HEAD:
                    bring_up(self._connection, "versions/contents", HEAD, metadata)
                revision = revision_of(self._connection)
            if revision != HEAD:
                raise WrongContents(
                    f"the schema of {path} is {revision or 'missing'}, this Servery reads {HEAD}; "
                    "`servery up` on this data folder brings an older one up to date"
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def write(self, lines: Sequence[ContentLine], now_ns: int) -> int:
        """Store what isn't known, expired, late or erased, in one transaction; how many Contents are new.

        Lines may come twice.
        """
        new = 0
        with self._connection.begin():
            for line in lines:
                if isinstance(line, Dropped):
                    self._count_dropped(line)
                elif line.expires_ns > now_ns and record_time_ns(line.record_id) > now_ns - REMEMBERED_NS:
                    new += self._store(line)
        return new

    def read(self, record_ids: Iterable[bytes], now_ns: int) -> list[Sealed]:
        """The Content of these Records, as far as there is some."""
        wanted = list(record_ids)
        found: list[Sealed] = []
        for start in range(0, len(wanted), AT_ONCE):
            among = contents.c.record_id.in_(wanted[start : start + AT_ONCE])
            rows = self._all(select(contents).where(among, contents.c.expires_ns > now_ns))
            found += [Sealed(*row) for row in rows]
        return found

    def count(self, now_ns: int, tenant: str = "", before_ns: int | None = None) -> list[Counted]:
        """How much there is, by tenant, region and key; of requests that began before `before_ns`, where that is given."""
        groups = (contents.c.tenant, contents.c.region, contents.c.key_id)
        size, first = func.sum(func.length(contents.c.box)), func.min(contents.c.record_id)
        query = select(*groups, func.count(), size, first, func.max(contents.c.expires_ns)).group_by(*groups)
        query = query.where(contents.c.expires_ns > now_ns).order_by(*groups)
        if tenant:
            query = query.where(contents.c.tenant == tenant)
        if before_ns is not None:
            query = query.where(contents.c.record_id < _edge(before_ns))
        return [
            Counted(row[0], row[1], row[2], row[3], row[4], record_time_ns(row[5]), row[6]) for row in self._all(query)
        ]

    def dropped(self, tenant: str = "") -> list[tuple[str, str, int]]:
        """(tenant, why, how often) of what wasn't kept in the last days for want of room."""
        query = select(dropped.c.tenant, dropped.c.why, func.sum(dropped.c.count)).group_by(
            dropped.c.tenant, dropped.c.why
        )
        rows = self._all(query.where(dropped.c.tenant == tenant) if tenant else query)
        return [(of, why, int(count)) for of, why, count in rows]

    def erase(self, erasure: Erasure, now_ns: int) -> int:
        """Erase, and remember it for what is still on its way; how many Contents there were."""
        row = {
            "record_id": erasure.record_id,
            "tenant": erasure.tenant,
            "before_ns": erasure.before_ns,
            "at_ns": now_ns,
        }
        insert = sqlite.insert(erasures).values(**row)
        again = insert.on_conflict_do_update(
            index_elements=["record_id", "tenant", "before_ns"], set_={"at_ns": now_ns}
        )
        with self._connection.begin():
            self._connection.execute(again)
        return self._remove(_falls_under(erasure))

    def expire(self, now_ns: int) -> int:
        """Erase what has expired; how many Contents there were."""
        removed = self._remove(contents.c.expires_ns <= now_ns)
        with self._connection.begin():
            for table in (erasures, dropped):
                self._connection.execute(table.delete().where(table.c.at_ns < now_ns - REMEMBERED_NS))
        if not removed:
            self._empty_log()
        return removed

    def _remove(self, condition: ColumnElement[bool]) -> int:
        removed = 0
        some = select(contents.c.record_id).where(condition).limit(AT_ONCE)
        while True:
            with self._connection.begin():
                gone = self._connection.execute(contents.delete().where(contents.c.record_id.in_(some))).rowcount
            removed += gone
            if gone < AT_ONCE:
                break
        if removed:
            self._empty_log()
        return removed

    def _empty_log(self) -> None:
        """Bring the log into the database and cut it to nothing: until then it holds what was erased, encrypted as it was."""
        driver: Any = self._connection.connection.dbapi_connection
        ((busy, _, _),) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.clean = not busy  # somebody reads; the next time will do

    def _store(self, line: Sealed) -> int:
        values = (line.record_id, line.tenant, line.region, line.expires_ns, line.key_id, line.box)
        columns = list(contents.columns)
        row = select(*[literal(value, column.type) for value, column in zip(values, columns, strict=True)])
        insert = sqlite.insert(contents).from_select([column.name for column in columns], row.where(~_erased(line)))
        return self._connection.execute(insert.on_conflict_do_nothing()).rowcount

    def _count_dropped(self, line: Dropped) -> None:
        names = ("run", "tenant", "why")
        insert = sqlite.insert(dropped).values(**msgspec.structs.asdict(line))
        more = {name: func.max(dropped.c[name], insert.excluded[name]) for name in ("count", "at_ns")}
        self._connection.execute(insert.on_conflict_do_update(index_elements=names, set_=more))

    def _all(self, query: Select[*tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        with self._connection.begin():
            return [tuple(row) for row in self._connection.execute(query).all()]


def _erased(line: Sealed) -> ColumnElement[bool]:
    """Whether an erasure covers it."""
    of_record = erasures.c.record_id.in_([line.record_id, b""])
    of_tenant = or_(erasures.c.tenant == line.tenant, erasures.c.tenant == "")
    return exists().where(and_(of_record, of_tenant, erasures.c.before_ns > record_time_ns(line.record_id)))


def _falls_under(erasure: Erasure) -> ColumnElement[bool]:
    conditions = [contents.c.record_id < _edge(erasure.before_ns)]
    if erasure.tenant:
        conditions.append(contents.c.tenant == erasure.tenant)
    if erasure.record_id:
        conditions.append(contents.c.record_id == erasure.record_id)
    return and_(*conditions)


def _edge(before_ns: int) -> bytes:
    """What the ids of all Records that began before `before_ns` lie below: ids begin with their time in ms."""
    return (-(-before_ns // _MS)).to_bytes(6, "big")

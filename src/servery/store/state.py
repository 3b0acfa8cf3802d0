"""The state: revisions, the journal of changes, what is held, and the audit, in SQLite (later PostgreSQL).

The controller writes, and `servery up` before there is one; anybody may read meanwhile. Synchronous: never in an event loop.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, RowMapping, Select, Table, func, select
from sqlalchemy.exc import DBAPIError

from servery.store import state_schema as schema
from servery.store.database import bring_up, engine_of, revision_of
from servery.store.heads import Heads
from servery.terms.audit import Draft, Entry, Head, sealed
from servery.terms.change import Snapshot
from servery.terms.history import Ended, Held, Intent, Journaled, Revision, Underway, serves

log = logging.getLogger("servery.state")

Kind = TypeVar("Kind")

_AT_ONCE = 500
_JOURNALED = 1_000  # changes that ended, of which the journal keeps a line; the audit keeps all


class WrongState(Exception):
    """The state can't be used as it is: missing, written by another version of Servery, locked or broken."""


class State:
    """The state of one data folder; each method is a transaction of its own. WrongState."""

    def __init__(self, path: Path, heads: Path, create: bool = False) -> None:
        """`create` makes it, or brings its schema up to date, where that is needed; only then it can be written."""
        if not create and not path.exists():
            raise WrongState(f"{path} does not exist: nothing was ever served from here; name the folder with --data")
        self.path = path
        self.heads = Heads(heads)
        self._engine = engine_of(path, writes=create)
        with self.transaction() as connection:
            revision = revision_of(connection)
            if create and revision != schema.HEAD:
                bring_up(connection, "state", schema.HEAD, schema.metadata)
                revision = schema.HEAD
        if revision != schema.HEAD:
            raise WrongState(
                f"the schema of {path} is {revision or 'missing'}, this Servery reads {schema.HEAD}; "
                "`servery up` on this data folder brings an older one up to date"
            )

    @contextlib.contextmanager
    def transaction(self) -> Generator[Connection]:
        """One of its own. WrongState."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise WrongState(f"{self.path} can't be used: {error.orig}") from None

    def begin(self, under_way: Underway) -> None:
        """Write down what is about to be done. There must be nothing under way."""
        intent, table = under_way.intent, schema.changes
        with self.transaction() as connection:
            if (other := _under_way(connection)) is not None:
                raise WrongState(f"another change is under way ({other.intent.act} by {other.intent.who})")
            connection.execute(
                table.insert().values(
                    number=_last(connection, table) + 1,
                    id=intent.id,
                    act=intent.act,
                    subject=intent.subject,
                    who=intent.who,
                    why=intent.why,
                    at_ns=under_way.at_ns,
                    step="begun",
                    ended=Ended.UNDER_WAY.value,
                    message="",
                    epoch=under_way.old.epoch,
                    revision=0,
                    audit="",
                    under_way=_text(under_way),
                )
            )

    def step(self, change: str, step: str, message: str = "") -> None:
        """How far the change of this id has come, and what is in its way."""
        table = schema.changes
        with self.transaction() as connection:
            connection.execute(table.update().where(table.c.id == change).values(step=step, message=message))

    def end(
        self, change: str, ended: Ended, message: str, snapshot: Snapshot, draft: Draft, keep: int = 20
    ) -> Journaled:
        """Close the change of this id, of which `snapshot` is served now: with a Revision where that is something new, and
        the audit's entry `draft`. Of the Revisions the last `keep` can be returned to.
        """
        table = schema.changes
        with self.transaction() as connection:
            under_way = _under_way(connection)
            if under_way is None or under_way.intent.id != change:
                raise WrongState(f"the change {change} is not under way")
            number = _last(connection, schema.revisions)
            if ended is Ended.IN_EFFECT:
                number = _revise(connection, under_way.intent, snapshot, draft.at_ns, keep)
                for held in under_way.intent.lifted:
                    connection.execute(_of(schema.held, held.model, held.digest))
            entry = self.append(connection, draft)
            values = {
                "ended": ended.value,
                "message": message,
                "epoch": snapshot.epoch,
                "revision": number,
                "audit": str(Head(entry.number, entry.seal)),
                "under_way": "",
            }
            connection.execute(table.update().where(table.c.id == change).values(values))
            connection.execute(table.delete().where(table.c.number <= _last(connection, table) - _JOURNALED))
            row = connection.execute(select(table).where(table.c.id == change)).mappings().one()
        self.write_head(entry)
        return _journaled(row)

    def under_way(self) -> Underway | None:
        """The change that has begun and not ended."""
        with self.transaction() as connection:
            return _under_way(connection)

    def journaled(self, change: str) -> Journaled | None:
        """What became of the change of this id; None where it isn't known (any more)."""
        table = schema.changes
        query = select(table).where(table.c.id == change).order_by(table.c.number.desc()).limit(1)
        rows = self._all(query)
        return _journaled(rows[0]) if rows else None

    def revisions(self, most: int = _AT_ONCE, before: int = 2**62) -> list[Revision]:
        """The last Revisions, the newest first."""
        table = schema.revisions
        columns = [column for column in table.c if column.name not in ("source", "snapshot")]
        kept = (table.c.snapshot != "").label("kept")
        query = select(*columns, kept).where(table.c.number < before).order_by(table.c.number.desc()).limit(most)
        return [_revision(row) for row in self._all(query)]

    def revision(self, number: int) -> tuple[Revision, str, Snapshot] | None:
        """A Revision that can be returned to, what its manifest's file said, and what was published."""
        table = schema.revisions
        rows = self._all(select(table).where(table.c.number == number, table.c.snapshot != ""))
        if not rows:
            return None
        try:
            snapshot = msgspec.json.decode(rows[0]["snapshot"], type=Snapshot)
        except msgspec.DecodeError:
            return None
        [revision] = self.revisions(1, number + 1)
        return revision, rows[0]["source"], snapshot

    def snapshots(self) -> Iterator[Snapshot]:
        """What was published, of each Revision that can be returned to."""
        table = schema.revisions
        for row in self._all(select(table.c.number).where(table.c.snapshot != "")):
            if (found := self.revision(row["number"])) is not None:
                yield found[2]

    def held(self) -> list[Held]:
        """All Versions that are held, the oldest first."""
        table = schema.held
        query = select(table).order_by(table.c.since_ns, table.c.model, table.c.digest)
        return [_value(row, Held) for row in self._all(query)]

    @staticmethod
    def held_from_now(connection: Connection, held: Held) -> None:
        """Have a Version held, as a part of a transaction."""
        connection.execute(_of(schema.held, held.model, held.digest))
        connection.execute(schema.held.insert().values(**msgspec.structs.asdict(held)))

    def hold(self, held: Held, draft: Draft) -> None:
        """Have a Version held from now on."""
        with self.transaction() as connection:
            self.held_from_now(connection, held)
            entry = self.append(connection, draft)
        self.write_head(entry)

    def record(self, draft: Draft) -> Entry:
        """An entry of the audit about something that is no change of what is served."""
        with self.transaction() as connection:
            entry = self.append(connection, draft)
        self.write_head(entry)
        return entry

    def entries(self, since_ns: int = 0) -> Iterator[Entry]:
        """The audit since then, in its order, some hundreds at a time."""
        last = -1
        while found := self.entries_after(last, _AT_ONCE, since_ns):
            yield from found
            last = found[-1].number

    def entries_after(self, number: int, most: int, since_ns: int = 0) -> list[Entry]:
        """The first entries of the audit behind this one."""
        table = schema.audit
        query = select(table).where(table.c.number > number, table.c.at_ns >= since_ns)
        return [_value(row, Entry) for row in self._all(query.order_by(table.c.number).limit(most))]

    def append(self, connection: Connection, draft: Draft) -> Entry:
        """Seal `draft` behind the last entry, or behind the last head where that is further on: entries are missing then,
        and what follows must not hide that.
        """
        table = schema.audit
        row = connection.execute(
            select(table.c.number, table.c.seal).order_by(table.c.number.desc()).limit(1)
        ).one_or_none()
        try:
            last = self.heads.last()
        except OSError as error:
            raise WrongState(f"the heads of the audit can't be read: {error.filename}: {error.strerror}") from None
        if row is not None and row.number >= last.number:
            last = Head(row.number, row.seal)
        entry = sealed(draft, last)
        connection.execute(table.insert().values(**msgspec.structs.asdict(entry)))
        return entry

    def write_head(self, entry: Entry) -> None:
        """Once the entry is stored. Where it could not be written, or its writer was killed, the next one writes it too."""
        try:
            late = self.entries_after(self.heads.last().number, _AT_ONCE)
            if len(late) > 2:
                log.warning("the heads of %d entries of the audit were not written yet, and are now", len(late) - 1)
            self.heads.add(*[Head(one.number, one.seal) for one in late])
        except OSError as error:
            log.error("the head of the audit's entry %d can't be written: %s", entry.number, error)

    def _all(self, query: Select[Any]) -> list[RowMapping]:
        with self.transaction() as connection:
            return list(connection.execute(query).mappings().all())


def _revise(connection: Connection, intent: Intent, snapshot: Snapshot, now_ns: int, keep: int) -> int:
    """The number of the Revision that is served now: a new one where it isn't what was served before.

    A change that isn't about the manifest leaves what its file said.
    """
    table = schema.revisions
    last = connection.execute(select(table).order_by(table.c.number.desc()).limit(1)).one_or_none()
    meaning = serves(snapshot)
    if last is not None and last.serves == meaning:
        if intent.file:
            lies = {"file": intent.file, "source": intent.source}
            connection.execute(table.update().where(table.c.number == last.number).values(lies))
        return last.number
    number = 1 if last is None else last.number + 1
    connection.execute(
        table.insert().values(
            number=number,
            at_ns=now_ns,
            act=intent.act,
            who=intent.who,
            why=intent.why,
            digest=snapshot.manifest_digest,
            serves=meaning,
            epoch=snapshot.epoch,
            file=intent.file or ("" if last is None else last.file),
            returns_to=intent.returns_to,
            steps=_text(intent.steps),
            source=intent.source or ("" if last is None else last.source),
            snapshot=_text(snapshot),
        )
    )
    connection.execute(table.update().where(table.c.number <= number - keep).values(source="", snapshot=""))
    return number


def _under_way(connection: Connection) -> Underway | None:
    table = schema.changes
    query = select(table.c.under_way).where(table.c.ended == Ended.UNDER_WAY.value)
    content = connection.execute(query).scalar_one_or_none()
    return None if content is None else msgspec.json.decode(content, type=Underway)


def _last(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.max(table.c.number))).scalar_one_or_none() or 0


def _of(table: Table, model: str, digest: str) -> Any:
    return table.delete().where(table.c.model == model, table.c.digest == digest)


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _value(row: Mapping[Any, Any], kind: type[Kind]) -> Kind:
    return msgspec.convert({str(name): value for name, value in row.items()}, kind)


def _journaled(row: RowMapping) -> Journaled:
    return _value(row, Journaled)


def _revision(row: RowMapping) -> Revision:
    fields: dict[Any, Any] = {**row, "steps": msgspec.json.decode(row["steps"]), "kept": bool(row["kept"])}
    return _value(fields, Revision)

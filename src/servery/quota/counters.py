"""Where the windows of `leases` are kept: in memory, or in a SQLite file that all workers of a machine share."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from servery.quota.buckets import SECONDS
from servery.quota.leases import NS, Changes, Grant, grant

_BUSY_MS = 500
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS booked (tenant TEXT NOT NULL, second INTEGER NOT NULL, count INTEGER NOT NULL,"
    " PRIMARY KEY (tenant, second)) WITHOUT ROWID, STRICT"
)
_ADD = (
    "INSERT INTO booked (tenant, second, count) VALUES (?1, ?2, max(?3, 0))"
    " ON CONFLICT (tenant, second) DO UPDATE SET count = max(count + ?3, 0)"
)


class MemoryCounter:
    """For workers of one process."""

    def __init__(self) -> None:
        self._booked: dict[str, Changes] = {}

    def take(self, tenant: str, limit: int, workers: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        """As of Counter; never fails."""
        oldest = now_ns // NS - SECONDS + 1
        booked = {second: count for second, count in self._booked.get(tenant, {}).items() if second >= oldest}
        for second, count in changes.items():
            if second >= oldest:
                booked[second] = max(booked.get(second, 0) + count, 0)
        given = grant(booked, limit, workers, now_ns) if wanted else Grant(0)
        if given.count:
            booked[given.until] = booked.get(given.until, 0) + given.count
        self._booked[tenant] = booked
        return given

    def close(self) -> None:
        """Nothing is open."""


class SqliteCounter:
    """Used by one thread at a time. The seconds are of the steady clock, so the file is of no use after a restart of the
    machine; it is made where it is missing, and what is written survives the process that wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def take(self, tenant: str, limit: int, workers: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        """As of Counter. OSError when the file can't be read or written; the next call opens it again."""
        try:
            return self._take(self._opened(), tenant, limit, workers, changes, now_ns, wanted)
        except sqlite3.Error as error:
            self.close()
            raise OSError(f"the counter of limits can't be used: {error}") from None

    def close(self) -> None:
        """Let the file go; calling it again is fine."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute(_SCHEMA)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @staticmethod
    def _take(
        connection: sqlite3.Connection,
        tenant: str,
        limit: int,
        workers: int,
        changes: Changes,
        now_ns: int,
        wanted: bool,
    ) -> Grant:
        oldest = now_ns // NS - SECONDS + 1
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("DELETE FROM booked WHERE tenant = ? AND second < ?", (tenant, oldest))
            added = [(tenant, second, count) for second, count in changes.items() if second >= oldest and count]
            connection.executemany(_ADD, added)
            given = Grant(0)
            if wanted:
                rows = connection.execute("SELECT second, count FROM booked WHERE tenant = ?", (tenant,)).fetchall()
                given = grant(dict(rows), limit, workers, now_ns)
                if given.count:
                    connection.execute(_ADD, (tenant, given.until, given.count))
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return given

"""Where the windows of `leases` are kept: in memory, or in a SQLite file that all workers of a machine share."""

from __future__ import annotations

from pathlib import Path

from servery.quota.buckets import SECONDS
from servery.quota.leases import NS, Changes, Grant, grant
from servery.quota.shared_file import SharedFile
from servery.quota.sharing import Seen

_BUSY_MS = 500
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS booked (name TEXT NOT NULL, second INTEGER NOT NULL, count INTEGER NOT NULL,"
    " PRIMARY KEY (name, second)) WITHOUT ROWID, STRICT"
)
_ADD = (
    "INSERT INTO booked (name, second, count) VALUES (?1, ?2, max(?3, 0))"
    " ON CONFLICT (name, second) DO UPDATE SET count = max(count + ?3, 0)"
)


class MemoryCounter:
    """For workers of one process."""

    def __init__(self) -> None:
        self._booked: dict[str, Changes] = {}

    def take(self, name: str, limit: int, workers: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        """As of Counter; never fails."""
        oldest = now_ns // NS - SECONDS + 1
        booked = {second: count for second, count in self._booked.get(name, {}).items() if second >= oldest}
        for second, count in changes.items():
            if second >= oldest:
                booked[second] = max(booked.get(second, 0) + count, 0)
        given = grant(booked, limit, workers, now_ns) if wanted else Grant(0)
        if given.count:
            booked[given.until] = booked.get(given.until, 0) + given.count
        self._booked[name] = booked
        return given

    def look(self) -> Seen:
        """As of Store."""
        return Seen()

    def close(self) -> None:
        """Nothing is open."""


class SqliteCounter:
    """Used by one thread at a time. The seconds are of the steady clock, so the file is of no use after a restart of the
    machine; it is made where it is missing, and what is written survives the process that wrote it.
    """

    def __init__(self, path: Path) -> None:
        what = "the file of limits"
        self._file = SharedFile(path, (_SCHEMA,), what=what, busy_ms=_BUSY_MS, synchronous="OFF")
        self.look, self.close = self._file.look, self._file.close

    def take(self, name: str, limit: int, workers: int, changes: Changes, now_ns: int, wanted: bool) -> Grant:
        """As of Counter. OSError when the file can't be read or written; the next call opens it again."""
        oldest = now_ns // NS - SECONDS + 1
        with self._file.change() as connection:
            connection.execute("DELETE FROM booked WHERE name = ? AND second < ?", (name, oldest))
            added = [(name, second, count) for second, count in changes.items() if second >= oldest and count]
            connection.executemany(_ADD, added)
            given = Grant(0)
            if wanted:
                rows = connection.execute("SELECT second, count FROM booked WHERE name = ?", (name,)).fetchall()
                given = grant(dict(rows), limit, workers, now_ns)
                if given.count:
                    connection.execute(_ADD, (name, given.until, given.count))
        return given

"""Where the accounts of budgets are kept: in memory, or in a SQLite file for all workers of a machine and over restarts."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from servery.quota.budgets import LIFE_NS, NS, Account, Granted, Report, grant

_BUSY_MS = 2_000
_KEPT_NS = 600 * NS  # after its window: calls that began in it may end later
_ACCOUNTS = (
    "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, spent INTEGER NOT NULL, ends_ns INTEGER NOT NULL)"
    " WITHOUT ROWID, STRICT"
)
_LEASES = (
    "CREATE TABLE IF NOT EXISTS leases (name TEXT NOT NULL, worker TEXT NOT NULL, held INTEGER NOT NULL,"
    " until_ns INTEGER NOT NULL, PRIMARY KEY (name, worker)) WITHOUT ROWID, STRICT"
)
_BOOK = (
    "INSERT INTO accounts (name, spent, ends_ns) VALUES (?1, ?2, ?3)"
    " ON CONFLICT (name) DO UPDATE SET spent = spent + ?2 RETURNING spent"
)
_LEND = (
    "INSERT INTO leases (name, worker, held, until_ns) VALUES (?1, ?2, ?3, ?4)"
    " ON CONFLICT (name, worker) DO UPDATE SET held = ?3, until_ns = ?4"
)


class MemoryAccounts:
    """For workers of one process. Times are wall ns."""

    def __init__(self) -> None:
        self.spent: dict[str, int] = {}
        self.leases: dict[str, dict[str, tuple[int, int]]] = {}  # by name and worker: held, until

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        """As of Ledger; never fails."""
        name = account.name
        spent = self.spent[name] = self.spent.get(name, 0) + report.spent
        leases = {who: lease for who, lease in self.leases.get(name, {}).items() if lease[1] >= now_ns}
        leases.pop(report.worker, None)
        others = sum(held for held, _ in leases.values())
        given = grant(account.limit, spent, others + report.held, report.need, workers)
        held = report.held + given.amount
        if held:
            leases[report.worker] = (held, now_ns + LIFE_NS)
        self.leases[name] = leases
        return given

    def close(self) -> None:
        """Nothing is open."""


class SqliteAccounts:
    """Used by one thread at a time. What is spent survives a restart; what is held comes back when it isn't renewed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        """As of Ledger. OSError when the file can't be read or written; the next call opens it again."""
        try:
            return self._renew(self._opened(), account, report, workers, now_ns)
        except sqlite3.Error as error:
            self.close()
            raise OSError(f"the accounts of budgets can't be used: {error}") from None

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
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(_ACCOUNTS)
                connection.execute(_LEASES)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @staticmethod
    def _renew(connection: sqlite3.Connection, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        name = account.name
        connection.execute("BEGIN IMMEDIATE")
        try:
            ((spent,),) = connection.execute(_BOOK, (name, report.spent, account.ends_ns)).fetchall()
            connection.execute("DELETE FROM leases WHERE name = ? AND until_ns < ?", (name, now_ns))
            ((others,),) = connection.execute(
                "SELECT coalesce(sum(held), 0) FROM leases WHERE name = ? AND worker <> ?", (name, report.worker)
            ).fetchall()
            given = grant(account.limit, spent, others + report.held, report.need, workers)
            connection.execute(_LEND, (name, report.worker, report.held + given.amount, now_ns + LIFE_NS))
            gone = "SELECT name FROM accounts WHERE ends_ns < ?"
            old = (now_ns - _KEPT_NS,)
            connection.execute(f"DELETE FROM leases WHERE name IN ({gone})", old)  # noqa: S608 no value is in it
            connection.execute("DELETE FROM accounts WHERE ends_ns < ?", old)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return given

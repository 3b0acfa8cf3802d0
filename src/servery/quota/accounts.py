"""Where the accounts of budgets are kept: in memory, or in a SQLite file for all workers of a machine and over restarts."""

from __future__ import annotations

from pathlib import Path

from servery.quota.budgets import LIFE_NS, NS, Account, Granted, Report, grant
from servery.quota.shared_file import SharedFile

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
        what = "the accounts of budgets"
        self._file = SharedFile(path, (_ACCOUNTS, _LEASES), what=what, busy_ms=_BUSY_MS, synchronous="NORMAL")
        self.close = self._file.close

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        """As of Ledger. OSError when the file can't be read or written; the next call opens it again."""
        name = account.name
        with self._file.change() as connection:
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
        return given

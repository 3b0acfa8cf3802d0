"""Where the accounts of budgets are kept: in memory, or in a SQLite file for all workers of a machine and over restarts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from servery.quota.budgets import LIFE_NS, NS, Account, Granted, Report, grant
from servery.quota.shared_file import SharedFile
from servery.quota.sharing import Seen

_BUSY_MS = 2_000
# After its window an account is kept: calls that began in it may end later.
KEPT_NS = 600 * NS
# What a worker has told is known for so long after it was last heard of, or what it tells next would be booked twice.
KNOWN_NS = 86_400 * NS
_ACCOUNTS = (
    "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, spent INTEGER NOT NULL, ends_ns INTEGER NOT NULL)"
    " WITHOUT ROWID, STRICT"
)
_HOLDERS = (
    "CREATE TABLE IF NOT EXISTS holders (name TEXT NOT NULL, worker TEXT NOT NULL, told INTEGER NOT NULL,"
    " held INTEGER NOT NULL, until_ns INTEGER NOT NULL, PRIMARY KEY (name, worker)) WITHOUT ROWID, STRICT"
)
_BOOK = (
    "INSERT INTO accounts (name, spent, ends_ns) VALUES (?1, ?2, ?3)"
    " ON CONFLICT (name) DO UPDATE SET spent = spent + ?2 RETURNING spent"
)
_LEND = (
    "INSERT INTO holders (name, worker, told, held, until_ns) VALUES (?1, ?2, ?3, ?4, ?5)"
    " ON CONFLICT (name, worker) DO UPDATE SET told = ?3, held = ?4, until_ns = ?5"
)


class Holding(msgspec.Struct, frozen=True):
    """What one worker has told that it spent of an account, and what it holds of it until when."""

    told: int = 0
    held: int = 0
    until_ns: int = 0


class MemoryAccounts:
    """For workers of one process. Times are wall ns."""

    def __init__(self) -> None:
        self.spent: dict[str, int] = {}
        self.holders: dict[str, dict[str, Holding]] = {}  # by name and worker

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        """As of Ledger; never fails."""
        name, holders = account.name, self.holders.setdefault(account.name, {})
        told = holders.get(report.worker, Holding()).told
        spent = self.spent[name] = self.spent.get(name, 0) + max(report.spent - told, 0)
        others = sum(
            holding.held for who, holding in holders.items() if who != report.worker and holding.until_ns >= now_ns
        )
        given = grant(account.limit, spent, others + report.held, report.need, workers)
        holders[report.worker] = Holding(max(told, report.spent), report.held + given.amount, now_ns + LIFE_NS)
        return given

    def look(self) -> Seen:
        """As of Store."""
        return Seen()

    def close(self) -> None:
        """Nothing is open."""


class SqliteAccounts:
    """Used by one thread at a time. What is spent survives a restart; what is held comes back when it isn't renewed."""

    def __init__(self, path: Path) -> None:
        what = "the file of budgets"
        self._file = SharedFile(path, (_ACCOUNTS, _HOLDERS), what=what, busy_ms=_BUSY_MS, synchronous="NORMAL")
        self.look, self.close = self._file.look, self._file.close

    def renew(self, account: Account, report: Report, workers: int, now_ns: int) -> Granted:
        """As of Ledger. OSError when the file can't be read or written; the next call opens it again."""
        name, who = account.name, report.worker
        with self._file.change() as connection:
            found = connection.execute("SELECT told FROM holders WHERE name = ? AND worker = ?", (name, who)).fetchall()
            told = found[0][0] if found else 0
            new = max(report.spent - told, 0)
            ((spent,),) = connection.execute(_BOOK, (name, new, account.ends_ns)).fetchall()
            ((others,),) = connection.execute(
                "SELECT coalesce(sum(held), 0) FROM holders WHERE name = ? AND worker <> ? AND until_ns >= ?",
                (name, who, now_ns),
            ).fetchall()
            given = grant(account.limit, spent, others + report.held, report.need, workers)
            held = report.held + given.amount
            connection.execute(_LEND, (name, who, max(told, report.spent), held, now_ns + LIFE_NS))
            connection.execute("DELETE FROM holders WHERE name = ? AND until_ns < ?", (name, now_ns - KNOWN_NS))
            connection.execute(
                "DELETE FROM holders WHERE name IN (SELECT name FROM accounts WHERE ends_ns < ?)", (now_ns - KEPT_NS,)
            )
            connection.execute("DELETE FROM accounts WHERE ends_ns < ?", (now_ns - KEPT_NS,))
        return given

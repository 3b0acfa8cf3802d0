"""A SQLite file that all workers of a machine share for what they count together. Used by one thread at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Generator, Sequence
from pathlib import Path

from servery.quota.sharing import Seen


class SharedFile:
    """The file, opened as it is first used, and made where it is missing. `what` is it for those who read an error."""

    def __init__(self, path: Path, schema: Sequence[str], *, what: str, busy_ms: int, synchronous: str) -> None:
        self._path = path
        self._statements = ("PRAGMA journal_mode = WAL", f"PRAGMA synchronous = {synchronous}", *schema)
        self._what = what
        self._busy_s = busy_ms / 1000
        self._connection: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def change(self) -> Generator[sqlite3.Connection]:
        """A transaction that nobody else's runs beside. OSError when the file can't be used; the next one opens it again."""
        try:
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self.close()
            raise OSError(f"{self._what} can't be used: {error}") from None

    def look(self) -> Seen:
        """As of Store: whether it can be written."""
        with self.change():
            return Seen()

    def close(self) -> None:
        """Let the file go; calling it again is fine."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=self._busy_s, isolation_level=None, check_same_thread=False
            )
            try:
                with _alone(self._path.parent):
                    for statement in self._statements:
                        connection.execute(statement)
            except (sqlite3.Error, OSError):
                connection.close()
                raise
            self._connection = connection
        return self._connection


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """While nobody else makes a file of this folder: SQLite fails at once, whatever its time limit, where two begin WAL together. OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""The files of a spool: one folder per run of a worker, and in it segments, each a small SQLite file.

`<run>/<number>.open` is being written; `<number>.seg` is closed, synced and never changes again. A worker locks its
run's `lock` for life: where that lock is free the run is dead, and its open segments count as closed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

DAMAGED = "damaged"
LOCK = "lock"
RESERVE = "reserve"
IN_FLIGHT = "inflight"
PAGE_BYTES = 4096
_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB}
_COMPANIONS = ("", "-wal", "-shm", "-journal")


class Segment:
    """An open segment. One thread at a time uses it. Errors are sqlite3.Error and OSError."""

    def __init__(self, path: Path, power: bool, limit_bytes: int) -> None:
        self.path = path
        self.written = 0
        self._power = power
        self._synced = False
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            self._prepare(limit_bytes)
        except BaseException:
            self._connection.close()
            remove(path)
            raise

    def _prepare(self, limit_bytes: int) -> None:
        # Only closing syncs in the mode `process`: a sync here or at a checkpoint would stop the writer for long.
        run = self._connection.execute
        run(f"PRAGMA synchronous={'FULL' if self._power else 'OFF'}")
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA wal_autocheckpoint=0")
        run(f"PRAGMA max_page_count={max(4, limit_bytes // PAGE_BYTES)}")
        run("CREATE TABLE groups (number INTEGER PRIMARY KEY, count INTEGER, checksum INTEGER, lines BLOB)")
        if self._power:
            sync_folder(self.path.parent)
        else:
            run("PRAGMA synchronous=NORMAL")

    def insert(self, count: int, lines: bytes) -> None:
        """Write and commit one group of lines."""
        row = (count, zlib.crc32(lines), lines)
        self._connection.execute("INSERT INTO groups (count, checksum, lines) VALUES (?, ?, ?)", row)
        self.written += len(lines) + 256

    def close(self) -> None:
        """Sync the segment into one file and name it closed; an empty one is removed. What fails may be tried again."""
        if not self.written:
            self._connection.close()
            remove(self.path)
            return
        if not self._synced:
            busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise sqlite3.OperationalError(f"{self.path} is being read by another program")
            self._connection.close()
            self._synced = True
        if self.path.exists():
            self.path.rename(self.path.with_suffix(".seg"))
        sync_folder(self.path.parent)

    def abandon(self) -> None:
        """Close the connection only; what was written stays, to be read when the run is dead."""
        self._connection.close()


class Found(msgspec.Struct, frozen=True):
    """A segment on disk."""

    run: str
    number: int
    path: Path

    @property
    def closed(self) -> bool:
        return self.path.suffix == ".seg"


def runs(spool: Path) -> list[Path]:
    """The folders of all runs, the oldest first; none where there is no spool."""
    try:
        names = sorted(spool.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in names if path.name != DAMAGED and not path.name.startswith(".")]


def find(folder: Path) -> list[Found]:
    """The segments of one run's folder, oldest first."""
    found = [
        Found(folder.name, int(path.stem), path)
        for path in folder.iterdir()
        if path.suffix in {".seg", ".open"} and path.stem.isdigit()
    ]
    return sorted(found, key=lambda segment: segment.number)


def read_groups(path: Path, after: int) -> Iterator[tuple[int, bytes | None]]:
    """(number, lines) of a segment's groups whose number is above `after`; None for lines that are not as written.

    sqlite3.Error when the file can't be read.
    """
    with closing(_connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'groups'").fetchone():
            return  # its worker died before it wrote anything
        rows = connection.execute(
            "SELECT number, checksum, lines FROM groups WHERE number > ? ORDER BY number", (after,)
        )
        for number, checksum, lines in rows:
            yield number, _whole(checksum, lines)


def groups(path: Path, after: int) -> Iterator[tuple[int, bytes | None]]:
    """(number, lines) of a segment's groups whose number is above `after`; None instead of lines that can't be read.

    sqlite3.Error where that isn't the file's own fault.
    """
    number = after
    try:
        for number, content in read_groups(path, after):
            yield number, content
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in _DAMAGE:
            raise
        yield number, None
        for later in range(number + 1, last_group(path) + 1):
            yield later, read_group(path, later)


def last_group(path: Path) -> int:
    """The highest number of a group in a damaged segment; 0 when not even that can be read."""
    try:
        with closing(_connect(path)) as connection:
            return connection.execute("SELECT max(number) FROM groups").fetchone()[0] or 0
    except sqlite3.DatabaseError:
        return 0


def read_group(path: Path, number: int) -> bytes | None:
    """One group of a damaged segment, or None."""
    try:
        with closing(_connect(path)) as connection:
            row = connection.execute("SELECT checksum, lines FROM groups WHERE number = ?", (number,)).fetchone()
    except sqlite3.DatabaseError:
        return None
    return _whole(*row) if row else None


def _whole(checksum: object, lines: object) -> bytes | None:
    return lines if isinstance(lines, bytes) and zlib.crc32(lines) == checksum else None


def _connect(path: Path) -> sqlite3.Connection:
    # A closed segment never changes, so it needs no locks; an open one of a dead run is first recovered from its log.
    mode = "mode=ro&immutable=1" if path.suffix == ".seg" else "mode=rw"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, timeout=1)


def remove(path: Path) -> None:
    """Remove a segment with the files that SQLite keeps beside it."""
    for suffix in _COMPANIONS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def set_aside(path: Path, spool: Path) -> Path:
    """Move a segment that can't be read to `damaged`, with the files beside it; where it is now."""
    folder = spool / DAMAGED
    folder.mkdir(mode=0o700, exist_ok=True)
    for suffix in _COMPANIONS:
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(folder / f"{path.parent.name}-{beside.name}")
    return folder / f"{path.parent.name}-{path.name}"


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive the machine's death."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def take_run(spool: Path, run: str) -> int:
    """Make the folder of a new run and lock it; the lock, to be closed when the run ends.

    The folder gets its name once it is locked: a shipper that looks in between never takes it for a dead one.
    """
    young = spool / f".{run}"
    young.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(young / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        young.rename(spool / run)
        sync_folder(spool)
    except BaseException:
        os.close(lock)
        raise
    return lock


def remove_stillborn(spool: Path, now_ns: int) -> None:
    """Remove what a worker leaves that dies while it makes its run's folder."""
    for young in spool.glob(".*"):
        if now_ns - young.stat().st_mtime_ns > 60 * 10**9 and is_dead(young):
            shutil.rmtree(young)


def is_dead(folder: Path) -> bool:
    """Whether the worker of this run's folder is gone."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def used_bytes(spool: Path) -> int:
    """Bytes of all runs' segments; neither what is of a fixed size nor what was set aside."""
    total = 0
    with os.scandir(spool) as found:
        folders = list(found)
    for folder in folders:
        if folder.name == DAMAGED or not folder.is_dir(follow_symlinks=False):
            continue
        try:
            with os.scandir(folder) as files:
                for file in files:
                    if file.name not in {LOCK, RESERVE, IN_FLIGHT}:
                        total += _size(file)
        except FileNotFoundError:
            continue  # a run that the shipper has just removed
    return total


def seen_ns(folder: Path) -> int:
    """When the worker of this run's folder was last seen to write (ns since 1970): about once a second, if it lives."""
    written = (file.stat().st_mtime_ns for file in folder.iterdir() if file.name not in {LOCK, IN_FLIGHT})
    return max(written, default=0)


def _size(file: os.DirEntry[str]) -> int:
    try:
        return file.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0  # shipped meanwhile

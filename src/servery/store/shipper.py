"""Carries lines from the spool to the ledger: at least once, and once because every line has an id."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from servery.host.clock import Clock
from servery.store import inflight, reserve, segments
from servery.store.calm import Calm
from servery.store.database import inode_of
from servery.store.ledger import Cursor, Ledger, WrongLedger
from servery.terms.record import AnyLine
from servery.terms.server import Records

log = logging.getLogger("servery.shipper")

BATCH_LINES = 5_000
CALM_LINES = 500  # as many at once where callers are not to notice
BEHIND_NS = 3_000_000_000  # lines that wait so long are shipped with no more regard
PAUSE_S = 0.25
PAUSE_MOST_S = 30.0
RETAIN_NS = 3_600 * 10**9

Trouble = (OSError, sqlite3.Error, SQLAlchemyError, WrongLedger)


class Shipper:
    """One per machine, used by one thread. `folder` is the spool of all runs; `beside` is done after each turn, and at the end."""

    def __init__(
        self,
        folder: Path,
        ledger: Path,
        settings: Records,
        clock: Clock,
        beside: Callable[[], object] = lambda: None,
    ) -> None:
        self._folder = folder
        self._path = ledger
        self._settings = settings
        self._clock = clock
        self._ledger: Ledger | None = None
        self._inode = 0
        self._decoder = msgspec.msgpack.Decoder(list[AnyLine])
        self._retained_ns: int | None = None
        self._stuck: set[str] = set()  # runs whose files can't be read now
        self._at_once = BATCH_LINES
        self._hurried = threading.Event()  # what is under way ends after the lines that it writes now
        self._beside = beside

    def ship(self) -> int:
        """Ship what is closed now; the number of lines. Raises one of `Trouble` when the ledger can't be written."""
        shipped = 0
        for folder in segments.runs(self._folder):
            if self._hurried.is_set():
                return shipped
            try:
                shipped += self._ship_run(folder)
            except (OSError, sqlite3.Error) as error:
                if folder.name not in self._stuck:
                    self._stuck.add(folder.name)
                    log.error("the Records in %s can't be read now; they are tried again: %s", folder, error)
            else:
                self._stuck.discard(folder.name)
        self._retain()
        return shipped

    def run(self, stop: threading.Event, limit_s: float = 10.0) -> None:
        """Ship every quarter of a second until `stop`, and then what is left, for at most `limit_s`.

        In a thread that runs only when the processor has nothing else to do; but where that isn't enough, in one with a
        small share of it. What has to be done in time, at the beginning and at the end, is done in this one.
        """
        failed, calm = 0, Calm(self._clock, BEHIND_NS)
        while not stop.wait(min(PAUSE_S * 2**failed, PAUSE_MOST_S)):
            well = self._turn(calm, stop, failed)
            failed = 0 if well else min(failed + 1, 16)
            calm.nicely(self._beside, stop, bool)
        calm.close()
        self._at_once = BATCH_LINES
        until = self._clock.steady_ns() + int(limit_s * 1e9)
        while self._clock.steady_ns() < until and self._try(failed) and self._more():
            pass
        self.close()
        self._beside()

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        self._ledger = None

    def _turn(self, calm: Calm, stop: threading.Event, failed: int) -> bool:
        if self._ledger is None:  # to open one takes more than the idle time of a busy machine
            return self._try(failed)
        behind = self._behind()
        self._at_once = BATCH_LINES if behind else CALM_LINES
        do = calm.nicely if behind else calm.idly
        try:
            return do(lambda: self._try(failed), stop, self._hurried.set)
        finally:
            self._hurried.clear()

    def _try(self, failed: int) -> bool:
        try:
            self.ship()
        except Trouble as error:
            if not failed:
                log.error("Records wait in the spool: %s (ledger %s)", str(error).splitlines()[0], self._path)
            self.close()
            return False
        if failed:
            log.warning("Records reach the ledger %s again", self._path)
        return True

    def _behind(self) -> bool:
        """Whether lines wait that could have been shipped long ago."""
        oldest_ns = self._clock.wall_ns() - BEHIND_NS
        for folder in segments.runs(self._folder):
            for found in segments.find(folder)[:1] if folder.name not in self._stuck else ():
                with contextlib.suppress(FileNotFoundError):
                    if found.closed and found.path.stat().st_mtime_ns < oldest_ns:
                        return True
        return False

    def _more(self) -> bool:
        """Whether anything can be shipped at once."""
        for folder in segments.runs(self._folder):
            if folder.name not in self._stuck:
                first = segments.find(folder)[:1]
                if segments.is_dead(folder) or any(found.closed for found in first):
                    return True
        return False

    def _ship_run(self, folder: Path) -> int:
        dead = segments.is_dead(folder)  # asked first: once it is dead, nothing is added
        seen_ns = segments.seen_ns(folder) if dead else 0  # before its files are removed
        shipped = 0
        for segment in segments.find(folder):
            if self._hurried.is_set() or (not segment.closed and not dead):
                return shipped
            shipped += self._ship_segment(segment)
        if dead:
            shipped += self._end_run(folder, seen_ns)
        return shipped

    def _ship_segment(self, segment: segments.Found) -> int:
        ledger = self._opened()
        cursor = ledger.cursor(segment.run)
        if cursor.segment > segment.number:  # shipped before, but not yet removed
            segments.remove(segment.path)
            return 0
        after = cursor.group if cursor.segment == segment.number else 0
        shipped, damaged = 0, False
        batch: list[AnyLine] = []
        for number, content in segments.groups(segment.path, after):
            lines = self._decode(content)
            damaged = damaged or lines is None
            batch.extend(lines or ())
            if len(batch) >= self._at_once:
                damaged = not self._write(ledger, batch, segment.run, Cursor(segment.number, number)) or damaged
                shipped += len(batch)
                batch = []
                if self._hurried.is_set() and not damaged:  # the cursor says where to go on
                    return shipped
        if damaged:
            place = segments.set_aside(segment.path, self._folder)
            log.error(
                "%s is damaged; what could be read of it was shipped, the file is kept as %s", segment.path, place
            )
        if self._write(ledger, batch, segment.run, Cursor(segment.number + 1)) and not damaged:
            segments.remove(segment.path)
        elif not damaged:
            self._set_aside(segment.path)
        return shipped + len(batch)

    def _write(self, ledger: Ledger, lines: list[AnyLine], run: str, cursor: Cursor) -> bool:
        """Store `lines`; False when some of them don't fit into the ledger, which must not stop all others for good."""
        now = self._clock.wall_ns()
        try:
            ledger.write(lines, run, cursor, now)
        except OverflowError:  # a number above 64 bits
            for line in lines:
                with contextlib.suppress(OverflowError):
                    ledger.write([line], run, ledger.cursor(run), now)
            ledger.write([], run, cursor, now)
            return False
        return True

    def _set_aside(self, path: Path) -> None:
        place = segments.set_aside(path, self._folder)
        log.error("%s is damaged; what could be read of it was shipped, the file is kept as %s", path, place)

    def _decode(self, content: bytes | None) -> list[AnyLine] | None:
        if content is None:
            return None
        try:
            return self._decoder.decode(content)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # of another version of Servery, or torn
            return None

    def _end_run(self, folder: Path, seen_ns: int) -> int:
        """Ship what a dead run folded for want of room, close what it had under way, and remove the run.

        Its segments are shipped by now. The same Summary may have come in a segment, and then more complete, and so may
        the Record of a Request whose slot it still had: the ledger keeps the first that comes.
        """
        ledger = self._opened()
        path = folder / segments.RESERVE
        content = reserve.read(path)
        lines = self._decode(content) if content else []
        if lines is None:
            place = segments.set_aside(path, self._folder)
            log.error("%s can't be read; it is kept as %s", path, place)
        elif lines:
            ledger.write(lines, folder.name, ledger.cursor(folder.name), self._clock.wall_ns())
        lost = self._close_lost(folder, seen_ns)
        for file in folder.iterdir():
            if file.suffix not in {".open", ".seg"}:
                file.unlink()
        folder.rmdir()
        ledger.forget_run(folder.name)
        return len(lines or ()) + lost

    def _close_lost(self, folder: Path, seen_ns: int) -> int:
        """Write a Record for each Request that was under way when its worker died and left none."""
        try:
            records = inflight.lost(folder / segments.IN_FLIGHT, seen_ns)
        except FileNotFoundError:
            return 0
        if records:
            ledger = self._opened()
            ledger.write(records, folder.name, ledger.cursor(folder.name), self._clock.wall_ns())
            log.warning("a worker died with %d requests under way (run %s)", len(records), folder.name)
        return len(records)

    def _opened(self) -> Ledger:
        if self._ledger is not None and self._inode != inode_of(self._path):
            log.warning("the ledger %s was replaced; opening the new one", self._path)
            self.close()
        if self._ledger is None:
            self._ledger = Ledger(self._path, create=True)
            self._inode = inode_of(self._path)
        return self._ledger

    def _retain(self) -> None:
        now = self._clock.steady_ns()
        if self._ledger is None or (self._retained_ns is not None and now - self._retained_ns < RETAIN_NS):
            return
        self._retained_ns = now
        segments.remove_stillborn(self._folder, self._clock.wall_ns())
        removed = self._ledger.retain(self._clock.wall_ns(), self._settings.keep_days)
        if removed:
            log.info("%d Records older than %d days were removed", removed, self._settings.keep_days)

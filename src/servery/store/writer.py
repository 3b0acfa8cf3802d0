"""The thread side of a spool: groups of lines become rows of the open segment, or are folded when there is no room."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from servery.host.clock import Clock
from servery.store import segments
from servery.store.fold import Fold
from servery.store.inflight import InFlight
from servery.store.reserve import Reserve
from servery.terms.record import AnyLine, Feedback, Late, Record, Sketched, Summary, Uptime
from servery.terms.server import Records

log = logging.getLogger("servery.spool")

SEGMENT_NS = 500_000_000
SEGMENT_BYTES = 8 * 2**20
RETRY_NS = 1_000_000_000
KEPT_FEEDBACK = 1_000
_SEGMENT_LEAST = 64 * 1024  # what a new segment needs beside its lines
_LOG_TOO = 2  # until it is closed, a segment's lines lie in its log and then in its file too
_ROOM_AGAIN = 0.9  # of the limit, so that a spool at its limit does not change its mind at every group
_SCAN_SHARE = 20  # looking at the folder may take a twentieth of the closer's time


class SpoolFull(OSError):
    """The spool holds as much as records.spool_mb allows."""


class Writer:
    """Owned by one thread, which calls `write` and `close`; another one, inside, syncs and closes segments.

    `room` and `waiting` may be read from anywhere: whether lines are stored, and whether `write` should be called
    again soon although there is nothing new.
    """

    def __init__(self, spool: Path, run: str, settings: Records, clock: Clock, slots: InFlight) -> None:
        self.room = True
        self.waiting = False
        self._spool, self._run, self._clock = spool, run, clock
        self._power = settings.durability == "power"
        self._limit = settings.spool_mb * 2**20
        self._encoder = msgspec.msgpack.Encoder()
        self._lock: int | None = None
        self._reserve: Reserve | None = None
        self._slots: InFlight | None = slots  # until it is open
        self._segment: segments.Segment | None = None
        self._opened_ns = 0
        self._number = 0
        self._fold = Fold(run)
        self._unwritable = Fold(f"{run}/unwritable")
        self._feedback: list[Feedback] = []
        self._uptimes: dict[tuple[str, str, str, int], Uptime] = {}
        self._retry_ns = 0
        self._closer = Closer(spool, self._limit, clock)

    def start(self) -> None:
        """Take the run's folder. A full disk is no reason not to serve: then it is tried again later."""
        try:
            self._take()
        except OSError as error:
            self._shut(error)

    def write(self, lines: Sequence[AnyLine]) -> None:
        """Store `lines`, or fold them. Every error of disk or database ends here: it is logged, and counts are kept."""
        try:
            if self.room or self._clock.steady_ns() >= self._retry_ns:
                self._store(lines)
            else:
                self._keep(lines)
        except (OSError, sqlite3.Error) as error:
            self._shut(error)
            self._keep(lines)
        self.waiting = self._segment is not None or not self.room

    def note(self, uptimes: Sequence[Uptime]) -> None:
        """Have `uptimes` in the reserve, where they count if this process is killed; cheaper than storing them."""
        if self.room and self._reserve is not None:  # without room, what is kept there holds them already
            self._write_reserve(self._reserve, self._encode(uptimes))

    def close(self) -> None:
        """Close the last segment and let the run go; what could not be stored is in the reserve."""
        if self._segment is not None:
            self._hand_over(self._segment)
        self._closer.stop()
        if self._reserve is not None:
            self._reserve.close()
        if self._lock is not None:
            os.close(self._lock)
        self._segment = self._reserve = self._lock = None

    def _take(self) -> None:
        if self._lock is None:
            self._lock = segments.take_run(self._spool, self._run)
        if self._reserve is None:
            self._reserve = Reserve(self._spool / self._run / segments.RESERVE, self._power)
        if self._slots is not None:
            self._slots.open(self._spool / self._run / segments.IN_FLIGHT)
            self._slots = None

    def _store(self, lines: Sequence[AnyLine]) -> None:
        limit = self._limit if self.room else _ROOM_AGAIN * self._limit
        if self._closer.used > limit:
            raise self._said_full()
        if not self.room:
            self._take()
        if kept := self._kept():
            lines = [*kept, *lines]
        if lines:
            content = self._encode(lines)
            self._insert(len(lines), content)
        if kept:
            self._clear_kept()
        if not self.room:
            self.room = True
            log.warning("there is room for Records again")
        self._close_when_due()

    def _encode(self, lines: Sequence[AnyLine]) -> bytes:
        try:
            return self._encoder.encode(lines)
        except Exception:
            # One line that can't be written must not take its group along.
            log.exception("a line could not be encoded; it is kept as counts and money")
        good: list[bytes] = []
        for line in lines:
            try:
                good.append(self._encoder.encode(line))
            except Exception:
                if isinstance(line, Record):
                    self._unwritable.add(line)
        return self._encoder.encode([*(msgspec.Raw(line) for line in good), *self._take_unwritable()])

    def _take_unwritable(self) -> list[Summary]:
        summaries = self._unwritable.lines()
        self._unwritable.clear()
        return summaries

    def _insert(self, count: int, lines: bytes) -> None:
        if self._segment is not None:
            try:
                self._segment.insert(count, lines)
            except sqlite3.Error:
                # This file may be at a limit of its own (or broken): another one gets a chance before we say full.
                self._hand_over(self._segment)
            else:
                self._closer.used += _LOG_TOO * len(lines)
                return
        self._number += 1
        path = self._spool / self._run / f"{self._number:08}.open"
        left = self._limit - self._closer.used
        if left < _LOG_TOO * (len(lines) + _SEGMENT_LEAST):
            raise self._said_full()
        self._segment = segments.Segment(path, self._power, left // _LOG_TOO)
        self._opened_ns = self._clock.steady_ns()
        self._segment.insert(count, lines)
        self._closer.used += _LOG_TOO * len(lines)

    def _said_full(self) -> SpoolFull:
        self._closer.look()  # nothing else would notice that the shipper has made room
        return SpoolFull(f"the spool holds {self._limit >> 20} MiB, as much as records.spool_mb allows")

    def _close_when_due(self) -> None:
        segment = self._segment
        if segment is not None and (
            segment.written > SEGMENT_BYTES or self._clock.steady_ns() - self._opened_ns > SEGMENT_NS
        ):
            self._hand_over(segment)

    def _hand_over(self, segment: segments.Segment) -> None:
        self._segment = None
        self._closer.close(segment)

    def _shut(self, error: Exception) -> None:
        if self._segment is not None:
            self._hand_over(self._segment)
        self._retry_ns = self._clock.steady_ns() + RETRY_NS
        if self.room:
            self.room = False
            log.error("no room for Records: %s; counts and money are kept, and detail again once there is room", error)

    def _clear_kept(self) -> None:
        # The reserve is cleared after the commit: what dies in between, or can't be cleared, is stored twice under one
        # id and counts once. Nothing may be raised from here: these lines are in the file.
        self._fold.clear()
        self._feedback.clear()
        self._uptimes.clear()
        if self._reserve is not None:
            self._write_reserve(self._reserve, b"")

    def _write_reserve(self, reserve: Reserve, content: bytes) -> None:
        try:
            reserve.write(content)
        except OSError as error:
            log.debug("the spool's reserve could not be written: %s", error)

    def _keep(self, lines: Sequence[AnyLine]) -> None:
        for line in lines:
            self._keep_counts(line)
        if self._reserve is None:
            return
        # What doesn't fit stays in memory only: first Feedback, then uptimes, which the next ones include.
        for kept in (self._kept(), [*self._fold.lines(), *self._uptimes.values()], self._fold.lines()):
            content = self._encode(kept)
            if len(content) <= Reserve.capacity:
                break
        else:
            return
        self._write_reserve(self._reserve, content)

    def _keep_counts(self, line: AnyLine) -> None:
        if isinstance(line, Record):
            self._fold.add(line)
        elif isinstance(line, Late):
            self._fold.add_late(line)
        elif isinstance(line, Summary):
            self._fold.merge(line)
        elif isinstance(line, Uptime):
            self._uptimes[line.run, line.model, line.version, line.since_ns] = (
                line  # `until` only grows: the last one says all
            )
        elif not isinstance(line, Sketched) and len(self._feedback) < KEPT_FEEDBACK:
            self._feedback.append(line)

    def _kept(self) -> list[AnyLine]:
        return [*self._fold.lines(), *self._uptimes.values(), *self._feedback]


class Closer:
    """Syncs and closes segments in their order, off the writer's thread, and knows how much the spool holds.

    A segment that can't be closed (a full disk) is tried again with the next one; at the end it stays as it is, to be
    read once the run is dead.
    """

    def __init__(self, spool: Path, limit: int, clock: Clock) -> None:
        self.used = 0  # bytes; corrected at every look, counted up by the writer in between
        self._spool, self._limit, self._clock = spool, limit, clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool-closer")
        self._waiting: list[segments.Segment] = []
        self._changing = threading.Lock()
        self._look_ns = 0

    def close(self, segment: segments.Segment) -> None:
        with self._changing:
            self._waiting.append(segment)
        self._thread.submit(self._work)

    def look(self) -> None:
        self._thread.submit(self._work)

    def stop(self) -> None:
        self._thread.shutdown(wait=True)
        for segment in self._waiting:
            with contextlib.suppress(sqlite3.Error):
                segment.abandon()
        self._waiting.clear()

    def _work(self) -> None:
        try:
            while self._waiting:
                self._waiting[0].close()
                with self._changing:
                    self._waiting.pop(0)
        except (OSError, sqlite3.Error) as error:
            log.debug("a segment of the spool could not be closed yet: %s", error)
        except Exception:
            log.exception("a segment of the spool could not be closed, by an error of ours")
        began = self._clock.steady_ns()
        if began < self._look_ns:
            return
        with contextlib.suppress(OSError):
            self.used = segments.used_bytes(self._spool)
        took = self._clock.steady_ns() - began
        self._look_ns = began + took * _SCAN_SHARE

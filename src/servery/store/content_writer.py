"""The thread side of a worker's Content: what was said is encrypted, and only then written. What finds no room is dropped, and counted."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from servery.host.clock import Clock
from servery.store import segments
from servery.store.sealing import BadKeys, Sealer
from servery.terms.content import ContentLine, Dropped, Kept

log = logging.getLogger("servery.content")

SEGMENT_NS = 1_000_000_000
SEGMENT_BYTES = 8 * 2**20
RETRY_NS = 1_000_000_000
_SEGMENT_LEAST = 64 * 1024  # what a new segment needs beside its lines
_LOG_TOO = 2  # until it is closed, a segment's lines lie in its log and then in its file too

QUEUE, DISK, KEY, FAULT = "its queue was full", "there was no room on disk", "there was no key", "an error of ours"


class Full(OSError):
    """The spool of Content holds as much as records.content_mb allows."""


class ContentWriter:
    """Owned by one thread. `folder` is the spool of Content, `run` a name that no other worker ever had.

    `sealer` is called when it is first needed; it may raise OSError and BadKeys, and is tried again then. `open` may be read from
    anywhere: whether `write` should be called again soon although there is nothing new.
    """

    def __init__(self, folder: Path, run: str, limit_mb: int, sealer: Callable[[], Sealer], clock: Clock) -> None:
        self.open = False
        self._folder, self._run, self._limit, self._clock = folder, run, limit_mb * 2**20, clock
        self._make_sealer = sealer
        self._sealer: Sealer | None = None
        self._encode = msgspec.msgpack.Encoder().encode
        self._lock: int | None = None
        self._segment: segments.Segment | None = None
        self._opened_ns = self._retry_ns = 0
        self._number = 0
        self._dropped: Counter[tuple[str, str]] = Counter()  # by tenant and why
        self._told: dict[tuple[str, str], int] = {}  # what of it is written
        self._failing = ""

    def prepare(self) -> None:
        """Get the keys before the first request waits for it. Where they can't be had, the log says why."""
        try:
            self._sealer = self._sealer or self._make_sealer()
        except (OSError, BadKeys) as error:
            self._fail(f"Content can't be encrypted, and is dropped: {error}")

    def write(self, group: Sequence[Kept], dropped: Mapping[str, int]) -> None:
        """Encrypt and store a group, or drop it. `dropped`: how often there was no place in the queue, by tenant."""
        for tenant, count in dropped.items():
            self._dropped[tenant, QUEUE] += count
        lines = self._sealed(group)
        lines += [
            Dropped(self._run, tenant, why, count, self._clock.wall_ns())
            for (tenant, why), count in self._dropped.items()
            if count != self._told.get((tenant, why))
        ]
        if lines and self._clock.steady_ns() >= self._retry_ns:
            try:
                self._insert(lines)
                self._told = dict(self._dropped)
                lines = []
            except (OSError, sqlite3.Error) as error:
                self._retry_ns = self._clock.steady_ns() + RETRY_NS
                self._hand_over()
                self._fail(f"no room for Content, which is dropped; Records are not touched: {error}")
        for line in lines:
            if not isinstance(line, Dropped):
                self._dropped[line.tenant, DISK] += 1
        segment = self._segment
        if segment is not None:
            age_ns = self._clock.steady_ns() - self._opened_ns
            if segment.written > SEGMENT_BYTES or age_ns > SEGMENT_NS:
                self._hand_over()
        self.open = self._segment is not None

    def close(self) -> None:
        """Close the last segment and let the run go."""
        self._hand_over()
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def _sealed(self, group: Sequence[Kept]) -> list[ContentLine]:
        if group and self._sealer is None:
            self.prepare()
        lines: list[ContentLine] = []
        for kept in group:
            if self._sealer is None:
                self._dropped[kept.tenant, KEY] += 1
                continue
            try:
                lines.append(self._sealer.seal(kept))
            except Exception as error:
                # Neither the message nor the traceback: they might hold what was said.
                log.error(
                    "record %s: Content is lost by an error of ours: %s", kept.record_id.hex(), type(error).__name__
                )
                self._dropped[kept.tenant, FAULT] += 1
        return lines

    def _insert(self, lines: Sequence[ContentLine]) -> None:
        content = self._encode(lines)
        if not self._fits(len(lines), content):
            self._segment = self._opened(len(content))
            self._segment.insert(len(lines), content)
        if self._failing and any(not isinstance(line, Dropped) for line in lines):
            log.warning("Content is kept again; dropped by this worker so far: %d", self._dropped.total())
            self._failing = ""

    def _fits(self, count: int, content: bytes) -> bool:
        """Whether it is written to the segment that is open. One at its limit makes room for another."""
        if self._segment is None:
            return False
        try:
            self._segment.insert(count, content)
        except sqlite3.Error:
            self._hand_over()
            return False
        return True

    def _opened(self, size: int) -> segments.Segment:
        if self._lock is None:
            self._lock = segments.take_run(self._folder, self._run)
        left = self._limit - segments.used_bytes(self._folder)
        if left < _LOG_TOO * (size + _SEGMENT_LEAST):
            raise Full(f"it takes {self._limit >> 20} MiB, as much as records.content_mb allows")
        self._number += 1
        self._opened_ns = self._clock.steady_ns()
        path = self._folder / self._run / f"{self._number:08}.open"
        return segments.Segment(path, power=False, limit_bytes=left // _LOG_TOO)

    def _hand_over(self) -> None:
        """Have what is written carried on. What can't be closed is read when this run has ended."""
        segment, self._segment = self._segment, None
        if segment is None:
            return
        try:
            segment.close()
        except (OSError, sqlite3.Error) as error:
            log.debug("a segment of Content could not be closed: %s", error)
            segment.abandon()

    def _fail(self, message: str) -> None:
        if not self._failing:
            log.error("%s", message)
        self._failing = message

"""Carries Content from the workers' spools to its database, encrypted as it is, and erases there what has expired."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from servery.host.clock import Clock
from servery.store import segments
from servery.store.contents import Contents, WrongContents
from servery.store.database import inode_of
from servery.terms.content import ContentLine

log = logging.getLogger("servery.content")

PAUSE_NS = 250_000_000
PAUSE_MOST_NS = 30 * 10**9
EXPIRE_NS = 60 * 10**9

Trouble = (OSError, sqlite3.Error, SQLAlchemyError, WrongContents)


class Carrier:
    """One per machine, used by one thread. `folder` is the spool of all runs. It opens the database when there is something for it."""

    def __init__(self, folder: Path, database: Path, clock: Clock) -> None:
        self._folder = folder
        self._path = database
        self._clock = clock
        self._contents: Contents | None = None
        self._inode = 0
        self._decode = msgspec.msgpack.Decoder(list[ContentLine]).decode
        self._expired_ns: int | None = None
        self._failed = self._again_ns = 0

    def carry(self) -> int:
        """Carry what is closed now; the number of new Contents. Raises one of `Trouble` when the database can't be written."""
        new = 0
        for folder in segments.runs(self._folder):
            dead = segments.is_dead(folder)  # asked first: once it is dead, nothing is added
            for found in segments.find(folder):
                if not found.closed and not dead:
                    break
                new += self._carry_segment(found.path)
            if dead:
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
        self._expire()
        return new

    def turn(self) -> None:
        """Carry, where it isn't too soon after the last failure. Nothing is raised: Records don't wait for Content."""
        if self._clock.steady_ns() < self._again_ns:
            return
        try:
            self.carry()
        except Trouble as error:
            self._fail(str(error).splitlines()[0])
        except Exception as error:
            self._fail(f"an error of ours: {type(error).__name__}")
        else:
            if self._failed:
                log.warning("Content reaches its database %s again", self._path)
            self._failed = 0

    def close(self) -> None:
        if self._contents is not None:
            self._contents.close()
        self._contents = None

    def _fail(self, why: str) -> None:
        if not self._failed:
            log.error("Content waits in its spool: %s (%s)", why, self._path)
        self._failed = min(self._failed + 1, 16)
        self._again_ns = self._clock.steady_ns() + min(PAUSE_NS * 2**self._failed, PAUSE_MOST_NS)
        self.close()

    def _carry_segment(self, path: Path) -> int:
        """Bring a segment's lines into the database and remove it. Lines that can't be read are lost: they would escape erasure."""
        contents, new, lost = self._opened(), 0, 0
        for _, content in segments.groups(path, 0):
            try:
                lines = self._decode(content or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError):  # torn, or of another version of Servery
                lost += 1
                continue
            new += contents.write(lines, self._clock.wall_ns())
        if lost:
            log.error("%s is damaged: %d groups of Content are lost", path, lost)
        segments.remove(path)
        return new

    def _opened(self) -> Contents:
        if self._contents is not None and self._inode != inode_of(self._path):
            log.warning("the database of Content %s was replaced; opening the new one", self._path)
            self.close()
        if self._contents is None:
            self._contents = Contents(self._path, create=True)
            self._inode = inode_of(self._path)
        return self._contents

    def _expire(self) -> None:
        now_ns = self._clock.steady_ns()
        if self._expired_ns is not None and now_ns - self._expired_ns < EXPIRE_NS:
            return
        self._expired_ns = now_ns
        if self._folder.exists():
            segments.remove_stillborn(self._folder, self._clock.wall_ns())
        if self._path.exists() and (removed := self._opened().expire(self._clock.wall_ns())):
            log.info("%d Contents have expired and were erased", removed)

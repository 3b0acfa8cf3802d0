"""Whether the ledger holds what wrk saw: one Record for each answer."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import msgspec

from processes import Tree

CATCH_UP_S = 120.0
STILL_S = 0.5
NS_PER_DAY = 86_400 * 10**9


class Settled(msgspec.Struct, frozen=True):
    """The Records of one run, how long the shipper needed after its end, and the CPU seconds of that time."""

    records: int
    requests: int
    in_flight: int
    seconds: float
    cpu_s: float

    @property
    def fault(self) -> str:
        """wrk leaves up to `in_flight` requests unanswered at the cut; these have Records too."""
        if self.requests <= self.records <= self.requests + self.in_flight:
            return ""
        return f"{self.records} Records for {self.requests} answers (and at most {self.in_flight} cut off)"


class Books:
    """The ledger of one Servery, read from outside while it runs."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger

    def ready(self) -> bool:
        """Whether the ledger has its tables."""
        try:
            self.count(time.time_ns())
        except sqlite3.OperationalError:  # no file yet, or no table in it
            return False
        return True

    def count(self, since_ns: int) -> int:
        """Records in the ledger of Requests that began at `since_ns` (since 1970, to the millisecond) or later.

        Records lie in the order of (day, id), and ids begin with their time in ms: only these are read.
        """
        first = (since_ns // NS_PER_DAY, (since_ns // 1_000_000).to_bytes(6, "big"))
        connection = sqlite3.connect(f"file:{self._ledger}?mode=ro", uri=True, timeout=10)
        try:
            return int(
                connection.execute("SELECT count(*) FROM records WHERE (day, id) >= (?, ?)", first).fetchone()[0]
            )
        finally:
            connection.close()

    def settle(self, tree: Tree, since_ns: int, requests: int, in_flight: int) -> Settled:
        """Wait until every answer has its Record and no more arrive."""
        start, cpu_before = time.monotonic(), tree.cpu_s()
        records, at, cpu_s = -1, start, 0.0
        while (now := time.monotonic()) < start + CATCH_UP_S:
            seen = self.count(since_ns)
            if seen != records:
                records, at, cpu_s = seen, now, tree.cpu_s() - cpu_before
            elif records >= requests and now - at >= STILL_S:
                break
            time.sleep(0.1)
        return Settled(records, requests, in_flight, at - start, cpu_s)

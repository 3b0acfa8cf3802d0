"""A worker's spool in a process of its own, to be killed.

Prints "id room" for each Record after it was appended, and "stored COUNT NS" after a group was written: how many
Records, the first ones, are safe by then, and how long its oldest one had waited.

python spooling.py FOLDER RUN SPOOL_MB FSIZE BURST: FSIZE 0 sets no limit; BURST Records are appended a turn.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from concurrent.futures import Future
from pathlib import Path

from lines import attempt, no_uptime, record
from servery.host.clock import Clock
from servery.store.spool import Spool
from servery.terms.record import AnyLine
from servery.terms.server import Records


class Telling(Spool):
    """Says what it has stored, so that what a kill must not lose is known without a clock."""

    appended = 0
    _oldest_ns = 0
    _of_group = (0, 0)

    def append(self, line: AnyLine, slot: int = 0) -> None:
        if not self._oldest_ns:
            self._oldest_ns = time.perf_counter_ns()
        super().append(line, slot)
        self.appended += 1

    def _flush(self) -> None:
        self._of_group, self._oldest_ns = (self.appended, self._oldest_ns), 0
        super()._flush()

    def _written(self, job: Future[None], slots: list[int]) -> None:
        appended, oldest_ns = self._of_group
        os.write(1, f"stored {appended} {time.perf_counter_ns() - oldest_ns}\n".encode())
        super()._written(job, slots)


async def main(folder: Path, run: str, spool_mb: int, fsize: int, burst: int) -> None:
    if fsize:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, fsize))
    spool = Telling(folder, run, Records(spool_mb=spool_mb), Clock(), no_uptime)
    await spool.start()
    while True:
        said: list[str] = []
        for _ in range(burst):
            line = record(attempt())
            spool.append(line)
            said.append(f"{line.id.hex()} {int(spool.room)}\n")
        os.write(1, "".join(said).encode())
        await asyncio.sleep(0.002)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))

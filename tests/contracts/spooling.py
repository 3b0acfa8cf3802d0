"""A worker's spool in a process of its own, to be killed: prints "id time" for each Record after it was appended.

python spooling.py FOLDER RUN SPOOL_MB FSIZE BURST: FSIZE 0 sets no limit; BURST Records are appended a turn.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from pathlib import Path

from lines import attempt, no_uptime, record
from servery.host.clock import Clock
from servery.store.spool import Spool
from servery.terms.server import Records


async def main(folder: Path, run: str, spool_mb: int, fsize: int, burst: int) -> None:
    if fsize:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, fsize))
    spool = Spool(folder, run, Records(spool_mb=spool_mb), Clock(), no_uptime)
    await spool.start()
    while True:
        said: list[str] = []
        for _ in range(burst):
            line = record(attempt())
            spool.append(line)
            said.append(f"{line.id.hex()} {time.perf_counter_ns()} {int(spool.room)}\n")
        os.write(1, "".join(said).encode())
        await asyncio.sleep(0.002)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))

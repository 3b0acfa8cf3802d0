"""What the shipper sustains: Records per second, and microseconds of CPU for each, from closed segments to the ledger.

python benchmarks/shipper.py [RECORDS]
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from servery.host.clock import Clock
from servery.store.shipper import Shipper
from servery.store.spool import Spool
from servery.terms.record import Attempt, Outcome, Record, Role, Uptime
from servery.terms.server import Records

DAY_NS = 86_400 * 10**9
DIGEST = "0123456789abcdef" * 4


def line(number: int) -> Record:
    """A Request of one row, ten in a millisecond; every fifth one is answered by the second tier."""
    now = time.time_ns() // DAY_NS * DAY_NS + number * 100_000
    cheap = Attempt(Role.SERVE, "cheap", "digits-small", DIGEST, 1, 1, 51_000, 708_333)
    attempts: tuple[Attempt, ...] = (cheap,)
    if number % 5 == 0:
        attempts = (cheap, Attempt(Role.SERVE, "mid", "digits-mid", DIGEST, 1, 1, 203_000, 2_819_444))
    record_id = (now // 1_000_000).to_bytes(6, "big") + os.urandom(20)
    return Record(
        record_id, now, "acme", "k1", "digits", Outcome.SERVED, "", 1, 431_000, 708_333, attempts, ("7",), (),
        "b7c1f0", "", "", "local",
    )  # fmt: skip


def no_uptime(_: int) -> list[Uptime]:
    return []


async def spool(folder: Path, first: int, count: int) -> float:
    """Append Records `first` and on as a worker does, 100 a turn; CPU microseconds for each, all threads."""
    store = Spool(folder, "bench", Records(spool_mb=100_000), Clock(), no_uptime)
    await store.start()
    lines = [line(number) for number in range(first, first + count)]
    began = time.process_time()
    for start in range(0, count, 100):
        for one in lines[start : start + 100]:
            store.append(one)
        await asyncio.sleep(0.002)
    await store.drain()
    return (time.process_time() - began) / count * 1e6


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        (folder / "spool").mkdir()
        spooled = asyncio.run(spool(folder / "spool", 0, count))
        shipper = Shipper(folder / "spool", folder / "ledger.db", Records(), Clock())
        shipper.ship()  # makes the ledger when the spool is empty too
        # The first call shipped everything; measure on a second spool, with the ledger open and warm.
        asyncio.run(spool(folder / "spool", count, count))
        cpu, wall = time.process_time(), time.perf_counter()
        shipped = shipper.ship()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        shipper.close()
        size = (folder / "ledger.db").stat().st_size / (2 * count)
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    print(f"spool: {spooled:.1f} µs of CPU a Record")
    print(
        f"shipper: {shipped / wall:,.0f} Records/s, {cpu / shipped * 1e6:.1f} µs of CPU a Record, {size:.0f} bytes each"
    )


if __name__ == "__main__":
    main()

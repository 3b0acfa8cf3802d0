"""The spool: what was appended is shipped once, through kills, full disks and torn writes."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lines import attempt, feedback, kept, no_uptime, record, rows, uptime
from servery.host.clock import Clock
from servery.store import reserve, segments
from servery.store.shipper import Shipper
from servery.store.spool import Spool
from servery.terms.record import Record, Uptime
from servery.terms.server import Records

PROMISE_NS = 50_000_000
TESTS = Path(__file__).parent.parent


class Worker:
    """A spool in another process, and what it says: what it appended (id, room), how many of them it stored, and how
    many ns the oldest Record of each group waited for that.
    """

    def __init__(self, folder: Path, run: str, spool_mb: int = 64, fsize: int = 0, burst: int = 20) -> None:
        script = str(Path(__file__).with_name("spooling.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, str(folder), run, str(spool_mb), str(fsize), str(burst)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        self.said: list[tuple[bytes, bool]] = []
        self.stored = 0
        self.waits_ns: list[int] = []

    def kill_when(self, done: Callable[[], bool]) -> None:
        """Kill -9 once `done` holds."""
        assert self.process.stdout is not None
        while not done():
            self._take(self.process.stdout.readline())
        self.process.kill()
        for line in self.process.stdout:
            self._take(line)
        self.process.stdout.close()
        self.process.wait()

    def _take(self, line: bytes) -> None:
        match line.decode().split() if line.endswith(b"\n") else ():
            case ("stored", count, wait_ns):
                self.stored = int(count)
                self.waits_ns.append(int(wait_ns))
            case (name, room):
                self.said.append((bytes.fromhex(name), room == "1"))
            case _:
                pass  # cut by the kill


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def shipper(tmp_path: Path, folder: Path):
    shipper = Shipper(folder, tmp_path / "ledger.db", Records(), Clock())
    yield shipper
    shipper.close()


async def written(spool: Spool) -> None:
    """Once the group under way is in the file."""
    while spool._scheduled:
        await asyncio.sleep(0.001)


def test_twenty_kills_lose_nothing_that_was_stored_and_double_nothing(
    tmp_path: Path, folder: Path, shipper: Shipper
) -> None:
    promised: set[bytes] = set()
    appended: set[bytes] = set()
    waits_ns: list[int] = []
    for kill in range(20):
        worker = Worker(folder, f"run-{kill}")
        wanted = 200 + 311 * (kill % 7)
        worker.kill_when(lambda worker=worker, wanted=wanted: len(worker.said) >= wanted)
        promised |= {name for name, _ in worker.said[: worker.stored]}
        appended |= {name for name, _ in worker.said}
        waits_ns += worker.waits_ns
        shipper.ship()
    stored = [row[0] for row in rows(tmp_path / "ledger.db", "SELECT id FROM records")]
    assert len(promised) > 2_000
    assert statistics.median(waits_ns) < PROMISE_NS  # each, where the machine is not as busy as under a test suite
    assert promised <= set(stored)
    assert len(stored) == len(set(stored))
    assert rows(tmp_path / "ledger.db", "SELECT count(*) FROM summaries") == [(0,)]
    assert list(folder.iterdir()) == []


def test_a_full_spool_keeps_counts_and_money_and_detail_again_later(
    tmp_path: Path, folder: Path, shipper: Shipper, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> int:
        spool = Spool(folder, "r1", Records(spool_mb=1), Clock(), no_uptime)
        await spool.start()
        appended = 0
        while spool.room:
            for _ in range(200):
                spool.append(record(attempt("cheap", 0), attempt("mid")))
            appended += 200
            await asyncio.sleep(0.005)
        assert not spool.full  # requests go on: their counts are kept
        assert segments.used_bytes(folder) <= 1.1 * 2**20
        for _ in range(1_000):
            spool.append(record(attempt()))
        while not spool.room:
            await asyncio.to_thread(shipper.ship)
            await asyncio.sleep(0.05)
        for _ in range(100):
            spool.append(record(attempt()))
        await spool.drain()
        money.append(700 * (2 * appended + 1_100))
        return appended + 1_100

    money: list[int] = []
    with caplog.at_level(logging.WARNING, "servery.spool"):
        appended = asyncio.run(work())
    shipper.ship()
    assert kept(tmp_path / "ledger.db") == (appended, money[0])
    assert rows(tmp_path / "ledger.db", "SELECT sum(requests) >= 1000 FROM summaries") == [(1,)]
    said = [entry.message for entry in caplog.records if entry.name == "servery.spool"]
    assert len(said) == 2
    assert "records.spool_mb" in said[0]
    assert list(folder.iterdir()) == []


def test_a_full_spool_refuses_where_the_manifest_says_so(folder: Path) -> None:
    async def work() -> None:
        spool = Spool(folder, "r1", Records(spool_mb=1, when_full="refuse"), Clock(), no_uptime)
        await spool.start()
        assert not spool.full
        assert spool.unready == ""
        while not spool.full:
            for _ in range(500):
                spool.append(record(attempt()))
            await asyncio.sleep(0.005)
        assert not spool.room
        assert "full" in spool.unready
        await spool.drain()

    asyncio.run(work())


def test_a_worker_killed_while_its_spool_is_full_leaves_counts_in_the_reserve(
    tmp_path: Path, folder: Path, shipper: Shipper
) -> None:
    worker = Worker(folder, "r1", spool_mb=1, burst=100)
    worker.kill_when(lambda: sum(not room for _, room in worker.said) > 5_000)
    shipper.ship()
    requests, pico = kept(tmp_path / "ledger.db")
    assert 1_000 < worker.stored <= requests <= len(worker.said)
    assert pico == 700 * requests
    assert rows(tmp_path / "ledger.db", "SELECT sum(requests) > 1000 FROM summaries") == [(1,)]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("fsize", [300_000, 20_000])
def test_a_full_disk_loses_no_count(tmp_path: Path, folder: Path, shipper: Shipper, fsize: int) -> None:
    """Files that may not grow: with room for the reserve and small groups, and with room for nothing."""
    worker = Worker(folder, "r1", fsize=fsize, burst=2_000)
    worker.kill_when(lambda: len(worker.said) >= 20_000)
    assert worker.process.returncode == -9  # it was still serving
    shipper.ship()
    if fsize < 2 * reserve.HALF_BYTES:
        return  # nothing can be written at all: it lives on, and what it counts is lost with it
    requests, pico = kept(tmp_path / "ledger.db")
    assert 1_000 < worker.stored <= requests <= len(worker.said)
    assert pico == 700 * requests
    assert rows(tmp_path / "ledger.db", "SELECT sum(requests) > 1000 FROM summaries") == [(1,)]


def test_a_segment_at_its_page_limit_makes_room_for_another(tmp_path: Path) -> None:
    segment = segments.Segment(tmp_path / "00000001.open", power=False, limit_bytes=64 * 1024)
    stored = 0

    def fill() -> None:
        nonlocal stored
        for _ in range(100):
            segment.insert(1, b"x" * 4_000)
            stored += 1

    with pytest.raises(sqlite3.OperationalError, match="full"):
        fill()
    segment.close()
    assert 5 < stored < 20
    assert len(list(segments.read_groups(tmp_path / "00000001.seg", 0))) == stored


@pytest.mark.parametrize("durability", ["process", "power"])
def test_lines_of_all_kinds_come_back_as_they_were(folder: Path, durability: str) -> None:
    line = record(attempt(), predictions=("3",))
    fact, ready = feedback(line, 3.0), uptime("digits-cheap", 1, 2, 3)

    async def work() -> None:
        spool = Spool(folder, "r1", Records(durability=durability), Clock(), lambda _: [ready])  # pyright: ignore
        await spool.start()
        spool.append(line)
        spool.append(fact)
        await spool.drain()
        await spool.drain()

    asyncio.run(work())
    found = segments.find(folder / "r1")
    assert [segment.path.name for segment in found] == ["00000001.seg"]
    decoded = Shipper(folder, folder / "none", Records(), Clock())._decoder
    read = [one for _, content in segments.read_groups(found[0].path, 0) for one in decoded.decode(content or b"")]
    assert read == [line, fact, ready]
    assert segments.is_dead(folder / "r1")


def test_an_idle_spool_writes_nothing(folder: Path) -> None:
    async def work() -> None:
        spool = Spool(folder, "r1", Records(), Clock(), no_uptime)
        await spool.start()
        assert not segments.is_dead(folder / "r1")
        await spool.drain()

    asyncio.run(work())
    assert segments.find(folder / "r1") == []


def test_uptime_is_asked_once_a_second_and_at_the_end(folder: Path) -> None:
    asked: list[int] = []
    now = [10**18]

    def uptimes(at_ns: int) -> list[Uptime]:
        asked.append(at_ns)
        return []

    async def work() -> None:
        spool = Spool(folder, "r1", Records(), Clock(wall_ns=lambda: now[0]), uptimes)
        await spool.start()
        for second in (0.0, 0.5, 1.0, 1.9, 2.0):
            now[0] = 10**18 + int(second * 1e9)
            spool.append(record(attempt()))
            await written(spool)
        await spool.drain()

    asyncio.run(work())
    assert [(at - 10**18) / 1e9 for at in asked] == [0.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("line", "pico_usd"),
    [
        (record(attempt(), predictions=("\ud800",)), 700),
        (record(attempt(pico_usd=10**30)), 10**18),
    ],
)
def test_a_line_that_cannot_be_written_takes_no_other_along(
    tmp_path: Path, folder: Path, shipper: Shipper, line: Record, pico_usd: int
) -> None:
    async def work() -> None:
        spool = Spool(folder, "r1", Records(), Clock(), no_uptime)
        await spool.start()
        spool.append(line)
        spool.append(record(attempt()))
        await spool.drain()

    asyncio.run(work())
    shipper.ship()
    assert kept(tmp_path / "ledger.db") == (2, 700 + pico_usd)
    assert rows(tmp_path / "ledger.db", "SELECT count(*) FROM records") == [(1,)]


def test_a_torn_write_leaves_the_reserve_of_before(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    kept_file = reserve.Reserve(path, sync=False)
    for content in (b"one", b"two", b"three"):
        kept_file.write(content)
    assert reserve.read(path) == b"three"
    size = path.stat().st_size
    with path.open("r+b") as file:  # the third write went to the second half
        file.seek(reserve.HALF_BYTES + 17)
        file.write(b"!")
    assert reserve.read(path) == b"two"
    kept_file.write(b"four")
    kept_file.close()
    assert reserve.read(path) == b"four"
    assert path.stat().st_size == size
    assert reserve.read(tmp_path / "none") == b""

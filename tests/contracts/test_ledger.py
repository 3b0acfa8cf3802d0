"""The ledger and its shipper: each line once, whatever happens to the files between them."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

import servery.store
from lines import DIGEST, MS, attempt, feedback, no_uptime, record, rows, uptime
from servery.host.clock import Clock
from servery.store import joining, schema, segments
from servery.store.ledger import Cursor, Ledger, WrongLedger
from servery.store.shipper import Shipper
from servery.store.spool import Spool
from servery.terms.record import AnyLine, Assigned, Candidate, Choice, Outcome, Record, Summary
from servery.terms.server import Records
from servery.terms.text import Tokens

DAY_NS = 86_400 * 10**9
NOW = 20_000 * DAY_NS + 3_600 * 10**9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    opened = Ledger(path, create=True)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def shipper(folder: Path, path: Path) -> Iterator[Shipper]:
    made = Shipper(folder, path, Records(), Clock())
    yield made
    made.close()


def spool(folder: Path, run: str, *lines: AnyLine) -> None:
    """A worker that appends `lines` and ends."""

    async def work() -> None:
        made = Spool(folder, run, Records(), Clock(), no_uptime)
        await made.start()
        for line in lines:
            made.append(line)
            while made._scheduled:  # a group each
                await asyncio.sleep(0.001)
        await made.drain()

    asyncio.run(work())


def write(ledger: Ledger, *lines: AnyLine, now_ns: int = NOW) -> None:
    ledger.write(lines, "r1", Cursor(), now_ns)


def read(ledger: Ledger, since_ns: int = 0, until_ns: int = 2 * NOW, route: str | None = None) -> list[Record]:
    return [line for chunk in ledger.read(since_ns, until_ns, route) for line in chunk.records]


def values(ledger: Ledger) -> list[tuple[int, object]]:
    return [(fact.row, fact.value) for chunk in ledger.read(0, 2 * NOW) for fact in chunk.feedback]


def test_records_come_back_as_they_were_once_and_in_order(ledger: Ledger) -> None:
    lines = [
        record(
            attempt("cheap", 1, rows=2), attempt("mid", 1), at_ns=NOW + i * MS, rows=2, predictions=("3", None),
            answered_by=(0, 1),
        )
        for i in range(5_000)
    ]  # fmt: skip
    bare = record(at_ns=NOW + 9_000 * MS, route="other", outcome=Outcome.REFUSED)
    write(ledger, bare, *reversed(lines))
    write(ledger, *lines[:10], bare)
    assert read(ledger) == [*lines, bare]
    assert read(ledger, NOW + 10 * MS, NOW + 20 * MS) == lines[10:20]
    assert read(ledger, route="other") == [bare]


def test_all_that_a_record_and_its_attempts_hold_comes_back(ledger: Ledger) -> None:
    choice = Choice(0.5, (Candidate("cheap", "cost", 7, 9), Candidate("mid")), 0.25, (0.1,), True)
    made = msgspec.structs.replace(attempt(), choice=choice, took_ns=7, arm="r1/candidate", tokens=Tokens(1, 2))
    whole = msgspec.structs.replace(record(made, at_ns=NOW), arms=(Assigned("r1", "candidate", 0.1, "ab"),))
    write(ledger, whole)
    assert read(ledger) == [whole]


def test_plain_sql_reads_the_attempts(ledger: Ledger, path: Path) -> None:
    write(ledger, record(attempt("cheap", 0), attempt("mid"), at_ns=NOW))
    found = rows(path, "SELECT tier, a.value ->> 'tier', a.value ->> 'pico_usd' FROM records, json_each(attempts) a")
    assert found == [("mid", "cheap", 700), ("mid", "mid", 700)]


def test_feedback_counts_only_from_the_records_tenant_and_on_its_rows(ledger: Ledger) -> None:
    of = record(attempt(), at_ns=NOW, rows=2)
    write(
        ledger,
        of,
        feedback(of, 1.0, row=1),
        feedback(of, True),
        feedback(of, "x", row=2),
        feedback(of, "y", tenant="eve"),
    )
    assert values(ledger) == [(-1, True), (1, 1.0)]
    assert ledger.count(joining.REJECTED) == 2


def test_all_feedback_is_kept_and_the_last_comes_last(ledger: Ledger) -> None:
    of = record(attempt(), at_ns=NOW)
    late, early = feedback(of, math.inf, at_ns=NOW + 2), feedback(of, 1.0, at_ns=NOW + 1)
    write(ledger, of, late)
    write(ledger, early, late)
    assert values(ledger) == [(-1, 1.0), (-1, "inf")]


def test_feedback_waits_an_hour_for_its_record(ledger: Ledger, path: Path) -> None:
    first, second, never = (record(attempt(), at_ns=NOW) for _ in range(3))
    write(ledger, feedback(first, 1.0), feedback(second, 1.0, tenant="eve"), feedback(never, 1.0))
    assert values(ledger) == []
    write(ledger, first, second, now_ns=NOW + joining.WAIT_NS)
    assert values(ledger) == [(-1, 1.0)]
    assert ledger.count(joining.REJECTED) == 1
    write(ledger, record(attempt(), at_ns=NOW), now_ns=NOW + joining.WAIT_NS + 1)
    assert ledger.count(joining.EXPIRED) == 1
    assert rows(path, "SELECT count(*) FROM feedback_waiting") == [(0,)]


def test_uptime_only_grows(ledger: Ledger) -> None:
    for until in (NOW + 5, NOW + 9, NOW + 7):
        write(ledger, uptime("digits-cheap", NOW, until, 50))
    write(ledger, uptime("digits-cheap", NOW, NOW + 1, 50, run="r2"))
    assert ledger.uptimes(0, 2 * NOW) == [
        uptime("digits-cheap", NOW, NOW + 9, 50),
        uptime("digits-cheap", NOW, NOW + 1, 50, run="r2"),
    ]
    assert ledger.uptimes(NOW + 9, 2 * NOW) == []


def test_a_summary_counts_once(ledger: Ledger) -> None:
    line = Summary(b"1" * 16, NOW, "acme", "digits", "cheap", "m", DIGEST, Outcome.SERVED, 3, 4, 4, 5, 6)
    write(ledger, line)
    write(ledger, line)
    assert ledger.summaries(0, 2 * NOW) == [line]


def test_retention_drops_whole_days(ledger: Ledger, path: Path) -> None:
    old = [record(attempt(), at_ns=NOW - day * DAY_NS) for day in (3, 2, 1, 0)]
    write(
        ledger,
        *old,
        *(feedback(line, 1.0) for line in old),
        uptime("m", 1, NOW - 9 * DAY_NS, 1),
        uptime("m", 2, NOW, 1),
    )
    assert ledger.retain(NOW, keep_days=1) == 2
    assert read(ledger) == [old[2], old[3]]
    assert rows(path, "SELECT (SELECT count(*) FROM feedback), (SELECT count(*) FROM uptime)") == [(2, 1)]
    assert ledger.retain(NOW, keep_days=1) == 0


def test_the_last_migration_is_the_one_that_the_code_expects() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(servery.store.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_a_missing_or_foreign_ledger_is_said_to_be_so(tmp_path: Path, path: Path) -> None:
    with pytest.raises(WrongLedger, match="does not exist"):
        Ledger(path)
    sqlite3.connect(path).close()
    with pytest.raises(WrongLedger, match=r"schema of .* is missing"):
        Ledger(path)


def test_the_shipper_dies_between_commit_and_unlink(tmp_path: Path, folder: Path, path: Path, shipper: Shipper) -> None:
    lines = [record(attempt()) for _ in range(3)]
    spool(folder, "r1", *lines)
    shutil.copytree(folder / "r1", tmp_path / "again")
    lock = segments.take_run(folder, "r2")  # a run that lives on keeps its cursor
    (tmp_path / "again" / "00000001.seg").rename(folder / "r2" / "00000001.seg")
    shutil.copy(folder / "r2" / "00000001.seg", tmp_path / "copy")
    assert shipper.ship() == 6
    shutil.copy(tmp_path / "copy", folder / "r2" / "00000001.seg")
    assert shipper.ship() == 0
    assert not (folder / "r2" / "00000001.seg").exists()
    assert rows(path, "SELECT count(*) FROM records") == [(3,)]
    os.close(lock)
    shipper.ship()
    assert list(folder.iterdir()) == []


def test_a_locked_ledger_leaves_records_in_the_spool(folder: Path, path: Path, shipper: Shipper) -> None:
    spool(folder, "r1", record(attempt()))
    Ledger(path, create=True).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DBAPIError, match="locked"):
        shipper.ship()
    assert len(segments.find(folder / "r1")) == 1
    other.execute("ROLLBACK")
    other.close()
    assert shipper.ship() == 1


def test_a_corrupt_ledger_is_said_once_and_records_wait(
    folder: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"this was a ledger once" * 1_000)
    spool(folder, "r1", record(attempt()))
    shipper, stop = Shipper(folder, path, Records(), Clock()), threading.Event()
    with caplog.at_level(logging.WARNING, "servery.shipper"):
        thread = threading.Thread(target=shipper.run, args=(stop,))
        thread.start()
        wait_until(lambda: len(caplog.records) == 1)
        path.rename(path.with_name("broken.db"))
        wait_until(lambda: len(caplog.records) == 2)
        stop.set()
        thread.join()
    assert "not a database" in caplog.records[0].message
    assert "again" in caplog.records[1].message
    assert rows(path, "SELECT count(*) FROM records") == [(1,)]


def test_of_one_route_only_its_own_feedback_is_read(ledger: Ledger) -> None:
    first, other, last = (record(at_ns=NOW + at * MS, route=route) for at, route in enumerate(("a", "b", "a")))
    write(ledger, first, other, last, *(feedback(one, one.route) for one in (first, other, last)))
    assert [fact.value for chunk in ledger.read(0, 2 * NOW, "a") for fact in chunk.feedback] == ["a", "a"]
    assert [fact.value for chunk in ledger.read(0, 2 * NOW) for fact in chunk.feedback] == ["a", "b", "a"]


def test_what_is_left_is_shipped_at_the_end(folder: Path, path: Path, shipper: Shipper) -> None:
    spool(folder, "r1", record(attempt()))
    stop = threading.Event()
    stop.set()
    shipper.run(stop)
    assert rows(path, "SELECT count(*) FROM records") == [(1,)]


def test_a_line_that_does_not_fit_stops_no_other(folder: Path, path: Path, shipper: Shipper) -> None:
    spool(folder, "r1", record(attempt()), record(attempt(pico_usd=2**63)), record(attempt()))
    shipper.ship()
    assert rows(path, "SELECT count(*) FROM records") == [(2,)]
    assert [file.name for file in (folder / "damaged").iterdir()] == ["r1-00000001.seg"]
    assert shipper.ship() == 0


def test_the_shipper_keeps_to_keep_days_and_clears_up(folder: Path, path: Path) -> None:
    now = [NOW]
    clock = Clock(wall_ns=lambda: now[0], steady_ns=lambda: now[0])
    shipper = Shipper(folder, path, Records(keep_days=2), clock)
    (folder / ".young").mkdir()
    os.utime(folder / ".young", (1, 1))
    spool(folder, "r1", record(attempt(), at_ns=NOW))
    assert shipper.ship() == 1
    assert list(folder.iterdir()) == []
    now[0] += 3 * DAY_NS
    shipper.ship()
    shipper.close()
    assert rows(path, "SELECT count(*) FROM records") == [(0,)]


def test_a_replaced_ledger_is_noticed(folder: Path, path: Path, shipper: Shipper) -> None:
    spool(folder, "r1", record(attempt()))
    shipper.ship()
    for file in path.parent.glob("ledger.db*"):
        file.unlink()
    spool(folder, "r2", record(attempt()))
    assert shipper.ship() == 1
    assert rows(path, "SELECT count(*) FROM records") == [(1,)]


def test_a_damaged_segment_gives_what_can_be_read_and_is_kept(
    folder: Path, path: Path, shipper: Shipper, caplog: pytest.LogCaptureFixture
) -> None:
    big = [record(attempt(), predictions=(f"{i}" * 6_000,)) for i in range(5)]
    spool(folder, "r1", *big)
    segment = folder / "r1" / "00000001.seg"
    content = bytearray(segment.read_bytes())
    at = content.index(b"2" * 4_000)
    page = at // segments.PAGE_BYTES * segments.PAGE_BYTES
    content[page : page + segments.PAGE_BYTES] = b"\xff" * segments.PAGE_BYTES
    segment.write_bytes(content)
    spool(folder, "r2", record(attempt()))
    (folder / "r2" / "00000002.seg").write_bytes(b"garbage" * 2_000)
    assert shipper.ship() == 5  # all but the one that the page belonged to
    assert sorted(file.name for file in (folder / "damaged").iterdir()) == ["r1-00000001.seg", "r2-00000002.seg"]
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR] * 2
    assert shipper.ship() == 0
    assert [file.name for file in folder.iterdir()] == ["damaged"]


def wait_until(done: Callable[[], bool], limit_s: float = 50.0) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)

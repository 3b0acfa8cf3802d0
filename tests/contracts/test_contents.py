"""Content's database, and how Content comes there: each once, nothing that was erased, nothing in the clear."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from lines import MS, new_id
from servery.host.clock import Clock
from servery.store import segments
from servery.store.carrier import Carrier
from servery.store.content_spool import PENDING_BYTES, ContentSpool
from servery.store.content_writer import ContentWriter
from servery.store.contents import AT_ONCE, REMEMBERED_NS, Contents, WrongContents
from servery.store.sealing import BadKeys, Sealer, new_key, parse_keys
from servery.terms.content import Content, Dropped, Erasure, Kept, Sealed

DAY_NS = 86_400 * 10**9
NOW = 20_000 * DAY_NS
PLAIN = b"a secret that nobody may read"
SEALER = Sealer(parse_keys(new_key()))

# Every database of Content must pass what is below.
DATABASES = (Contents,)


def kept(
    at_ns: int = NOW, tenant: str = "acme", days: int = 30, said: bytes = PLAIN, region: str = "uae", size: int = 0
) -> Kept:
    content = Content("chat/completions", said, (said,))
    return Kept(new_id(at_ns), tenant, region, at_ns + days * DAY_NS, size or 2 * len(said), lambda: content)


def sealed(at_ns: int = NOW, tenant: str = "acme", days: int = 30, region: str = "uae") -> Sealed:
    return SEALER.seal(kept(at_ns, tenant, days, region=region))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "contents.db"


@pytest.fixture(params=DATABASES)
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[Contents]:
    opened = request.param(path, create=True)
    yield opened
    opened.close()


def ids(lines: Sequence[Sealed]) -> set[bytes]:
    return {line.record_id for line in lines}


def test_content_comes_back_by_its_record_once(store: Contents) -> None:
    lines = [sealed(NOW + at * MS) for at in range(2 * AT_ONCE + 7)]
    assert store.write(lines, NOW) == len(lines)
    assert store.write(lines[:3], NOW) == 0
    found = store.read([line.record_id for line in lines], NOW)
    assert sorted(found, key=lambda line: line.record_id) == lines
    assert store.read([new_id(NOW)], NOW) == []
    assert SEALER.open(found[0]).asked == PLAIN


def test_the_first_that_comes_stays(store: Contents) -> None:
    first = sealed()
    store.write([first], NOW)
    store.write([msgspec.structs.replace(first, box=b"other")], NOW)
    assert store.read([first.record_id], NOW) == [first]


def test_what_has_expired_is_nowhere(store: Contents) -> None:
    lines = [sealed(days=days) for days in (1, 2, 3)]
    store.write(lines, NOW)
    later = NOW + 2 * DAY_NS
    assert ids(store.read([line.record_id for line in lines], later)) == ids(lines[2:])
    assert [one.count for one in store.count(later)] == [1]
    assert store.expire(later) == 2
    assert store.expire(later) == 0
    assert ids(store.read([line.record_id for line in lines], NOW)) == ids(lines[2:])
    assert store.write(lines[:1], later) == 0


def test_counts_are_by_tenant_region_and_key(store: Contents) -> None:
    other = Sealer(parse_keys(new_key()))
    lines = [sealed(NOW), sealed(NOW + MS), sealed(NOW + 2 * MS, "beta"), sealed(NOW, region="eu"), other.seal(kept())]
    store.write(lines, NOW)
    counted = store.count(NOW)
    assert {(one.tenant, one.region, one.key_id): one.count for one in counted} == {
        ("acme", "uae", SEALER.key_id): 2,
        ("acme", "uae", other.key_id): 1,
        ("acme", "eu", SEALER.key_id): 1,
        ("beta", "uae", SEALER.key_id): 1,
    }
    (two,) = [one for one in counted if one.count == 2]
    assert (two.oldest_ns, two.last_ns) == (NOW, NOW + MS + 30 * DAY_NS)
    assert two.size == len(lines[0].box) + len(lines[1].box)
    assert [one.tenant for one in store.count(NOW, "beta")] == ["beta"]
    assert sum(one.count for one in store.count(NOW, before_ns=NOW + MS)) == 3


ERASED = [
    # (the erasure, which of three are left)
    (Erasure(NOW + DAY_NS, "acme"), {"beta"}),
    (Erasure(NOW + MS), {"late", "beta"}),
    (Erasure(NOW + MS, "acme"), {"late", "beta"}),
    (Erasure(NOW + MS - 1), {"late", "beta"}),
    (Erasure(NOW), {"early", "late", "beta"}),
    (Erasure(NOW + DAY_NS), set[str]()),
]


@pytest.mark.parametrize(("erasure", "left"), ERASED)
def test_what_is_erased_stays_so_though_it_comes_again(store: Contents, erasure: Erasure, left: set[str]) -> None:
    lines = {"early": sealed(NOW), "late": sealed(NOW + MS), "beta": sealed(NOW + 2 * MS, "beta")}
    store.write(list(lines.values()), NOW)
    assert store.erase(erasure, NOW + DAY_NS) == 3 - len(left)
    assert ids(store.read([line.record_id for line in lines.values()], NOW)) == {lines[name].record_id for name in left}
    assert store.write(list(lines.values()), NOW) == 0  # from a spool that is late
    later = sealed(NOW + 2 * DAY_NS)
    assert store.write([later], NOW + 2 * DAY_NS) == 1


def test_one_record_is_erased_and_no_other(store: Contents) -> None:
    lines = [sealed(), sealed()]
    store.write(lines[:1], NOW)
    for line in lines:  # the second is still on its way
        store.erase(Erasure(NOW + 1, record_id=line.record_id), NOW)
    third = sealed()
    assert store.write([*lines, third], NOW) == 1
    assert ids(store.read([line.record_id for line in (*lines, third)], NOW)) == {third.record_id}


def test_many_are_erased_at_once(store: Contents) -> None:
    store.write([sealed() for _ in range(2 * AT_ONCE + 1)], NOW)
    assert store.erase(Erasure(NOW + 1, "acme"), NOW) == 2 * AT_ONCE + 1
    assert store.erase(Erasure(NOW + 1, "acme"), NOW) == 0


def test_an_erasure_is_remembered_as_long_as_anything_may_come(store: Contents) -> None:
    line = sealed(days=3_000)
    store.erase(Erasure(NOW + 1, "acme"), NOW)
    store.expire(NOW + REMEMBERED_NS)
    assert store.write([line], NOW + REMEMBERED_NS - 1) == 0
    store.expire(NOW + REMEMBERED_NS + 1)
    assert store.write([line], NOW + REMEMBERED_NS + 1) == 0  # too late for anything


def test_drops_are_counted_once_a_run(store: Contents) -> None:
    for count in (2, 5, 3):
        store.write([Dropped("r1", "acme", "no room", count, NOW)], NOW)
    store.write([Dropped("r2", "acme", "no room", 4, NOW), Dropped("r2", "beta", "no key", 1, NOW)], NOW)
    assert store.dropped() == [("acme", "no room", 9), ("beta", "no key", 1)]
    assert store.dropped("beta") == [("beta", "no key", 1)]
    store.expire(NOW + REMEMBERED_NS + 1)
    assert store.dropped() == []


def test_nothing_of_what_was_erased_is_left_in_the_files(store: Contents, path: Path) -> None:
    """Not even encrypted: a key that leaks later opens none of it."""
    lines = [SEALER.seal(kept(said=os.urandom(3_000))) for _ in range(20)]
    store.write(lines, NOW)
    store.erase(Erasure(NOW + 1, record_id=lines[7].record_id), NOW)
    assert store.clean
    files = b"".join(file.read_bytes() for file in path.parent.glob("contents.db*"))
    parts = {
        name: [line.box[at : at + 32] for at in range(0, len(line.box) - 32, 32)] for name, line in enumerate(lines)
    }
    left = {name: sum(part in files for part in some) / len(some) for name, some in parts.items()}
    assert left[7] == 0
    assert min(share for name, share in left.items() if name != 7) > 0.9


def test_a_reader_keeps_the_log_and_that_is_said(store: Contents, path: Path) -> None:
    store.write([sealed(), sealed()], NOW)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM contents").fetchall()
    store.erase(Erasure(NOW + 1), NOW)
    assert not store.clean
    reader.close()
    store.expire(NOW)
    assert store.clean
    assert path.with_name("contents.db-wal").stat().st_size == 0


def test_a_missing_or_foreign_database_is_said_to_be_so(path: Path) -> None:
    with pytest.raises(WrongContents, match="does not exist: no Content was ever kept here"):
        Contents(path)
    sqlite3.connect(path).close()
    with pytest.raises(WrongContents, match=r"schema of .* is missing"):
        Contents(path)


# From a worker to the database.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "content"


@pytest.fixture
def carrier(folder: Path, path: Path) -> Iterator[Carrier]:
    made = Carrier(folder, path, Clock(wall_ns=lambda: NOW))
    yield made
    made.close()


def writer(folder: Path, run: str = "r1", limit_mb: int = 64) -> ContentWriter:
    return ContentWriter(folder, run, limit_mb, lambda: SEALER, Clock(wall_ns=lambda: NOW))


def found(path: Path) -> set[bytes]:
    store = Contents(path)
    try:
        rows = sqlite3.connect(path)
        names = [row[0] for row in rows.execute("SELECT record_id FROM contents")]
        rows.close()
        return ids(store.read(names, NOW))
    finally:
        store.close()


def test_what_a_worker_keeps_is_carried_and_never_written_plain(folder: Path, path: Path, carrier: Carrier) -> None:
    async def work() -> list[Kept]:
        spool = ContentSpool(writer(folder), early=True)
        await spool.start()
        given = [kept(NOW + at * MS) for at in range(50)]
        for one in given[:25]:
            spool.keep(one)
        while not list(folder.rglob("*.open")):
            await asyncio.sleep(0.01)
        assert carrier.carry() == 0  # it is being written
        for one in given[25:]:
            spool.keep(one)
        await spool.drain()
        await spool.drain()
        return given

    given = asyncio.run(work())
    for file in folder.rglob("*"):
        assert file.is_dir() or PLAIN not in file.read_bytes()
    assert carrier.carry() == 50
    assert found(path) == {one.record_id for one in given}
    assert list(folder.iterdir()) == []
    assert all(PLAIN not in file.read_bytes() for file in path.parent.glob("contents.db*"))


def test_a_dead_worker_leaves_what_it_had_written(folder: Path, path: Path, carrier: Carrier) -> None:
    one = writer(folder)
    first, second = kept(), kept()
    one.write([first], {})
    one.write([second], {})
    assert one._segment is not None
    one._segment.abandon()
    assert one._lock is not None
    os.close(one._lock)
    assert carrier.carry() == 2
    assert found(path) == {first.record_id, second.record_id}
    assert list(folder.iterdir()) == []


def test_a_carrier_that_dies_before_it_removes_a_segment_stores_nothing_twice(
    tmp_path: Path, folder: Path, path: Path, carrier: Carrier
) -> None:
    one = writer(folder)
    given = [kept(), kept()]
    one.write(given, {})
    one.close()
    segment = folder / "r1" / "00000001.seg"
    copy = segment.read_bytes()
    assert carrier.carry() == 2
    store = Contents(path, write=True)
    store.erase(Erasure(NOW + 1, record_id=given[0].record_id), NOW)
    store.close()
    segment.parent.mkdir()
    segment.write_bytes(copy)
    assert carrier.carry() == 0
    assert found(path) == {given[1].record_id}


def test_a_damaged_segment_is_removed_and_told(
    folder: Path, path: Path, carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    one, given = writer(folder), [kept(), kept()]
    one.write(given[:1], {})
    one.write(given[1:], {})
    one.close()
    file = folder / "r1" / "00000001.seg"
    connection = sqlite3.connect(file)
    connection.execute("UPDATE groups SET lines = x'00' WHERE number = 1")
    connection.commit()
    connection.close()
    assert carrier.carry() == 1
    assert found(path) == {given[1].record_id}
    assert list(folder.iterdir()) == []
    assert "1 groups of Content are lost" in caplog.text


def test_a_queue_that_is_full_drops_and_counts(folder: Path, path: Path, carrier: Carrier) -> None:
    async def work() -> None:
        spool = ContentSpool(writer(folder), early=False)
        await spool.start()
        for _ in range(20):
            spool.keep(kept(size=PENDING_BYTES // 10))
        await spool.drain()
        spool.keep(kept())  # too late, and no harm

    asyncio.run(work())
    assert carrier.carry() == 9
    store = Contents(path)
    assert store.dropped() == [("acme", "its queue was full", 11)]
    store.close()


def test_a_spool_that_is_full_drops_and_counts_until_there_is_room(
    folder: Path, path: Path, carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0]
    one = ContentWriter(folder, "r1", 1, lambda: SEALER, Clock(lambda: NOW, lambda: now[0]))
    given = [kept(said=os.urandom(100_000)) for _ in range(20)]
    with caplog.at_level(logging.WARNING, "servery.content"):
        for content in given:
            now[0] += 1_500_000_000  # each gets a segment
            one.write([content], {})
        stored = carrier.carry()
        assert 0 < stored < 10
        now[0] += 1_500_000_000
        one.write([kept()], {})
        one.close()
    assert carrier.carry() == 1
    store = Contents(path)
    assert store.dropped() == [("acme", "there was no room on disk", 20 - stored)]
    store.close()
    said = [entry.message for entry in caplog.records]
    assert len(said) == 2
    assert "records.content_mb" in said[0]
    assert f"dropped by this worker so far: {20 - stored}" in said[1]
    assert len(found(path)) == stored + 1


def test_without_a_key_everything_is_dropped_and_the_log_says_why(
    folder: Path, path: Path, carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    def no_key() -> Sealer:
        raise BadKeys("the environment variable A_KEY holds no key")

    one = ContentWriter(folder, "r1", 64, no_key, Clock(wall_ns=lambda: NOW))
    one.prepare()
    one.write([kept(), kept(tenant="beta")], {})
    one.close()
    assert carrier.carry() == 0
    assert [entry.message for entry in caplog.records] == [
        "Content can't be encrypted, and is dropped: the environment variable A_KEY holds no key"
    ]
    store = Contents(path)
    assert store.dropped() == [("acme", "there was no key", 1), ("beta", "there was no key", 1)]
    store.close()


def test_content_that_cannot_be_made_costs_itself_only(
    folder: Path, path: Path, carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> Content:
        raise ValueError(PLAIN.decode())

    one = writer(folder)
    good = kept()
    one.write([msgspec.structs.replace(good, record_id=new_id(NOW), make=fails), good], {})
    one.close()
    assert carrier.carry() == 1
    assert found(path) == {good.record_id}
    assert "ValueError" in caplog.text
    assert PLAIN.decode() not in caplog.text


def test_a_locked_database_makes_content_wait(folder: Path, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [0]
    carrier = Carrier(folder, path, Clock(lambda: NOW, lambda: now[0]))
    one = writer(folder)
    one.write([kept()], {})
    one.close()
    Contents(path, create=True).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for _ in range(3):
        carrier.turn()
    other.execute("ROLLBACK")
    other.close()
    carrier.turn()  # too soon after it failed
    assert len(segments.find(folder / "r1")) == 1
    now[0] += 10**9
    carrier.turn()
    carrier.close()
    assert len(found(path)) == 1
    said = [entry.message for entry in caplog.records]
    assert len(said) == 2
    assert "locked" in said[0]
    assert "again" in said[1]


def test_expired_content_goes_within_a_minute(folder: Path, path: Path) -> None:
    wall, steady = [NOW], [0]
    carrier = Carrier(folder, path, Clock(lambda: wall[0], lambda: steady[0]))
    carrier.turn()
    assert not path.exists()  # nobody keeps anything
    store = Contents(path, create=True)
    store.write([sealed(days=1), sealed(days=2)], NOW)
    store.close()
    wall[0], steady[0] = NOW + DAY_NS, 61 * 10**9
    carrier.turn()
    carrier.close()
    rows = sqlite3.connect(path)
    assert rows.execute("SELECT count(*) FROM contents").fetchall() == [(1,)]
    rows.close()

"""The counters that workers share: one suite for all of them."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from own_redis import OwnRedis, connected
from servery.quota.counters import MemoryCounter, SqliteCounter
from servery.quota.leases import NS, Changes, Counter
from servery.quota.redis_counters import RedisCounter

NOW = 10**15
SECOND = NOW // NS


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    with OwnRedis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(params=["memory", "sqlite", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Counter]:
    """Another holder of the same windows."""
    if request.param == "memory":
        one = MemoryCounter()
        return lambda: one
    if request.param == "sqlite":
        return lambda: SqliteCounter(tmp_path / "limits.db")
    url = request.getfixturevalue("redis").url
    return lambda: RedisCounter(connected(url, tmp_path.name))


def test_all_holders_take_from_one_window(make: Callable[[], Counter]) -> None:
    first, second = make(), make()
    counts = [(first, second)[turn % 2].take("t", 5, 2, {}, NOW, wanted=True).count for turn in range(7)]
    assert counts == [1, 1, 1, 1, 1, 0, 0]
    assert second.take("other", 5, 2, {}, NOW, wanted=True).count == 1
    assert second.take("t", 6, 2, {}, NOW, wanted=True).count == 1  # the limit has changed


def test_what_is_given_back_is_there_again(make: Callable[[], Counter]) -> None:
    one = make()
    given = one.take("t", 100, 1, {}, NOW, wanted=True)
    assert (given.count, given.until) == (5, SECOND + 1)
    assert one.take("t", 100, 1, {given.until: -5, SECOND: 2}, NOW, wanted=False).count == 0
    taken = 0
    while given := one.take("t", 100, 1, {}, NOW, wanted=True).count:
        taken += given
    assert taken == 98


def test_what_was_never_booked_cant_be_given_back(make: Callable[[], Counter]) -> None:
    one = make()
    one.take("t", 1, 1, {SECOND: -100}, NOW, wanted=False)
    assert [one.take("t", 1, 1, {}, NOW, wanted=True).count for _ in range(2)] == [1, 0]


def test_the_wait_is_until_the_oldest_leaves(make: Callable[[], Counter]) -> None:
    one = make()
    one.take("t", 1, 1, {SECOND - 50: 1}, NOW, wanted=False)
    assert one.take("t", 1, 1, {}, NOW, wanted=True).wait_s == pytest.approx(10)
    assert one.take("t", 1, 1, {}, NOW + 10 * NS, wanted=True).count == 1


def test_what_is_older_than_a_minute_is_forgotten(make: Callable[[], Counter]) -> None:
    one = make()
    one.take("t", 1, 1, {SECOND - 60: 100, SECOND - 61: -3}, NOW, wanted=False)
    assert one.take("t", 1, 1, {}, NOW, wanted=True).count == 1


def test_what_is_decided_is_the_same_wherever_it_is_counted(make: Callable[[], Counter]) -> None:
    """Histories by chance, beside the one in memory."""
    one, model = make(), MemoryCounter()
    for seed in range(60):
        draw, now, name = random.Random(seed), NOW, f"t{seed}"
        limit, workers = draw.choice((1, 3, 40, 1_000, 10**12)), draw.choice((1, 2, 8))
        for _ in range(12):
            now += draw.choice((0, 10**8, NS, 31 * NS))
            second, some = now // NS, max(limit // 20, 2)
            changes: Changes = {second - draw.randrange(70): draw.randrange(-some, some) for _ in range(3)}
            told = (name, limit, workers, changes, now, draw.random() < 0.8)
            assert one.take(*told) == model.take(*told), (seed, told)


SQLITE = "SqliteCounter(Path(sys.argv[1]))"
REDIS = "RedisCounter(RedisServer(Counters(redis=sys.argv[1]), '', 'w', lambda: 0))"
TAKES = """
import sys
from pathlib import Path
from servery.quota.counters import SqliteCounter
from servery.quota.redis_counters import RedisCounter
from servery.quota.redis_server import RedisServer
from servery.terms.limits import Counters
one, taken = {}, 0
while given := one.take("t", 3000, 40, {{}}, 10**15, wanted=True).count:
    taken += given
print(taken)
"""


@pytest.mark.parametrize("kept", ["sqlite", "redis"])
def test_processes_at_once_take_exactly_the_limit(kept: str, tmp_path: Path, redis: OwnRedis) -> None:
    made, where = (SQLITE, str(tmp_path / "limits.db")) if kept == "sqlite" else (REDIS, redis.url)
    command = [sys.executable, "-c", TAKES.format(made), where]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    taken = [int(process.communicate(timeout=100)[0]) for process in running]
    assert sum(taken) == 3000


def test_a_file_out_of_reach_says_so_and_is_looked_for_again(tmp_path: Path) -> None:
    one = SqliteCounter(tmp_path / "none" / "limits.db")
    with pytest.raises(OSError, match="can't be used"):
        one.take("t", 1, 1, {}, NOW, wanted=True)
    with pytest.raises(OSError, match="can't be used"):
        one.look()
    (tmp_path / "none").mkdir()
    one.look()
    assert one.take("t", 1, 1, {}, NOW, wanted=True).count == 1
    other = sqlite3.connect(tmp_path / "none" / "limits.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OSError, match="locked"):
        one.take("t", 2, 1, {}, NOW, wanted=True)
    other.execute("ROLLBACK")
    other.close()
    assert one.take("t", 2, 1, {}, NOW, wanted=True).count == 1
    one.close()
    one.close()

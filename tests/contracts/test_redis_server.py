"""The Redis that counters are kept in: it may be away, slow, new, full or somebody else's."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from own_redis import OwnRedis, connected
from servery.quota.budgets import NS, Account, Report
from servery.quota.redis_counters import RedisAccounts, RedisCounter
from servery.quota.redis_server import LIMIT_S

SECRET = "of-the-redis-" + "r" * 20


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[OwnRedis]:
    with OwnRedis(tmp_path) as redis:
        yield redis


def ask(counter: RedisCounter) -> int:
    return counter.take("t", 100, 1, {}, time.time_ns(), wanted=True).count


def test_all_that_it_keeps_is_kept_for_a_time(redis: OwnRedis) -> None:
    server, now = connected(redis.url, "mine"), time.time_ns()
    server.look()
    RedisCounter(server).take("t", 10, 1, {now // NS: 1}, now, wanted=True)
    for need in (0, 1):
        RedisAccounts(server).renew(Account("a", 10, now + 1000 * NS), Report("w", 1, 0, need), 1, now)
    seconds = {key: int(redis.command("TTL", key)[1:]) for key in ("mine:workers", "mine:minute:t", "mine:account:a")}
    assert redis.command("DBSIZE") == b":3\r\n"
    assert 50 < seconds["mine:minute:t"] <= 62
    assert 50 < seconds["mine:workers"] <= 60
    assert 1590 < seconds["mine:account:a"] <= 1600
    # What a sum was made in isn't kept.
    assert b"=" not in redis.command("HKEYS", "mine:account:a")


def test_who_shares_it_is_counted_and_by_which_clock(redis: OwnRedis) -> None:
    first, second = connected(redis.url, worker="first"), connected(redis.url, worker="second")
    before = time.time_ns()
    assert [first.look().workers, second.look().workers, first.look().workers] == [1, 2, 2]
    assert connected(redis.url, "others").look().workers == 1
    ahead_ns = first.look().ahead_ns
    assert ahead_ns is not None
    assert before <= time.perf_counter_ns() + ahead_ns + 10**6
    assert abs(time.perf_counter_ns() + ahead_ns - time.time_ns()) < NS
    # One that isn't heard of for a minute is gone.
    redis.command("ZADD", "servery:workers", str(time.time_ns() // 1000 - 61_000_000), "second")
    assert first.look().workers == 1


def test_it_is_found_again_and_says_that_it_has_forgotten(redis: OwnRedis) -> None:
    server = connected(redis.url)
    counter = RedisCounter(server)
    assert [server.look().forgot, server.look().forgot] == [False, False]
    assert ask(counter) == 5
    redis.kill()
    for _ in range(2):
        with pytest.raises(OSError, match=r"Redis of limits and budgets can't be used.*refused"):
            ask(counter)
        with pytest.raises(OSError, match="refused"):
            server.look()
    redis.__enter__()
    assert ask(counter) == 5
    assert [server.look().forgot, server.look().forgot] == [True, False]
    redis.command("SCRIPT", "FLUSH")
    assert ask(counter) > 0
    server.close()
    server.close()
    assert ask(counter) > 0


def test_one_that_never_answers_holds_nobody_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = connected(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        before = time.monotonic()
        with pytest.raises(OSError, match=r"[Tt]imeout"):
            server.look()
        assert time.monotonic() - before < 2 * LIMIT_S + 2


def test_a_full_one_says_so(redis: OwnRedis) -> None:
    counter = RedisCounter(connected(redis.url))
    redis.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(OSError, match="memory"):
        ask(counter)
    redis.command("CONFIG", "SET", "maxmemory", "0")
    assert ask(counter) > 0


def test_it_wants_a_password_which_no_error_holds(tmp_path: Path) -> None:
    with OwnRedis(tmp_path, "--requirepass", SECRET) as redis:
        assert connected(redis.url, password=SECRET).look().workers == 1
        for password in ("", "guessed-" + SECRET):
            with pytest.raises(OSError, match="can't be used") as told:
                connected(redis.url, password=password).look()
            assert SECRET not in str(told.value)


def test_what_stands_there_is_no_redis() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor(1) as pool:
        server = connected(f"redis://127.0.0.1:{other.getsockname()[1]}/0")
        looking = pool.submit(server.look)
        line, _ = other.accept()
        with line:
            line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(OSError, match="can't be used"):
                looking.result(10)

"""Two machines, as two `servery up`, that count in one Redis: limits and budgets are of both together, also when it goes away."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fake_vendor import FakeVendor
from living import servery, until
from own_redis import OwnRedis
from server import Reply, Server

pytestmark = pytest.mark.timeout(180)

PRICE = {"usd_per_1m_input": 0, "usd_per_1m_output": 100}  # 20 tokens: $0.002
SECRET = "of-the-redis-" + "r" * 20


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[OwnRedis]:
    with OwnRedis(tmp_path) as redis:
        yield redis


def declared(vendor: FakeVendor, counters: dict[str, Any], **limits: Any) -> dict[str, Any]:
    paid = {"runtime": "openai", "endpoint": vendor.url, "serves": "paid?tokens=20", "price": PRICE}
    canned = {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": "For free."}]}
    tenants = {
        name: {"keys": [{"id": "k", "sha256": hashlib.sha256(name.encode()).hexdigest()}], "limits": limits_}
        for name, limits_ in (("acme", limits), ("free", {}))
    }
    return {
        "models": {"paid": {**paid, "expose": True}, "canned": {**canned, "expose": True}},
        "tenants": tenants,
        "counters": counters,
        "server": {"workers": 2},
    }


def ask(server: Server, model: str, tenant: str = "acme") -> Reply:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 20}
    return server.ask("POST", "/v1/chat/completions", json.dumps(body), {"x-api-key": tenant})


def hammer(servers: list[Server], model: str, count: int) -> list[int]:
    """The statuses of so many calls, spread over the servers."""
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, servers[turn % len(servers)], model) for turn in range(count)]
        return [one.result().status for one in asked]


def test_limits_and_budgets_are_of_both_together(vendor: FakeVendor, redis: OwnRedis, tmp_path: Path) -> None:
    manifest = declared(vendor, {"redis": redis.url}, usd_per_day=0.1, requests_per_minute=300)
    with Server(tmp_path / "a", manifest) as first, Server(tmp_path / "b", manifest) as second:
        statuses = hammer([first, second], "paid", 80)
        assert set(statuses) == {200, 429}
        assert statuses.count(200) in (47, 48, 49, 50)  # of fifty: 95 %, and never more than there is
        told = ask(first, "paid").json["error"]
        assert told["code"] == "budget_spent"
        statuses = hammer([first, second], "canned", 260)
        assert statuses[-1] == 429
        assert 300 * 0.95 - 4 <= statuses.count(200) + 81 <= 300
        assert ask(second, "canned").json["error"]["code"] == "rate_limited"
        for server in (first, second):
            assert not (server.data / "budgets.db").exists()
            assert ask(server, "paid", "free").status == 200
    # What is spent is remembered there.
    with Server(tmp_path / "c", manifest) as third:
        assert hammer([third], "paid", 8).count(200) <= 50 - 47


def test_without_it_each_goes_on_by_its_share_and_tells_it_all_again(
    vendor: FakeVendor, redis: OwnRedis, tmp_path: Path
) -> None:
    """It comes back without anything that it knew."""
    manifest = declared(vendor, {"redis": redis.url}, usd_per_day=0.4)  # two hundred calls
    with Server(tmp_path / "a", manifest) as first, Server(tmp_path / "b", manifest) as second:
        servers = [first, second]
        before = hammer(servers, "paid", 60).count(200)
        assert before == 60
        redis.kill()
        meanwhile = hammer(servers, "paid", 60).count(200)
        assert meanwhile > 30  # of a hundred and forty that are left each of four workers may spend a quarter
        for server in servers:
            assert "goes on by its own share" in server.written()
        redis.__enter__()
        until(lambda: all("counted together again" in server.written() for server in servers))
        until(lambda: all("tells them again" in server.written() for server in servers))
        after = hammer(servers, "paid", 140).count(200)
        assert 0.95 * 200 - 4 <= before + meanwhile + after <= 200 + 4


def test_without_it_what_has_limits_is_refused_where_that_is_declared(
    vendor: FakeVendor, redis: OwnRedis, tmp_path: Path
) -> None:
    counters = {"redis": redis.url, "on_unavailable": "refuse"}
    manifest = declared(vendor, counters, usd_per_day=1, requests_per_minute=1000)
    with Server(tmp_path / "a", manifest) as server:
        assert ask(server, "paid").status == 200
        redis.kill()
        until(lambda: {ask(server, "paid").status for _ in range(10)} == {503})  # each worker finds it out by itself
        reply = ask(server, "canned")
        assert (reply.status, reply.json["error"]["code"]) == (503, "no_counter")
        assert reply.headers["retry-after"] == "1"
        assert ask(server, "paid", "free").status == 200
        redis.__enter__()
        until(lambda: ask(server, "paid").status == 200)
        assert server.stop() == 0
        query = "SELECT DISTINCT outcome FROM records WHERE reason = 'no_counter'"
        assert server.records(query) == [("refused",)]


def test_its_password_is_taken_from_the_environment_and_kept_nowhere(vendor: FakeVendor, tmp_path: Path) -> None:
    with OwnRedis(tmp_path, "--requirepass", SECRET) as redis, pytest.MonkeyPatch.context() as patch:
        counters = {"redis": redis.url, "credentials": {"env": "SERVERY_TEST_REDIS"}}
        manifest = declared(vendor, counters, requests_per_minute=10)
        server = Server(tmp_path / "a", manifest)
        done = servery("check", server.manifest)
        assert done.returncode == 1
        assert "counters.credentials.env: the environment variable SERVERY_TEST_REDIS" in done.stdout + done.stderr
        patch.setenv("SERVERY_TEST_REDIS", "guessed-" + SECRET)
        with server:
            until(lambda: "can't be used" in server.written())
            assert ask(server, "canned").status == 200
        patch.setenv("SERVERY_TEST_REDIS", SECRET)
        with server:
            assert hammer([server], "canned", 14).count(200) <= 10
            assert b"servery:minute:acme" in redis.command("KEYS", "*")
        for path in [*server.data.rglob("*"), server.folder / "log.txt"]:
            assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_server_that_begins_without_it_serves(vendor: FakeVendor, redis: OwnRedis, tmp_path: Path) -> None:
    redis.kill()
    manifest = declared(vendor, {"redis": redis.url}, requests_per_minute=20)
    with Server(tmp_path / "a", manifest) as server:
        alone = hammer([server], "canned", 40).count(200)
        assert 10 <= alone <= 20  # ten for each worker
        redis.__enter__()
        until(lambda: "counted together again" in server.written())
        assert ask(server, "canned").status in (200, 429)

"""Budgets in dollars and tokens, by real calls through real workers: they hold, they last, and they say when to come back."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts import identity
from fake_vendor import FakeVendor
from server import Reply, Server

pytestmark = pytest.mark.timeout(120)

PRICE = {"usd_per_1m_input": 0, "usd_per_1m_output": 100}  # 20 tokens: $0.002


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


def declared(vendor: FakeVendor, workers: int = 1, **limits: Any) -> dict[str, Any]:
    paid = {"runtime": "openai", "endpoint": vendor.url, "serves": "paid?tokens=20", "price": PRICE}
    canned = {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": "For free."}]}
    tiers = [{"name": "dear", "model": "paid"}, {"name": "free", "model": "canned"}]
    key = hashlib.sha256(b"of acme").hexdigest()
    return {
        "models": {"paid": {**paid, "expose": True}, "canned": {**canned, "expose": True}},
        "routes": {"chat": {"tiers": tiers}},
        "tenants": {"acme": {"keys": [{"id": "k", "sha256": key}], "limits": limits}},
        "server": {"workers": workers},
    }


def ask(server: Server, model: str = "paid", key: str = "of acme", **more: Any) -> Reply:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, **more}
    return server.ask("POST", "/v1/chat/completions", json.dumps(body), {"x-api-key": key})


def spent(server: Server) -> float:
    ((usd,),) = server.records("select coalesce(sum(pico_usd), 0) / 1e12 from records")
    return usd


def test_a_budget_of_dollars_holds_over_workers_and_over_a_restart(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = declared(vendor, 2, usd_per_day=0.1)  # fifty calls
    statuses: list[int] = []

    def hammer(server: Server) -> None:
        for _ in range(20):
            reply = ask(server)
            statuses.append(reply.status)
            if reply.status == 429:
                assert reply.json["error"]["code"] == "budget_spent"
                assert 1 <= int(reply.headers["retry-after"]) <= 86_400

    with Server(tmp_path / "s", manifest) as server:
        threads = [threading.Thread(target=hammer, args=(server,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.await_records("select id from records", 80)
        assert statuses.count(200) in (48, 49, 50)  # 95 %, and never more than there is
        assert spent(server) == pytest.approx(0.002 * statuses.count(200))
    with Server(tmp_path / "s", manifest) as server:
        assert sum(ask(server).status == 200 for _ in range(8)) <= 50 - statuses.count(200)
        assert ask(server, "canned").status == 200  # what is free needs no budget


def test_where_a_budget_is_spent_a_cheaper_tier_may_answer(vendor: FakeVendor, tmp_path: Path) -> None:
    with Server(tmp_path / "s", declared(vendor, usd_per_month=0.01, when_spent="cheaper")) as server:
        tiers = [ask(server, "chat").headers["servery-tier"] for _ in range(8)]
        assert tiers == ["dear"] * 5 + ["free"] * 3
        assert ask(server).status == 429  # no tier is cheaper here
        reply = ask(server, "chat")
        wanted = reply.headers["servery-record-id"]
        ((attempts,),) = server.await_records(f"select attempts from records where id = x'{wanted}'", 1)
        first, second = json.loads(attempts)
        assert (first["reason"], first["pico_usd"], second["tier"]) == ("budget_spent", 0, "free")


def test_a_key_has_its_own_budget_within_that_of_its_tenant(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = declared(vendor, usd_per_day=0.016)  # eight calls
    (first,) = manifest["tenants"]["acme"]["keys"]
    first["limits"] = {"usd_per_day": 0.01}  # five
    manifest["tenants"]["acme"]["keys"].append({"id": "other", "sha256": hashlib.sha256(b"other").hexdigest()})
    with Server(tmp_path / "s", manifest) as server:
        replies = [ask(server) for _ in range(6)]
        assert [reply.status for reply in replies] == [200] * 5 + [429]
        assert "this key's budget of $0.01 a day" in replies[-1].json["error"]["message"]
        others = [ask(server, key="other") for _ in range(4)]
        assert [reply.status for reply in others] == [200] * 3 + [429]
        assert "this tenant's budget" in others[-1].json["error"]["message"]


def test_a_route_has_a_budget_for_all_and_a_models_is_the_others_turn(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = declared(vendor)
    manifest["routes"]["bound"] = {"tiers": [{"name": "dear", "model": "paid"}], "limits": {"usd_per_day": 0.004}}
    manifest["models"]["paid"]["limits"] = {"usd_per_month": 0.01}
    with Server(tmp_path / "s", manifest) as server:
        bound = [ask(server, "bound") for _ in range(3)]
        assert [reply.status for reply in bound] == [200] * 2 + [429]
        assert "this route's budget of $0.004 a day" in bound[-1].json["error"]["message"]
        assert [ask(server, "chat").headers["servery-tier"] for _ in range(5)] == ["dear"] * 3 + ["free"] * 2
        assert ask(server).status == 429
    with Server(tmp_path / "s", manifest) as server:
        assert ask(server, "chat").headers["servery-tier"] == "free"


def test_what_is_only_observed_refuses_nobody(vendor: FakeVendor, tmp_path: Path) -> None:
    with Server(tmp_path / "s", declared(vendor, usd_per_day=0.004, mode="observe")) as server:
        assert [ask(server).status for _ in range(6)] == [200] * 6


def test_tokens_a_minute_and_dollars_a_request(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = declared(vendor, tokens_per_minute=1_000, usd_per_request=0.003)
    with Server(tmp_path / "s", manifest) as server:
        reply = ask(server, max_tokens=100_000, messages=[{"role": "user", "content": "x"}])
        assert reply.status in (200, 400)
        seen = [ask(server).status for _ in range(60)]
        assert seen.count(200) >= 20
        assert seen[-1] == 429
        assert 1 <= int(ask(server).headers["retry-after"]) <= 60


def test_a_caller_who_leaves_and_a_vendor_who_refuses_leave_nothing_put_aside(
    vendor: FakeVendor, tmp_path: Path
) -> None:
    manifest = declared(vendor, usd_per_day=0.01)
    manifest["models"]["broken"] = {**manifest["models"]["paid"], "serves": "x?fault=500"}
    with Server(tmp_path / "s", manifest) as server:
        assert [ask(server, "broken").status for _ in range(4)] == [502] * 4
        assert [ask(server).status for _ in range(6)] == [200] * 5 + [429]


def test_busy_time_counts_too(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = declared(vendor, usd_per_day=0.001)
    identity(tmp_path / "rows.onnx", 2)
    rows = {"runtime": "onnx", "artifact": str(tmp_path / "rows.onnx"), "price": {"usd_per_hour": 20_000}}
    manifest["models"]["rows"] = {**rows, "expose": True}
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    with Server(tmp_path / "s", manifest) as server:
        replies = [server.infer("rows", body, {"x-api-key": "of acme"}) for _ in range(300)]
        statuses = [reply.status for reply in replies]
        assert statuses[0] == 200
        assert statuses[-1] == 429, replies[-1]
        assert "retry-after" in replies[-1].headers
        server.await_records("select id from records", 300)
        assert spent(server) >= 0.95 * 0.001


def test_a_hedge_that_a_budget_doesnt_hold_harms_nobody(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = declared(vendor, usd_per_request=0.003)  # one call fits, two don't
    slow = {"runtime": "openai", "endpoint": vendor.url, "serves": "slow?tokens=20&latency_ms=200", "price": PRICE}
    manifest["models"]["slow"] = slow
    hedge = {"after_ms": 1, "share": 1}
    tiers = [{"name": "only", "model": "slow"}]
    manifest["routes"]["hedged"] = {"policy": {"retries": 0, "hedge": hedge}, "tiers": tiers}
    with Server(tmp_path, manifest) as server:
        for stream in (False, True):
            reply = ask(server, "hedged", stream=stream)
            assert reply.status == 200, reply.body
            wanted = reply.headers["servery-record-id"]
            ((told,),) = server.await_records(f"select attempts from records where id = x'{wanted}'", 1)
            made = [(attempt["role"], attempt.get("reason", "")) for attempt in json.loads(told)]
            assert made == [("serve", ""), ("hedge", "budget_spent")]

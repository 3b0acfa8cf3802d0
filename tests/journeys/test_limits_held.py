"""Limits of tenants, keys, routes and models, by real calls: who is refused, who is told what, and who answers instead."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import artifacts
from fake_vendor import FakeVendor
from living import apply
from server import Reply, Server, tensor

pytestmark = pytest.mark.timeout(120)

PRICE = {"usd_per_1m_input": 0, "usd_per_1m_output": 100}  # 20 tokens: $0.002
CANNED = {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": "For free."}], "expose": True}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


def key(name: str, **limits: Any) -> dict[str, Any]:
    return {"id": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "limits": limits}


def paid(vendor: FakeVendor, serves: str = "paid?tokens=20", **limits: Any) -> dict[str, Any]:
    asked = {"runtime": "openai", "endpoint": vendor.url, "serves": serves, "price": PRICE}
    return {**asked, "expose": True, "limits": limits}


def in_text(vendor: FakeVendor, route: dict[str, Any] | None = None, **tenant: Any) -> dict[str, Any]:
    """A dear tier, a free one, and a tenant with two keys."""
    tiers = [{"name": "dear", "model": "paid"}, {"name": "free", "model": "canned"}]
    return {
        "models": {"paid": paid(vendor), "canned": CANNED},
        "routes": {"chat": {"tiers": tiers, "limits": route or {}}},
        "tenants": {"acme": {"keys": [key("one"), key("two")], "limits": tenant}},
    }


def chat(server: Server, model: str = "chat", who: str = "one", stream: bool = False) -> Reply:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "stream": stream}
    return server.ask("POST", "/v1/chat/completions", json.dumps(body), {"x-api-key": who})


def why(reply: Reply) -> str:
    return reply.json["error"]["message"]


def by_tensors(folder: Path, **limits: Any) -> dict[str, Any]:
    """A model with limits before one without, in a route and a cascade; `slow` takes as long as it is told."""
    sure, unsure = (
        artifacts.constant(folder / f"{name}.onnx", [top, 1 - top]) for name, top in (("s", 0.9), ("u", 0.6))
    )
    model = {"runtime": "onnx", "confidence": {"output": "probabilities"}}
    slow = {"runtime": "onnx", "artifact": str(artifacts.slow(folder / "slow.onnx")), "expose": True}
    tiers = [{"name": "first", "model": "bound"}, {"name": "second", "model": "other"}]
    return {
        "models": {
            "bound": {**model, "artifact": str(sure), "expose": True, "price": {"usd_per_hour": 1}, "limits": limits},
            "other": {**model, "artifact": str(unsure)},
            "slow": slow,
        },
        "routes": {
            "rows": {"tiers": tiers},
            "top up": {
                "policy": {"kind": "cascade"},
                "tiers": [
                    {"name": "cheap", "model": "other", "accept": {"confidence": 0.8}},
                    {"name": "dear", "model": "bound"},
                ],
            },
            "slowly": {"tiers": [{"name": "only", "model": "slow"}]},
        },
        "tenants": {"acme": {"keys": [key("one"), key("two")]}},
    }


def infer(server: Server, name: str, who: str = "one", ms: float = 0.0) -> Reply:
    shape = [1, 1] if "slow" in name else [1, 30]
    body = {"inputs": [tensor("x", "FP32", shape, [ms] * shape[1])]}
    return server.infer(name.replace(" ", "%20"), body, {"x-api-key": who})


def test_a_request_counts_on_its_tenant_its_key_and_its_route(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = in_text(vendor, {"requests_per_minute": 6}, requests_per_minute=9)
    manifest["tenants"]["acme"]["keys"][0] = key("one", requests_per_minute=4)
    with Server(tmp_path / "s", manifest) as server:
        assert [chat(server).status for _ in range(4)] == [200] * 4
        reply = chat(server)
        assert reply.status == 429
        assert "this key's 4 requests_per_minute are used up" in why(reply)
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert [chat(server, who="two").status for _ in range(2)] == [200] * 2
        for _ in range(20):  # what one limit refuses counts on no other one
            reply = chat(server, who="two")
            assert reply.status == 429
            assert "this route's 6 requests_per_minute" in why(reply)
        assert [chat(server, "canned", "two").status for _ in range(3)] == [200] * 3
        assert "this tenant's 9 requests_per_minute" in why(chat(server, "canned", "two"))
        assert server.stop() == 0
        query = "SELECT outcome, reason, count(*) FROM records GROUP BY 1, 2 ORDER BY 1"
        assert server.records(query) == [("refused", "rate_limited", 22), ("served", "", 9)]


def test_rows_of_tensors_count_alike(tmp_path: Path) -> None:
    manifest = by_tensors(tmp_path)
    manifest["routes"]["rows"]["limits"] = {"requests_per_minute": 3}
    manifest["tenants"]["acme"]["keys"][0] = key("one", requests_per_minute=2)
    with Server(tmp_path / "s", manifest) as server:
        assert [infer(server, "rows").status for _ in range(2)] == [200] * 2
        assert "this key's 2 requests_per_minute" in infer(server, "rows").error
        assert infer(server, "rows", "two").status == 200
        for _ in range(5):
            reply = infer(server, "rows", "two")
            assert reply.status == 429
            assert "this route's 3 requests_per_minute" in reply.error
            assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert infer(server, "bound", "two").status == 200


def test_a_model_over_its_limit_is_anothers_turn(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = in_text(vendor)
    manifest["models"]["paid"] = paid(vendor, requests_per_minute=3)
    with Server(tmp_path / "s", manifest) as server:
        tiers = [chat(server, stream=stream).headers["servery-tier"] for stream in (False, True) * 2 + (True,)]
        assert tiers == ["dear"] * 3 + ["free"] * 2
        reply = chat(server, "paid", stream=True)
        assert reply.status == 429
        assert "this model's 3 requests_per_minute" in why(reply)
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        (first, second) = attempts(server, chat(server))
        assert (first["outcome"], first["reason"], first["pico_usd"]) == ("refused", "rate_limited", 0)
        assert (second["role"], second["tier"]) == ("fallback", "free")


def test_a_model_of_tensors_too(tmp_path: Path) -> None:
    with Server(tmp_path / "s", by_tensors(tmp_path, requests_per_minute=3)) as server:
        tiers = [infer(server, "rows").headers["servery-tier"] for _ in range(5)]
        assert tiers == ["first"] * 3 + ["second"] * 2
        reply = infer(server, "bound")
        assert reply.status == 429
        assert "this model's 3 requests_per_minute" in reply.error
        assert 1 <= int(reply.headers["retry-after"]) <= 60


def test_a_model_of_tensors_has_a_budget_of_its_busy_time(tmp_path: Path) -> None:
    manifest = by_tensors(tmp_path, usd_per_day=0.000001)
    manifest["models"]["bound"]["price"] = {"usd_per_hour": 1000}
    with Server(tmp_path / "s", manifest) as server:
        tiers = Counter(infer(server, "rows").headers["servery-tier"] for _ in range(60))
        assert set(tiers) == {"first", "second"}
        reply = infer(server, "bound")
        assert reply.status == 429
        assert "this model's budget of $1e-06 a day" in reply.error


def test_over_a_limit_a_cheaper_tier_may_answer(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = in_text(vendor, requests_per_minute=2, when_spent="cheaper")
    manifest["models"]["small"] = {**paid(vendor, "small?tokens=20"), "price": {**PRICE, "usd_per_1m_output": 50}}
    tiers = [{"name": name, "model": name} for name in ("paid", "canned", "small")]
    manifest["routes"]["three"] = {"tiers": tiers, "policy": {"fallback": []}}
    with Server(tmp_path / "s", manifest) as server:
        assert [chat(server).headers["servery-tier"] for _ in range(4)] == ["dear"] * 2 + ["free"] * 2
        ((attempt,),) = [attempts(server, chat(server))]
        assert (attempt["tier"], attempt["role"], attempt["why"]) == ("free", "serve", "cheaper")
        assert [one.get("unfit", "") for one in attempt["choice"]["candidates"]] == ["limit", ""]
        # The next cheaper one, not the cheapest.
        assert chat(server, "three").headers["servery-tier"] == "small"
        for model in ("canned", "paid"):  # nothing is cheaper
            reply = chat(server, model)
            assert reply.status == 429
            assert "this tenant's 2 requests_per_minute" in why(reply)


def test_a_limit_that_leaves_only_the_cheap_tier_of_a_cascade_is_told(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = in_text(vendor)
    manifest["routes"]["top up"] = top_up(limits={"requests_per_minute": 1, "when_spent": "cheaper"})
    manifest["models"]["unsure"] = paid(vendor, "unsure?sure=0.55&tokens=2")
    with Server(tmp_path / "s", manifest) as server:
        assert chat(server, "unsure").status == 200  # what it writes is known to be short
        replies = [chat(server, "top up", stream=stream) for stream in (False, False, True)]
        assert [reply.headers["servery-tier"] for reply in replies] == ["dear", "cheap", "cheap"]
        assert [reply.headers.get("servery-degraded") for reply in replies] == [None, "rate_limited", "rate_limited"]


def top_up(**more: Any) -> dict[str, Any]:
    accept = {"check": "logprob", "confidence": 0.9}
    tiers = [{"name": "cheap", "model": "unsure", "accept": accept}, {"name": "dear", "model": "paid"}]
    return {"policy": {"kind": "cascade", "retries": 0}, "tiers": tiers, **more}


def attempts(server: Server, reply: Reply) -> list[dict[str, Any]]:
    wanted = reply.headers["servery-record-id"]
    ((told,),) = server.await_records(f"select attempts from records where id = x'{wanted}'", 1)
    return json.loads(told)


MONEY = {"usd_per_day": 0.0033}  # one top-up of $0.002, and some cheap answers of $0.0002
TOP_UPS = {
    "by the tenant": ("budget_spent", MONEY),
    "by the key": ("budget_spent", MONEY),
    "by the route": ("budget_spent", MONEY),
    "by the model": ("budget_spent", {"usd_per_day": 0.0025}),
    "by the model's rate": ("rate_limited", {"requests_per_minute": 1}),
}


@pytest.fixture(scope="module")
def cascades(vendor: FakeVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For each case a tenant, a route and a dear model of its own, one of which has a limit."""
    models: dict[str, Any] = {"unsure": paid(vendor, "unsure?sure=0.55&tokens=2")}
    routes: dict[str, Any] = {}
    tenants: dict[str, Any] = {}
    for case, (_, limits) in TOP_UPS.items():
        for stream in (False, True):
            name = f"{case} {stream}"
            dear: dict[str, Any] = limits if "model" in case else {}
            models[f"dear {name}"] = paid(vendor, **dear)
            route = top_up(limits=limits if "route" in case else {})
            route["tiers"][1]["model"] = f"dear {name}"
            routes[name] = route
            keys = [key(name, **(limits if "key" in case else {}))]
            tenants[name] = {"keys": keys, "limits": limits if "tenant" in case else {}}
    with Server(tmp_path_factory.mktemp("top-ups"), {"models": models, "routes": routes, "tenants": tenants}) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", TOP_UPS)
def test_a_top_up_that_is_refused_leaves_the_best_so_far(cascades: Server, case: str, stream: bool) -> None:
    """The cheap answer is given, and marked, in the reply and in the Record."""
    server, name, (reason, _) = cascades, f"{case} {stream}", TOP_UPS[case]
    assert chat(server, "unsure", "by the route False").status == 200  # what it writes is known to be short
    first, second = (chat(server, name, name, stream) for _ in range(2))
    assert (first.status, first.headers["servery-tier"]) == (200, "dear"), first.body
    assert "servery-degraded" not in first.headers
    assert (second.status, second.headers["servery-tier"]) == (200, "cheap"), second.body
    assert second.headers["servery-degraded"] == reason
    cheap, dear = attempts(server, second)
    assert (cheap["outcome"], cheap["answered"]) == ("served", 1)
    assert (dear["outcome"], dear["reason"], dear["pico_usd"], dear["answered"]) == ("refused", reason, 0, 0)
    wanted = second.headers["servery-record-id"]
    told = server.await_records(f"select outcome, reason, degraded from records where id = x'{wanted}'", 1)
    assert told == [("served", "", reason)]


def test_a_top_up_of_rows_too(tmp_path: Path) -> None:
    with Server(tmp_path / "s", by_tensors(tmp_path, requests_per_minute=2)) as server:
        replies = [infer(server, "top up") for _ in range(4)]
        assert [reply.headers["servery-tier"] for reply in replies] == ["dear"] * 2 + ["cheap"] * 2
        assert [reply.headers.get("servery-degraded", "") for reply in replies] == [""] * 2 + ["rate_limited"] * 2


def test_so_many_at_once_in_a_worker(tmp_path: Path) -> None:
    manifest, once = by_tensors(tmp_path), {"concurrency_per_worker": 1}
    manifest["tenants"]["acme"]["keys"][0] = key("one", **once)
    manifest["routes"]["slowly"]["limits"] = once
    manifest["models"]["slow too"] = {**manifest["models"]["slow"], "limits": once}
    with Server(tmp_path / "s", manifest) as server:
        for whose, name, who in (("key", "slow", "one"), ("route", "slowly", "two"), ("model", "slow too", "two")):
            with ThreadPoolExecutor(3) as pool:
                asked = [pool.submit(infer, server, name, who, 400) for _ in range(3)]
                replies = sorted((one.result() for one in asked), key=lambda reply: reply.status)
            assert [reply.status for reply in replies] == [200, 429, 429], replies
            assert f"this {whose}'s concurrency_per_worker is 1" in replies[1].error
            assert replies[1].headers["retry-after"] == "1"
            assert infer(server, name, who).status == 200


def test_texts_at_once_and_those_who_leave(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = in_text(vendor)
    manifest["models"]["late"] = paid(vendor, "late?tokens=2&latency_ms=400", concurrency_per_worker=2)
    tiers = [{"name": "late", "model": "late"}, {"name": "free", "model": "canned"}]
    manifest["routes"]["late or free"] = {"tiers": tiers, "limits": {"concurrency_per_worker": 4}}
    with Server(tmp_path / "s", manifest) as server:
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(chat, server, "late or free") for _ in range(4)]
            tiers_ = Counter(one.result().headers["servery-tier"] for one in asked)
        assert tiers_ == {"late": 2, "free": 2}
        for _ in range(6):  # callers who leave, and leave nothing behind
            body = json.dumps({"model": "late or free", "messages": [{"role": "user", "content": "x"}]}).encode()
            with server.connect() as line:
                line.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: s\r\nx-api-key: one\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(body), body)
                )
        server.await_records("SELECT id FROM records", 10)
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(chat, server, "late or free") for _ in range(2)]
            assert [one.result().headers["servery-tier"] for one in asked] == ["late"] * 2


def test_what_is_only_observed_refuses_nobody_and_is_told(vendor: FakeVendor, tmp_path: Path) -> None:
    limits = {"requests_per_minute": 2, "usd_per_day": 0.0041, "mode": "observe"}
    manifest = in_text(vendor, limits, **limits)
    manifest["models"]["slow"] = {"runtime": "onnx", "artifact": str(artifacts.slow(tmp_path / "slow.onnx"))}
    once = {"concurrency_per_worker": 1, "mode": "observe"}
    manifest["routes"]["slowly"] = {"tiers": [{"name": "only", "model": "slow"}], "limits": once}
    manifest["tenants"]["acme"]["keys"][1] = key("two", tokens_per_minute=1, mode="observe")
    with Server(tmp_path / "s", manifest) as server:
        assert [chat(server).headers["servery-tier"] for _ in range(5)] == ["dear"] * 5
        assert chat(server, who="two").status == 200
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(infer, server, "slowly", "one", 200) for _ in range(3)]
            assert [one.result().status for one in asked] == [200] * 3
        assert server.stop() == 0
        (line,) = [line for line in server.written().splitlines() if "only observed would have refused" in line]
        for told in (
            "acme: requests_per_minute 7", "route chat: requests_per_minute 4", "route slowly: concurrency_per_worker 2",
            "acme: dollars a day 7", "route chat: dollars a day 4", "key acme two: tokens a minute 1",
        ):  # fmt: skip
            assert told in line, (told, line)


def test_a_limit_that_changes_keeps_what_was_counted(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = in_text(vendor, {"requests_per_minute": 3})
    with Server(tmp_path / "s", manifest) as server:
        assert [chat(server).status for _ in range(4)] == [200] * 3 + [429]
        written = json.loads(server.manifest.read_text())
        written["routes"]["chat"]["limits"] = {"requests_per_minute": 5}
        server.manifest.write_text(json.dumps(written))
        done = apply(server)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [chat(server).status for _ in range(3)] == [200] * 2 + [429]
        written["counters"] = {"on_unavailable": "refuse"}
        server.manifest.write_text(json.dumps(written))
        done = apply(server)
        assert "counters.on_unavailable: it is local_share now and can't become refuse" in done.stdout + done.stderr

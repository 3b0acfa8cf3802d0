"""Language models that are asked again: where an answer is unsure, where a call failed, and where one takes too long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fake_vendor import FakeVendor
from server import Reply, Server

pytestmark = pytest.mark.timeout(120)

PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


def asked(vendor: FakeVendor, serves: str, **more: Any) -> dict[str, Any]:
    return {"runtime": "openai", "endpoint": vendor.url, "serves": serves, "price": PRICE, **more}


def cascade(first: str, check: str, confidence: float, last: str = "big", **more: Any) -> dict[str, Any]:
    accept = {"check": check, "confidence": confidence}
    tiers = [{"name": "cheap", "model": first, "accept": accept}, {"name": "dear", "model": last}]
    return {"policy": {"kind": "cascade", "retries": 0}, "tiers": tiers, **more}


def manifest(vendor: FakeVendor) -> dict[str, Any]:
    several = [{"url": "http://127.0.0.1:9/v1"}, {"url": vendor.url}]
    models = {
        "sure": asked(vendor, "sure?sure=0.95&tokens=6"),
        "unsure": asked(vendor, "unsure?sure=0.55&tokens=6"),
        "big": asked(vendor, "big?tokens=9"),
        "doubts": asked(vendor, "doubts?sure=0.55&tokens=6"),
        "untried": asked(vendor, "untried"),  # at first 256 tokens are expected: $0.000517
        "json": asked(vendor, 'json?says={"city":"Rome"}'),
        "wrong": asked(vendor, 'wrong?says={"town":"Rome"}'),
        "same": asked(vendor, "same?says=It is 42."),
        "various": asked(vendor, "various?tokens=12"),
        "broken": asked(vendor, "broken?fault=500"),
        "shaky": asked(vendor, "shaky?fault=hangup&chance=0.5&tokens=4"),
        "spread": {"runtime": "openai", "endpoints": several, "serves": "spread?tokens=4", "price": PRICE},
        "tail": asked(vendor, "tail?tokens=4&latency_ms=800&spread=exponential"),
    }
    routes = {
        "by logprob": cascade("sure", "logprob", 0.9),
        "by logprob, unsure": cascade("unsure", "logprob", 0.9),
        "by margin": cascade("sure", "margin", 0.85),
        "by margin, unsure": cascade("unsure", "margin", 0.85),
        "by schema": cascade("json", "json_schema", 1),
        "by schema, unsure": cascade("wrong", "json_schema", 1),
        "by agreement": cascade("same", "agreement", 0.9),
        "by agreement, unsure": cascade("various", "agreement", 0.9),
        "no better": cascade("unsure", "logprob", 0.9, "broken"),
        "too dear": cascade("doubts", "logprob", 0.9, "untried", ceiling={"max_usd_per_inference": 0.00052}),
        "again": {"policy": {"retries": 5}, "tiers": [{"name": "only", "model": "shaky"}]},
        "hedged": {
            "policy": {"retries": 0, "hedge": {"after_ms": 100, "share": 1}},
            "tiers": [{"name": "only", "model": "tail"}],
        },
    }
    return {"models": models, "routes": routes}


@pytest.fixture(scope="module")
def server(vendor: FakeVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("cascade"), manifest(vendor)) as server:
        yield server


def chat(server: Server, model: str, stream: bool = False, **more: Any) -> Reply:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    return server.ask("POST", "/v1/chat/completions", json.dumps(body))


def attempts(server: Server, reply: Reply) -> list[dict[str, Any]]:
    wanted = reply.headers["servery-record-id"]
    ((told,),) = server.await_records(f"select attempts from records where id = x'{wanted}'", 1)
    return json.loads(told)


def parts(reply: Reply) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in reply.body.split(b"\n\n") if line]
    assert lines[-1] == b"[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("check", ["logprob", "margin", "schema", "agreement"])
def test_a_sure_answer_stands_and_an_unsure_one_is_anothers_turn(server: Server, check: str, stream: bool) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    more = {"response_format": wanted} if check == "schema" else {}
    twice = check == "agreement"
    reply = chat(server, f"by {check}", stream, **more)
    assert (reply.status, reply.headers["servery-tier"]) == (200, "cheap"), reply.body
    roles = [attempt["role"] for attempt in attempts(server, reply)]
    assert roles == (["serve", "check"] if twice else ["serve"])
    assert attempts(server, reply)[0]["answered"] == 1
    reply = chat(server, f"by {check}, unsure", stream, **more)
    assert (reply.status, reply.headers["servery-tier"]) == (200, "dear"), reply.body
    made = attempts(server, reply)
    assert [attempt["role"] for attempt in made] == (["serve", "check", "serve"] if twice else ["serve", "serve"])
    assert [attempt["answered"] for attempt in made] == [0] * (len(made) - 1) + [1]
    assert all(attempt["pico_usd"] > 0 for attempt in made)
    if stream:
        assert {part["model"] for part in parts(reply)} == {"big-2026"}


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_looked_at_is_shown_only_to_those_who_asked(server: Server, stream: bool) -> None:
    for asks in (False, True):
        reply = chat(server, "by logprob", stream, **({"logprobs": True} if asks else {}))
        choices = [part["choices"][0] for part in parts(reply) if part["choices"]] if stream else reply.json["choices"]
        assert any(choice["logprobs"] for choice in choices) is asks


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "why"), [("no better", "model_failed"), ("too dear", "budget_spent")])
def test_without_a_better_one_the_unsure_answer_is_told_as_such(
    server: Server, route: str, why: str, stream: bool
) -> None:
    reply = chat(server, route, stream)
    assert (reply.status, reply.headers["servery-tier"]) == (200, "cheap"), reply.body
    assert reply.headers["servery-degraded"] == why
    wanted = reply.headers["servery-record-id"]
    ((outcome, degraded),) = server.await_records(f"select outcome, degraded from records where id = x'{wanted}'", 1)
    assert (outcome, degraded) == ("served", why)


def test_what_failed_is_asked_again(server: Server) -> None:
    replies = [chat(server, "again", stream=bool(number % 2)) for number in range(6)]
    assert {reply.status for reply in replies} == {200}
    roles = [[attempt["role"] for attempt in attempts(server, reply)] for reply in replies]
    assert all(set(made[1:]) <= {"retry"} for made in roles)
    assert any(len(made) > 1 for made in roles)


def test_of_two_endpoints_the_one_that_is_there_answers(server: Server, vendor: FakeVendor) -> None:
    before = len(vendor.invoice())
    replies = [chat(server, "spread", stream=bool(number % 2)) for number in range(12)]
    assert {reply.status for reply in replies} == {200}
    assert len(vendor.invoice()) > before


def test_a_slow_call_gets_another_beside_it_and_the_first_to_answer_is_heard(
    server: Server, vendor: FakeVendor
) -> None:
    for _ in range(3):  # a share of what is spent without them
        chat(server, "tail")
    hedged = 0
    for number in range(6):
        reply = chat(server, "hedged", stream=bool(number % 2))
        assert reply.status == 200
        made = attempts(server, reply)
        assert sum(attempt["answered"] for attempt in made) == 1
        if len(made) == 2:
            hedged += 1
            assert sorted(attempt["role"] for attempt in made) == ["hedge", "serve"]
            assert sorted(attempt["outcome"] for attempt in made) == ["abandoned", "served"]
            (lost,) = (attempt for attempt in made if attempt["outcome"] == "abandoned")
            assert lost["estimated"]
            assert lost["pico_usd"] > 0
    assert hedged

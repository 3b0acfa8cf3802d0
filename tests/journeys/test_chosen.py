"""Static routes of a running server: who answers by subscription, header and parameter, and who stands in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import artifacts
from calling import ask, call, channel_to, tensor
from server import Server
from server import tensor as json_tensor
from servery.wire.proto import open_inference_grpc_pb2 as pb

KEYS = {name: f"key of {name}" for name in ("gold", "silver", "bronze")}
HASHES = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
ROW = [0.1, 0.2, 0.3, 0.4]
TIERS = ("cheap", "mid", "premium")


def tiers(**instead: str) -> list[dict[str, str]]:
    return [{"name": name, "model": instead.get(name, name)} for name in TIERS]


def static(by: str, choose: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"kind": "static", "by": by, "choose": choose, **more}


def declare(folder: Path) -> dict[str, Any]:
    models = {
        name: {"runtime": "onnx", "artifact": str(artifacts.classifier(folder / f"{name}.onnx", 4, seed=at))}
        for at, name in enumerate(TIERS)
    }
    models["absent"] = {"runtime": "onnx", "artifact": str(folder / "absent.onnx")}
    by_header = static("header", {"best": "premium", "fair": "mid"}, name="X-Quality")
    by_parameter = static("parameter", {"best": "premium", "2": "mid", "true": "premium"}, name="quality")
    broken = tiers(premium="absent")
    return {
        "models": models,
        "routes": {
            "by-subscription": {
                "policy": static("subscription", {"gold": "premium", "silver": "mid"}, default="cheap"),
                "tiers": tiers(),
            },
            "by-header": {"policy": by_header, "tiers": tiers()},
            "by-parameter": {"policy": {**by_parameter, "default": "mid"}, "tiers": tiers()},
            "in-order": {"policy": {**by_header, "fallback": ["mid", "cheap"]}, "tiers": broken},
            "as-declared": {"policy": by_header, "tiers": broken},
            "alone": {"policy": {**by_header, "fallback": []}, "tiers": broken},
        },
        "tenants": {
            name: {"subscription": name, "keys": [{"id": "k1", "sha256": sha256}]} for name, sha256 in HASHES.items()
        },
        "server": {"grpc_port": 0},
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("static")
    with Server(folder, declare(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server) as opened:
        yield opened


def over_http(server: Server, route: str, key: str, headers: dict[str, str], parameters: dict[str, Any]) -> Any:
    body: dict[str, Any] = {"inputs": [json_tensor("x", "FP32", (1, 4), ROW)]}
    if parameters:
        body["parameters"] = parameters
    return server.infer(route, json.dumps(body).encode(), {"x-api-key": KEYS[key], **headers})


def over_grpc(channel: grpc.Channel, route: str, key: str, headers: dict[str, str], parameters: dict[str, Any]) -> Any:
    message = ask(route, tensor("x", "FP32", (1, 4), "fp32_contents", ROW))
    for name, value in parameters.items():
        kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
        message.parameters[name].CopyFrom(pb.InferParameter(**{kinds[type(value)]: value}))
    metadata = {"x-api-key": KEYS[key], **{name.lower(): value for name, value in headers.items()}}
    return call(channel, "ModelInfer", message, metadata)


CHOSEN = [
    # (route, whose key, headers, parameters, tier, why)
    ("by-subscription", "gold", {}, {}, "premium", "subscription=gold"),
    ("by-subscription", "silver", {}, {}, "mid", "subscription=silver"),
    ("by-subscription", "bronze", {}, {}, "cheap", "subscription:default"),
    ("by-subscription", "bronze", {"x-quality": "best"}, {"quality": "best"}, "cheap", "subscription:default"),
    ("by-header", "bronze", {"X-Quality": "best"}, {}, "premium", "header:x-quality=best"),
    ("by-header", "gold", {"x-quality": "fair"}, {}, "mid", "header:x-quality=fair"),
    ("by-header", "gold", {}, {}, "cheap", "header:x-quality:default"),
    ("by-header", "gold", {"x-quality": "BEST"}, {}, "cheap", "header:x-quality:default"),
    ("by-parameter", "gold", {}, {"quality": "best"}, "premium", "parameter:quality=best"),
    ("by-parameter", "gold", {}, {"quality": 2}, "mid", "parameter:quality=2"),
    ("by-parameter", "gold", {}, {"quality": True, "other": "x"}, "premium", "parameter:quality=true"),
    ("by-parameter", "gold", {}, {"quality": "odd"}, "mid", "parameter:quality:default"),
    ("by-parameter", "gold", {"quality": "best"}, {"other": 1.5}, "mid", "parameter:quality:default"),
]


def told(server: Server, record: str) -> tuple[str, list[dict[str, Any]]]:
    """The outcome of a Record and its Attempts."""
    query = f"SELECT outcome, attempts FROM records WHERE hex(id) = '{record.upper()}'"
    outcome, attempts = server.await_records(query, 1)[0]
    return outcome, json.loads(attempts)


@pytest.mark.parametrize(("route", "key", "headers", "parameters", "tier", "why"), CHOSEN)
def test_a_tier_is_chosen_over_http_and_grpc_alike(
    server: Server,
    channel: grpc.Channel,
    route: str,
    key: str,
    headers: dict[str, str],
    parameters: dict[str, Any],
    tier: str,
    why: str,
) -> None:
    reply = over_http(server, route, key, headers, parameters)
    assert reply.status == 200, reply.body
    ended = over_grpc(channel, route, key, headers, parameters)
    assert ended.code == "OK", ended
    for said in (reply.headers, ended.metadata):
        assert said["servery-tier"] == tier
        outcome, (attempt,) = told(server, said["servery-record-id"])
        assert (outcome, attempt["tier"], attempt["role"]) == ("served", tier, "serve")
        assert attempt["why"] == f"static:{why}"


def test_parameters_that_hold_more_than_a_value_choose_nothing(server: Server) -> None:
    reply = over_http(server, "by-parameter", "gold", {}, {"quality": ["best"]})
    assert (reply.status, reply.headers.get("servery-tier")) in ((200, "mid"), (400, None))


@pytest.mark.parametrize(
    ("route", "asked"),
    [("in-order", ["premium", "mid"]), ("as-declared", ["premium", "cheap"]), ("alone", ["premium"])],
)
def test_where_the_chosen_tier_fails_the_order_says_who_stands_in(
    server: Server, channel: grpc.Channel, route: str, asked: list[str]
) -> None:
    reply = over_http(server, route, "gold", {"x-quality": "best"}, {})
    ended = over_grpc(channel, route, "gold", {"x-quality": "best"}, {})
    if len(asked) == 1:
        assert (reply.status, ended.code) == (503, "UNAVAILABLE")
    else:
        assert (reply.status, ended.code) == (200, "OK")
        assert reply.headers["servery-tier"] == ended.metadata["servery-tier"] == asked[-1]
    for said in (reply.headers, ended.metadata):
        outcome, attempts = told(server, said["servery-record-id"])
        assert outcome == ("served" if len(asked) > 1 else "refused")
        assert [attempt["tier"] for attempt in attempts] == asked
        assert [attempt["role"] for attempt in attempts] == ["serve", "fallback"][: len(asked)]
        assert attempts[0]["reason"] == "model_unavailable"
        assert [attempt.get("why", "") for attempt in attempts] == ["static:header:x-quality=best", ""][: len(asked)]
    healthy = over_http(server, route, "gold", {"x-quality": "fair"}, {})
    assert healthy.headers["servery-tier"] == "mid"

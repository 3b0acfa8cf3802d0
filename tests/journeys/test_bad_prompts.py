"""What a caller may not ask, and what can't be had: told in the API's own form, with a Record where the caller is known."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from fake_vendor import FakeVendor
from server import Reply, Server, split_replies

pytestmark = pytest.mark.timeout(120)

KEY = {"authorization": "Bearer of acme"}
# By path: a prompt that is fine, without its model.
FORMS: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
    "completions": {"prompt": "hi"},
    "embeddings": {"input": "hi"},
    "responses": {"input": "hi"},
    "moderations": {"input": "hi"},
    "messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
TOOL = {"type": "function", "function": {"name": "weather"}}
IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]


def manifest(vendor: FakeVendor) -> dict[str, Any]:
    def at(runtime: str, **more: Any) -> dict[str, Any]:
        told = {"runtime": runtime, "endpoint": vendor.url, "serves": "x?tokens=5", "expose": True}
        return {**told, "price": {"usd_per_1m_input": 1, "usd_per_1m_output": 2}, **more}

    offers = {"offers": ["responses", "moderations"]}
    models = {
        "gpt": at("openai", **offers),
        "abroad": at("openai", region="moon", **offers),
        "short": at("openai", context_window=50),
        "shorter": at("openai", context_window=40, lacks=["tools", "images"]),
        "claude": at("anthropic"),
        "slow": at("openai", serves="x?latency_ms=3000"),
    }
    key = hashlib.sha256(b"of acme").hexdigest()
    pair = [{"name": "a", "model": "short"}, {"name": "b", "model": "shorter"}]
    return {
        "models": models,
        "routes": {"pair": {"tiers": pair}},
        "tenants": {"acme": {"keys": [{"id": "k1", "sha256": key}], "regions": ["local"]}},
        "server": {"max_body_mb": 2},
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prompts")
    with FakeVendor(folder) as vendor, Server(folder / "s", manifest(vendor)) as running:
        yield running
    assert "Traceback" not in running.written(), running.written()[-3000:]


def ask(server: Server, path: str, called: Any, **more: Any) -> Reply:
    return server.ask("POST", f"/v1/{path}", json.dumps({"model": called, **FORMS[path], **more}), KEY)


def told(reply: Reply, path: str) -> tuple[str, str]:
    """The reason and the words of an error in its API's form."""
    if path.startswith("messages"):
        assert reply.json["type"] == "error", reply
    error = reply.json["error"]
    return error["code"], error["message"]


def outcome(server: Server, reply: Reply) -> tuple[str, str]:
    wanted = reply.headers["servery-record-id"]
    ((outcome, reason),) = server.await_records(f"select outcome, reason from records where id = x'{wanted}'", 1)
    return outcome, reason


@pytest.mark.parametrize("path", FORMS)
def test_every_path_refuses_whom_and_what_it_doesnt_know(server: Server, path: str) -> None:
    assert ask(server, path, "gpt").status == 200
    reply = ask(server, path, "nobody")
    assert (reply.status, told(reply, path)[0]) == (404, "not_found")
    body = json.dumps({"model": "gpt", **FORMS[path]})
    for key in ({}, {"authorization": "Bearer of nobody"}, {"x-api-key": ""}):
        reply = server.ask("POST", f"/v1/{path}", body, key)
        assert (reply.status, told(reply, path)[0]) == (401, "unauthenticated")
        assert "servery-record-id" not in reply.headers
    for broken in (
        b"",
        b"null",
        b"[]",
        b'"x"',
        body[:-1].encode(),
        body.encode()[:-1] + b', "x": "\xff"}',
        b"[" * 100_000,
    ):
        reply = server.ask("POST", f"/v1/{path}", broken, KEY)
        assert (reply.status, told(reply, path)[0]) == (400, "invalid_request"), (broken[:40], reply)


@pytest.mark.parametrize("path", FORMS)
def test_data_that_may_not_flow_there_doesnt(server: Server, path: str) -> None:
    reply = ask(server, path, "abroad")
    assert (reply.status, told(reply, path)[0]) == (403, "no_candidate")
    if not path.endswith("count_tokens"):
        assert outcome(server, reply) == ("refused", "no_candidate")


@pytest.mark.parametrize("path", FORMS)
def test_a_prompt_longer_than_a_body_may_be_is_too_large(server: Server, path: str) -> None:
    body = json.dumps({"model": "gpt", **FORMS[path], "metadata": {"x": "y" * (2 << 20)}}).encode()
    chunks = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for rest in (b"content-length: %d\r\n\r\n%b" % (len(body), body), chunks):
        head = f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\nx-api-key: of acme\r\n"
        (reply,) = split_replies(server.raw(head.encode() + rest))
        code, words = told(reply, path)
        assert (reply.status, code, "max_body_mb" in words) == (413, "too_large", True)


def test_a_context_too_long_for_every_tier_names_each(server: Server) -> None:
    for path, stream in itertools.product(("chat/completions", "messages"), (False, True)):
        said = [{"role": "user", "content": "word " * 100}]
        reply = ask(server, path, "pair", messages=said, stream=stream)
        code, words = told(reply, path)
        assert (reply.status, code) == (400, "not_capable")
        assert "'a'" in words
        assert "'b'" in words
        assert "long" in words, words
        assert outcome(server, reply) == ("refused", "not_capable")
    reply = ask(server, "chat/completions", "pair", max_tokens=45)
    assert reply.headers["servery-tier"] == "a"
    reply = ask(server, "chat/completions", "pair", max_tokens=10**30)
    assert reply.status == 400


# What contradicts itself or what is asked of, and a piece of what is said of it; None: the vendor decides.
OPTIONS: list[tuple[str, str, dict[str, Any], str | None]] = [
    ("chat/completions", "gpt", {"max_tokens": 5, "max_completion_tokens": 9}, None),
    ("chat/completions", "gpt", {"stream_options": {"include_usage": True}}, None),
    ("chat/completions", "gpt", {"stream": True, "stream_options": {"include_usage": False}}, None),
    ("chat/completions", "gpt", {"stream": True, "stream_options": []}, "stream_options"),
    ("chat/completions", "gpt", {"tool_choice": "required"}, None),
    ("chat/completions", "gpt", {"tools": [TOOL], "functions": [{"name": "f"}]}, None),
    ("chat/completions", "gpt", {"logprobs": False, "top_logprobs": 5}, None),
    ("chat/completions", "gpt", {"max_tokens": 0}, None),
    ("chat/completions", "gpt", {"max_tokens": -5}, None),
    ("chat/completions", "gpt", {"max_tokens": 10**30}, None),
    ("chat/completions", "gpt", {"max_tokens": 1.5}, "max_tokens"),
    ("chat/completions", "gpt", {"max_tokens": "9"}, "max_tokens"),
    ("chat/completions", "gpt", {"stream": "yes"}, "stream"),
    ("chat/completions", "gpt", {"response_format": "json"}, "response_format"),
    ("chat/completions", "shorter", {"tools": [TOOL], "response_format": SCHEMA}, "tools"),
    ("chat/completions", "shorter", {"messages": [{"role": "user", "content": IMAGE}]}, "images"),
    ("chat/completions", "claude", {"n": 2}, "n"),
    ("chat/completions", "claude", {"seed": 5, "logit_bias": {"5": 1}}, "logit_bias"),
    ("chat/completions", "claude", {"logprobs": True}, "log-prob"),
    ("chat/completions", "claude", {"tool_choice": {"type": "odd"}, "tools": [TOOL]}, "tool_choice"),
    ("chat/completions", "claude", {"messages": [{"role": "odd", "content": "x"}]}, "messages[0].role"),
    ("chat/completions", "claude", {"messages": [{"role": "tool", "content": "x"}]}, None),
    ("chat/completions", "claude", {"temperature": 2}, "temperature"),
    ("chat/completions", "claude", {"max_tokens": -5}, None),
    ("completions", "claude", {}, "completions"),
    ("embeddings", "gpt", {"stream": True}, "stream"),
    ("embeddings", "claude", {}, "embeddings"),
    ("moderations", "gpt", {"stream": True}, "stream"),
    ("messages", "gpt", {"max_tokens": 0}, "max_tokens"),
    ("messages", "gpt", {"max_tokens": None}, "max_tokens"),
    ("messages", "gpt", {"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking"),
    ("messages", "gpt", {"tool_choice": {"type": "any"}}, None),
    ("messages", "gpt", {"messages": [{"role": "user", "content": [{"type": "odd"}]}]}, "messages[0].content[0]"),
    ("messages", "gpt", {"system": 5}, "system"),
    ("messages", "claude", {"stop_sequences": "x", "temperature": "hot"}, None),
    ("messages/count_tokens", "gpt", {"messages": []}, "messages"),
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option[0]} {option[1]} {option[2]}"[:70])
def test_options_that_contradict_each_other(
    server: Server, option: tuple[str, str, dict[str, Any], str | None]
) -> None:
    path, model, fields, piece = option
    reply = ask(server, path, model, **fields)
    if piece is None:
        assert reply.status == 200, reply
        return
    code, words = told(reply, path)
    assert (reply.status, code in ("invalid_request", "not_capable")) == (400, True), reply
    assert piece in words, words


@pytest.mark.parametrize("timeout", ["0", "-1", "soon", "1e9", "9" * 400, ""])
def test_a_deadline_that_is_none(server: Server, timeout: str) -> None:
    body = json.dumps({"model": "slow", **FORMS["messages"]})
    reply = server.ask("POST", "/v1/messages", body, {**KEY, "servery-timeout-ms": timeout})
    assert reply.status in (200, 400, 504), reply

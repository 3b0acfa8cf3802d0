"""Language models through real clients: whole answers and streams, fail-over up to the commit point, and the books."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from fake_vendor import FakeVendor
from living import until
from server import Reply, Server

pytestmark = pytest.mark.timeout(120)

PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2, "usd_per_1m_cached": 0.25, "usd_per_1m_reasoning": 3}
SECRET = "sk-of-the-vendor-0123456789"
FAULTS = ("429", "500", "503", "401", "cut:80", "stall:0", "hangup")
STREAM_FAULTS = ("bad:0", "error:0")
WHOLE_FAULTS = ("html", "length", "unfinished")
EVERY = (*FAULTS, *STREAM_FAULTS, *WHOLE_FAULTS)
LATE = ("cut:900", "stall:5", "bad:5", "error:5", "unfinished")


def asked(vendor: FakeVendor, serves: str, **more: Any) -> dict[str, Any]:
    return {
        "runtime": "openai",
        "endpoint": vendor.url,
        "serves": serves,
        "price": PRICE,
        "credentials": {"env": "SERVERY_TEST_SECRET"},
        **more,
    }


def route(*models: str, **more: Any) -> dict[str, Any]:
    more["policy"] = {"retries": 0, **more.get("policy", {})}
    return {"tiers": [{"name": f"t-{model}", "model": model} for model in models], **more}


def manifest(vendor: FakeVendor) -> dict[str, Any]:
    models: dict[str, Any] = {
        "small": asked(vendor, "small?tokens=6", context_window=2000, lacks=["tools", "json_schema"]),
        "big": asked(vendor, "big?tokens=9&cached=5&reasoning=3"),
        "caller": asked(vendor, "caller?calls=weather"),
        "parser": asked(vendor, 'parser?says={"city":"Rome","days":3}'),
        "silent": asked(vendor, "silent?usage=none&tokens=40"),
        "liar": asked(vendor, "liar?usage=wrong&tokens=40"),
        "undone": asked(vendor, "undone?done=false&tokens=6"),
        "slow": asked(vendor, "slow?latency_ms=3000"),
        "late": asked(vendor, "late?latency_ms=3000", first_token_ms=150),
        "endless": asked(vendor, "endless?tokens=100000&gap_ms=20"),
        "canned": {"runtime": "heuristic", "replies": [{"pattern": "(?i)opening hours", "reply": "Nine to five."}]},
        "nowhere": asked(vendor, "x", endpoint="http://127.0.0.1:9/v1"),
        "abroad": asked(vendor, "abroad", region="moon"),
    }
    models |= {f"fault {fault}": asked(vendor, f"faulty?fault={fault}", first_token_ms=400) for fault in EVERY}
    models |= {f"late {fault}": asked(vendor, f"faulty?tokens=30&fault={fault}") for fault in LATE}
    routes: dict[str, Any] = {
        "chat": route("small", "big", policy={"kind": "complexity", "thresholds": [0.4]}),
        "help": route("canned", "small"),
        "curious": route(
            "small", "big", "undone", policy={"kind": "complexity", "thresholds": [0.4, 0.9], "explore": 0.5}
        ),
        "chosen": route(
            "small", "big", policy={"kind": "static", "by": "header", "name": "x-q", "choose": {"best": "t-big"}}
        ),
        "first": route("late", "nowhere", "small"),
        "alone": route("nowhere"),
        "hurried": route("slow", deadline_ms=300),
        "frugal": route("big", ceiling={"max_usd_per_inference": 0.0006}),
    }
    routes |= {f"over {fault}": route(f"fault {fault}", "big", deadline_ms=5000) for fault in EVERY}
    routes |= {f"after {fault}": route(f"late {fault}", "big", deadline_ms=1500) for fault in LATE}
    key = hashlib.sha256(b"of acme").hexdigest()
    tenants = {"acme": {"keys": [{"id": "k1", "sha256": key}], "regions": ["local"]}}
    models = {name: {"expose": True, **model} for name, model in models.items()}
    return {"models": models, "routes": routes, "tenants": tenants}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor"), "--key", SECRET) as vendor:
        yield vendor


@pytest.fixture(scope="module")
def server(vendor: FakeVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVERY_TEST_SECRET", SECRET)
        with Server(tmp_path_factory.mktemp("chat"), manifest(vendor)) as server:
            yield server
    assert SECRET not in server.written()
    for path in server.data.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="of acme", max_retries=0)


def said(text: str = "hi") -> list[Any]:
    return [{"role": "user", "content": text}]


def chat(server: Server, model: str, text: str = "hi", **more: Any) -> Reply:
    body = json.dumps({"model": model, "messages": said(text), **more})
    return server.ask("POST", "/v1/chat/completions", body, {"authorization": "Bearer of acme"})


def record(server: Server, reply: Reply) -> tuple[str, str, int, list[dict[str, Any]]]:
    """Outcome, reason, pico-dollars and Attempts of the Record of a reply."""
    wanted = reply.headers["servery-record-id"]
    query = f"select outcome, reason, pico_usd, attempts from records where id = x'{wanted}'"
    ((outcome, reason, pico, attempts),) = server.await_records(query, 1)
    return outcome, reason, pico, json.loads(attempts)


def events(reply: Reply) -> list[Any]:
    lines = [line.removeprefix(b"data: ") for line in reply.body.split(b"\n\n") if line]
    return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]


def test_the_openai_client_gets_an_answer_and_its_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="big", messages=said())
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    text = client.completions.create(model="small", prompt="once upon")
    assert text.choices[0].text
    vectors = client.embeddings.create(model="small", input=["a", "b"], encoding_format="float")
    assert [len(one.embedding) for one in vectors.data] == [3, 3]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stream_tells_its_usage_only_to_those_who_ask(client: openai.OpenAI, wanted: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if wanted else {}
    chunks = list(client.chat.completions.create(model="big", messages=said(), stream=True, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == ([12] if wanted else [])
    assert [bool(chunk.choices) for chunk in chunks].count(False) == wanted


def test_tools_schemas_and_models_work_with_the_openai_client(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    answer = client.chat.completions.create(model="caller", messages=said(), tools=[tool])
    assert answer.choices[0].finish_reason == "tool_calls"
    chunks = client.chat.completions.create(model="caller", messages=said(), tools=[tool], stream=True)
    assert any(chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices)

    class Trip(BaseModel):
        city: str
        days: int

    parsed = client.chat.completions.parse(model="parser", messages=said(), response_format=Trip)
    assert parsed.choices[0].message.parsed == Trip(city="Rome", days=3)
    names = [model.id for model in client.models.list()]
    assert {"chat", "small", "canned"} <= set(names)
    assert client.models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_record_holds_the_vendors_tokens_and_their_price(server: Server) -> None:
    for stream in (False, True):
        reply = chat(server, "big", stream=stream)
        outcome, _, pico, (attempt,) = record(server, reply)
        tokens = attempt["tokens"]
        assert (outcome, attempt["answered_as"]) == ("served", "big-2026")
        assert (tokens["output"], tokens["cached"], tokens["reasoning"]) == (12, 5, 3)
        plain = tokens["input"] - 5
        assert pico == attempt["pico_usd"] == plain * 10**6 + 5 * 250_000 + 9 * 2 * 10**6 + 3 * 3 * 10**6
        assert "estimated" not in attempt
        assert 0 < attempt["first_ns"] <= attempt["busy_ns"]


@pytest.mark.parametrize("model", ["silent", "liar"])
@pytest.mark.parametrize("stream", [False, True])
def test_where_a_vendor_is_silent_tokens_are_estimated_and_never_nothing(
    server: Server, model: str, stream: bool
) -> None:
    outcome, _, pico, (attempt,) = record(server, chat(server, model, "a" * 400, stream=stream))
    assert (outcome, attempt["estimated"]) == ("served", True)
    assert attempt["tokens"]["input"] >= 50
    assert attempt["tokens"]["output"] >= 10
    assert pico > 0


@pytest.mark.parametrize("fault", [*(fault for fault in FAULTS if fault != "stall:0"), *WHOLE_FAULTS])
def test_a_fault_before_a_whole_answer_is_anothers_turn(server: Server, fault: str) -> None:
    _fails_over(server, fault, chat(server, f"over {fault}"))


@pytest.mark.parametrize("fault", [*FAULTS, *STREAM_FAULTS])
def test_a_fault_before_the_first_word_is_anothers_turn(server: Server, fault: str) -> None:
    reply = chat(server, f"over {fault}", stream=True)
    _fails_over(server, fault, reply)
    assert events(reply)[-1] == "[DONE]"
    assert {event["model"] for event in events(reply)[:-1]} == {"big-2026"}


def _fails_over(server: Server, fault: str, reply: Reply) -> None:
    assert reply.status == 200, reply.body
    assert reply.headers["servery-tier"] == "t-big"
    outcome, _, pico, (first, second) = record(server, reply)
    assert (outcome, first["outcome"] in ("failed", "refused"), second["outcome"]) == ("served", True, "served")
    assert second["role"] == "fallback"
    assert pico == first["pico_usd"] + second["pico_usd"]
    billed = not fault.isdigit()  # a refusal costs nothing; what was cut off may have been billed
    assert (first["pico_usd"] > 0, first.get("estimated", False)) == (billed, billed), first


@pytest.mark.parametrize("fault", LATE)
def test_after_the_first_word_a_fault_ends_the_stream_in_an_error(
    server: Server, client: openai.OpenAI, fault: str
) -> None:
    reply = chat(server, f"after {fault}", stream=True)
    assert reply.status == 200
    *chunks, last = events(reply)
    assert last["error"]["code"] in ("upstream_cut", "wrong_answer", "deadline_exceeded")
    assert chunks
    outcome, reason, _, (attempt,) = record(server, reply)
    assert (outcome, reason, attempt["reason"]) == ("failed", last["error"]["code"], reason)
    assert attempt.get("estimated", False) == (fault != "unfinished")  # there the vendor has told its tokens
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model=f"after {fault}", messages=said(), stream=True))


def test_a_stream_is_complete_without_done(server: Server) -> None:
    reply = chat(server, "undone", stream=True)
    assert events(reply)[-1] == "[DONE]"
    assert record(server, reply)[0] == "served"


def test_a_late_first_word_and_a_closed_port_are_anothers_turn(server: Server) -> None:
    reply = chat(server, "first", stream=True)
    assert reply.headers["servery-tier"] == "t-small"
    _, _, _, (late, nowhere, small) = record(server, reply)
    assert [late["reason"], nowhere["reason"], small["outcome"]] == ["upstream_slow", "upstream_cut", "served"]
    assert late["pico_usd"] > 0
    assert nowhere["pico_usd"] == 0


def test_what_no_tier_can_do_is_told(server: Server) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    reply = chat(server, "small", response_format=schema)
    assert (reply.status, reply.json["error"]["code"]) == (400, "not_capable")
    assert "JSON schema" in reply.json["error"]["message"]
    reply = chat(server, "chat", response_format=schema)
    assert (reply.status, reply.headers["servery-tier"]) == (200, "t-big")
    assert record(server, reply)[3][0]["why"].endswith("without t-small:json_schema")
    reply = chat(server, "small", "word " * 5000)
    assert (reply.status, "too long" in reply.json["error"]["message"]) == (400, True)
    assert chat(server, "frugal", max_tokens=10).status == 200
    reply = chat(server, "frugal", max_tokens=10_000, text="word " * 1000)
    assert (reply.status, "max_usd_per_inference" in reply.json["error"]["message"]) == (400, True)
    reply = chat(server, "abroad")
    assert (reply.status, reply.json["error"]["code"]) == (403, "no_candidate")


def test_a_policy_that_explores_draws_and_says_with_what_chance(server: Server) -> None:
    tool: Any = {"tools": [{"type": "function", "function": {"name": "weather"}}]}
    for _ in range(60):
        chat(server, "curious", **tool)
    rows = server.await_records("select attempts from records where route = 'curious'", 60)
    firsts = [json.loads(attempts)[0] for (attempts,) in rows]
    for first in firsts:
        choice = first["choice"]
        assert choice["candidates"][0]["unfit"] == "tools"
        assert choice["propensity"] == (0.75 if first["tier"] == "t-big" else 0.25)
        assert first["why"].endswith(" without t-small:tools" + (" explored" if choice.get("explored") else ""))
    assert {first["tier"] for first in firsts if first["choice"].get("explored")} == {"t-big", "t-undone"}


def test_a_prompt_goes_where_its_score_its_words_or_its_header_send_it(server: Server) -> None:
    assert chat(server, "chat").headers["servery-tier"] == "t-small"
    hard = chat(server, "chat", "why " * 200)
    assert hard.headers["servery-tier"] == "t-big"
    assert record(server, hard)[3][0]["why"] == "complexity:0.4782"
    choice = record(server, hard)[3][0]["choice"]
    assert (choice["propensity"], choice["score"], choice["thresholds"]) == (1, pytest.approx(0.4782, abs=1e-4), [0.4])
    assert [candidate["tier"] for candidate in choice["candidates"]] == ["t-small", "t-big"]
    assert all(candidate["pico_usd"] > 0 for candidate in choice["candidates"])
    assert "choice" not in record(server, chat(server, "big"))[3][0]
    assert chat(server, "help", "Your OPENING HOURS?").json["choices"][0]["message"]["content"] == "Nine to five."
    assert chat(server, "help").headers["servery-tier"] == "t-small"
    body = json.dumps({"model": "chosen", "messages": said()})
    headers = {"x-api-key": "of acme", "x-q": "best"}
    assert server.ask("POST", "/v1/chat/completions", body, headers).headers["servery-tier"] == "t-big"


@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_holds(server: Server, stream: bool) -> None:
    began = time.monotonic()
    reply = chat(server, "hurried", stream=stream)
    assert time.monotonic() - began < 10
    assert (reply.status, reply.json["error"]["code"]) == (504, "deadline_exceeded")
    _, _, pico, (attempt,) = record(server, reply)
    assert attempt["estimated"]
    assert pico > 0


def test_a_caller_who_leaves_ends_the_call_and_pays_for_what_was_said(server: Server, vendor: FakeVendor) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    body = json.dumps({"model": "endless", "messages": said(), "stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer of acme"})
    reply = connection.getresponse()
    read = reply.read(2000)
    assert b"content" in read
    connection.close()
    wanted = reply.headers["servery-record-id"]
    query = f"select outcome, pico_usd, attempts from records where id = x'{wanted}'"
    ((outcome, pico, attempts),) = server.await_records(query, 1)
    (attempt,) = json.loads(attempts)
    assert (outcome, attempt["outcome"], attempt["estimated"]) == ("abandoned", "abandoned", True)
    assert pico > 0
    until(lambda: _billed_endlessly(vendor)["ended"])
    assert _billed_endlessly(vendor)["completion_tokens"] < 5_000


def _billed_endlessly(vendor: FakeVendor) -> dict[str, Any]:
    (line,) = (line for line in vendor.invoice() if line["model"].startswith("endless"))
    return line


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "no JSON"),
        (b"[]", "object"),
        (b'{"model": "big"', "no JSON"),
        (b'{"model": "big", "messages": []}', "messages"),
        (b'{"model": "big"}', "messages"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "big", "messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
        (b'{"model": "big", "messages": [{"role": "user", "content": "\xff\xfe"}]}', ""),
        (b'{"model": 5, "messages": []}', "model"),
        (b'{"model": "big", "messages": [{"role": "user", "content": "x"}], "stream": "yes"}', "stream"),
    ],
)
def test_what_cant_be_asked_is_400_and_says_where(server: Server, body: bytes, told: str) -> None:
    reply = server.ask("POST", "/v1/chat/completions", body, {"authorization": "Bearer of acme"})
    assert reply.status == 400, reply.body
    assert told in reply.json["error"]["message"]
    assert reply.json["error"]["type"] == "invalid_request_error"


def test_strangers_and_wrong_paths_get_the_vendors_form(server: Server, client: openai.OpenAI) -> None:
    stranger = openai.OpenAI(base_url=client.base_url, api_key="no", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model="big", messages=said())
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=said())
    with pytest.raises(openai.BadRequestError, match="doesn't offer /v1/responses"):
        client.responses.create(model="big", input="x")
    with pytest.raises(openai.APIStatusError) as refused:
        client.responses.retrieve("resp_1")
    assert refused.value.status_code == 501
    assert refused.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIStatusError, match="take it out of the manifest"):
        client.models.delete("big")
    key = {"authorization": "Bearer of acme"}
    assert server.ask("PUT", "/v1/chat/completions", headers=key).status == 405
    assert server.ask("GET", "/v1/chat/completions", headers=key).status == 501
    assert server.ask("GET", "/v1/nothing", headers=key).json["error"]["code"] == "not_found"
    infer = server.ask("POST", "/v2/models/chat/infer", json.dumps({"inputs": []}), key)
    assert (infer.status, "/v1/chat/completions" in infer.error) == (400, True)


def test_the_ledger_is_the_vendors_invoice(server: Server, vendor: FakeVendor) -> None:
    """Where the vendor told the caller its tokens, the Records have exactly those."""
    before = len(vendor.invoice())
    since = time.time_ns()
    count = 0
    for stream in (False, True):
        for model in ("small", "big", "caller", "undone", "chat", "over 500", "first"):
            chat(server, model, "price this", stream=stream)
            count += 1
    rows = server.await_records(f"select attempts from records where at_ns > {since}", count)
    attempts = [attempt for (text,) in rows for attempt in json.loads(text)]
    ours = Counter[str]()
    for attempt in attempts:
        if attempt.get("tokens") and not attempt.get("estimated"):
            ours += Counter(attempt["tokens"])
    lines = [line for line in vendor.invoice()[before:] if line["reported"]]
    theirs = Counter[str]()
    for line in lines:
        parts = {"input": "prompt", "output": "completion", "cached": "cached", "reasoning": "reasoning"}
        theirs += Counter({part: line[f"{name}_tokens"] for part, name in parts.items()})
    assert len(lines) == 14
    assert ours == theirs


def test_an_unloaded_language_model_is_unavailable_until_it_is_loaded(tmp_path: Path) -> None:
    models = {"canned": {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": "Yes."}]}}
    key = {"id": "k", "role": "operator", "sha256": hashlib.sha256(b"op").hexdigest()}
    declared = {"models": models, "routes": {"r": route("canned")}, "tenants": {"t": {"keys": [key]}}}
    headers = {"x-api-key": "op"}
    body = json.dumps({"model": "r", "messages": said()})
    with Server(tmp_path / "s", declared) as server:
        assert server.ask("POST", "/v1/chat/completions", body, headers).status == 200
        assert server.ask("POST", "/v2/repository/models/canned/unload", "{}", headers).status == 200
        reply = server.ask("POST", "/v1/chat/completions", body, headers)
        assert (reply.status, reply.json["error"]["code"]) == (503, "model_unavailable")
        assert server.ask("POST", "/v2/repository/models/canned/load", "{}", headers).status == 200
        assert server.ask("POST", "/v1/chat/completions", body, headers).status == 200


def test_user_code_doesnt_see_the_vendors_secrets(tmp_path: Path, vendor: FakeVendor) -> None:
    (tmp_path / "look.py").write_text(
        "import os\nimport numpy as np\n\n\nclass Look:\n    def predict(self, inputs):\n"
        "        seen = os.environ.get('SERVERY_TEST_SECRET', 'nothing')\n"
        "        return {'y': np.array([seen.encode()] * len(inputs['x']), dtype=object)}\n"
    )
    look = {
        "runtime": "python",
        "artifact": str(tmp_path / "look.py"),
        "class": "Look",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": [-1]}],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVERY_TEST_SECRET", SECRET)
        with Server(tmp_path / "s", {"models": {"look": look, "big": asked(vendor, "big")}}) as server:
            inputs = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
            reply = server.infer("look", inputs)
            assert reply.status == 200, (reply, server.written())
            assert reply.json["outputs"][0]["data"] == ["nothing"]
            assert chat(server, "big").status == 200


def test_a_missing_credential_is_found_by_check_and_makes_one_model_unavailable(
    vendor: FakeVendor, tmp_path: Path
) -> None:
    models = {
        "keyless": asked(vendor, "x", credentials={"env": "SERVERY_NOT_SET"}),
        "big": asked(vendor, "b", credentials=None),
    }
    del models["big"]["credentials"]
    with Server(tmp_path / "s", {"models": models, "routes": {"r": route("keyless", "big")}}) as server:
        assert "SERVERY_NOT_SET" in server.written()
        reply = server.ask("POST", "/v1/chat/completions", json.dumps({"model": "keyless", "messages": said()}))
        assert (reply.status, reply.json["error"]["code"]) == (503, "model_unavailable")
        # The vendor wants a key, which this model doesn't send: its message repeats what was sent, ours doesn't.
        reply = server.ask("POST", "/v1/chat/completions", json.dumps({"model": "big", "messages": said()}))
        assert (reply.status, reply.json["error"]["code"]) == (502, "model_failed")
        assert "Incorrect" not in reply.body.decode()

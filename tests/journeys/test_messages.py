"""Anthropic's API through its real client, and both APIs over endpoints of the other one: answers, streams, faults, books."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from fake_vendor import FakeVendor
from server import Reply, Server

pytestmark = pytest.mark.timeout(120)

PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2, "usd_per_1m_cached": 0.25}
SECRET = "sk-ant-of-the-vendor-0123456789"
FAULTS = ("429", "529", "401", "hangup", "cut:300", "stall:0", "bad:0", "error:0")
LATE = ("cut:900", "bad:5", "error:5", "unfinished")
TOOL: Any = {"name": "weather", "input_schema": {"type": "object"}}
SAID: Any = [{"role": "user", "content": "hi"}]


def manifest(vendor: FakeVendor) -> dict[str, Any]:
    def at(runtime: str, serves: str, **more: Any) -> dict[str, Any]:
        told = {"runtime": runtime, "endpoint": vendor.url, "serves": serves, "price": PRICE}
        return {**told, "credentials": {"env": "SERVERY_TEST_SECRET"}, **more}

    models: dict[str, Any] = {
        "claude": at("anthropic", "claude?tokens=9&cached=5"),
        "claude tool": at("anthropic", "claude?calls=weather"),
        "claude json": at("anthropic", 'claude?says={"city":"Rome","days":3}'),
        "claude lax": at("anthropic", "claude", drop_unsupported=True),
        "claude mute": at("anthropic", "claude?usage=none&tokens=40"),
        "gpt": at("openai", "gpt?tokens=9&cached=5", offers=["responses", "moderations"]),
        "gpt tool": at("openai", "gpt?calls=weather"),
        "canned": {"runtime": "heuristic", "replies": [{"pattern": "hours", "reply": "Nine to five."}]},
    }
    models |= {f"fault {fault}": at("anthropic", f"faulty?fault={fault}", first_token_ms=400) for fault in FAULTS}
    models |= {f"late {fault}": at("anthropic", f"faulty?tokens=30&fault={fault}") for fault in LATE}

    def over(*names: str) -> dict[str, Any]:
        return {"policy": {"retries": 0}, "tiers": [{"name": f"t-{name}", "model": name} for name in names]}

    routes = {f"over {fault}": over(f"fault {fault}", "claude") for fault in FAULTS}
    routes |= {f"after {fault}": over(f"late {fault}", "claude") for fault in LATE}
    routes["both"] = over("claude", "gpt")
    return {"models": models, "routes": routes}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor"), "--key", SECRET) as vendor:
        yield vendor


@pytest.fixture(scope="module")
def server(vendor: FakeVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVERY_TEST_SECRET", SECRET)
        with Server(tmp_path_factory.mktemp("messages"), manifest(vendor)) as server:
            yield server
    assert SECRET not in server.written()


@pytest.fixture(scope="module")
def claude(server: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key="any", max_retries=0)


@pytest.fixture(scope="module")
def gpt(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="any", max_retries=0)


def ask(server: Server, model: str, path: str = "messages", **more: Any) -> Reply:
    body = {"model": model, "max_tokens": 50, "messages": SAID, **more}
    return server.ask("POST", f"/v1/{path}", json.dumps(body))


def record(server: Server, reply: Reply) -> tuple[str, str, int, list[dict[str, Any]]]:
    wanted = reply.headers["servery-record-id"]
    query = f"select outcome, reason, pico_usd, attempts from records where id = x'{wanted}'"
    ((outcome, reason, pico, attempts),) = server.await_records(query, 1)
    return outcome, reason, pico, json.loads(attempts)


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.mark.parametrize("model", ["claude", "gpt"])
def test_the_anthropic_client_gets_answers_and_streams(claude: anthropic.Anthropic, model: str) -> None:
    message = claude.messages.create(model=model, max_tokens=50, messages=SAID)
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert text_of(message)
    with claude.messages.stream(model=model, max_tokens=50, messages=SAID) as stream:
        spoken = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert spoken == text_of(final)
    assert final.stop_reason == "end_turn"
    for told in (message.usage, final.usage):
        assert (told.output_tokens, told.cache_read_input_tokens) == (9, 5)
        assert told.input_tokens > 0


@pytest.mark.parametrize("model", ["claude tool", "gpt tool"])
def test_the_anthropic_client_gets_its_tools_called(claude: anthropic.Anthropic, model: str) -> None:
    message = claude.messages.create(model=model, max_tokens=50, messages=SAID, tools=[TOOL])
    with claude.messages.stream(model=model, max_tokens=50, messages=SAID, tools=[TOOL]) as stream:
        final = stream.get_final_message()
    for told in (message, final):
        (used,) = [block for block in told.content if block.type == "tool_use"]
        assert (used.name, used.input, told.stop_reason) == ("weather", {"city": "Abu Dhabi"}, "tool_use")


def test_the_openai_client_speaks_with_anthropics_endpoint(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(model="claude", messages=SAID, temperature=0.5, stop=["x"])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (9, 5)  # type: ignore[union-attr]
    options: Any = {"include_usage": True}
    chunks = list(gpt.chat.completions.create(model="claude", messages=SAID, stream=True, stream_options=options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == answer.usage.prompt_tokens
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    with gpt.chat.completions.stream(model="claude tool", messages=SAID, tools=[tool]) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Abu Dhabi"}

    class Trip(BaseModel):
        city: str
        days: int

    parsed = gpt.chat.completions.parse(model="claude json", messages=SAID, response_format=Trip)
    assert parsed.choices[0].message.parsed == Trip(city="Rome", days=3)


def test_what_a_translation_cant_keep_is_anothers_turn_or_told(server: Server, gpt: openai.OpenAI) -> None:
    reply = ask(server, "claude", "chat/completions", seed=5)
    assert (reply.status, reply.json["error"]["code"]) == (400, "not_capable")
    assert "`seed`" in reply.json["error"]["message"]
    assert ask(server, "claude lax", "chat/completions", seed=5).status == 200
    assert ask(server, "both", "chat/completions", seed=5).headers["servery-model"] == "gpt"
    reply = ask(server, "gpt", top_k=5)
    assert (reply.status, reply.json["type"]) == (400, "error")
    assert "`top_k`" in reply.json["error"]["message"]
    assert ask(server, "claude", top_k=5).status == 200
    with pytest.raises(openai.BadRequestError, match="those can: both, gpt, gpt tool"):
        gpt.embeddings.create(model="claude", input="x")
    with pytest.raises(openai.BadRequestError, match="log-probabilities"):
        gpt.chat.completions.create(model="claude", messages=SAID, logprobs=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["messages", "chat/completions"])
@pytest.mark.parametrize("model", ["claude", "gpt"])
def test_the_books_are_the_vendors_whatever_is_translated(
    server: Server, vendor: FakeVendor, model: str, path: str, stream: bool
) -> None:
    reply = ask(server, model, path, stream=stream, messages=[{"role": "user", "content": f"{path} {stream}"}])
    outcome, _, pico, (attempt,) = record(server, reply)
    line = vendor.invoice()[-1]
    tokens = attempt["tokens"]
    assert (outcome, attempt["answered_as"], "estimated" in attempt) == ("served", f"{model}-2026", False)
    assert (tokens["input"], tokens["output"], tokens["cached"]) == (line["prompt_tokens"], 9, 5)
    assert pico == (tokens["input"] - 5) * 10**6 + 5 * 250_000 + 9 * 2 * 10**6


def test_where_the_vendor_is_silent_tokens_are_estimated(server: Server) -> None:
    for stream in (False, True):
        _, _, pico, (attempt,) = record(server, ask(server, "claude mute", stream=stream))
        assert attempt["estimated"]
        assert pico > 0
        assert attempt["tokens"]["output"] >= 10


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_before_the_first_word_is_anothers_turn(
    server: Server, claude: anthropic.Anthropic, fault: str
) -> None:
    with claude.messages.stream(model=f"over {fault}", max_tokens=50, messages=SAID) as stream:
        assert text_of(stream.get_final_message())
    reply = ask(server, f"over {fault}", stream=True)
    assert reply.headers["servery-model"] == "claude"
    _, _, pico, (first, second) = record(server, reply)
    assert second["role"] == "fallback"
    assert pico == first["pico_usd"] + second["pico_usd"]
    assert (first["pico_usd"] > 0) == (not fault.isdigit())


@pytest.mark.parametrize("fault", LATE)
def test_after_the_first_word_a_fault_ends_the_stream_in_an_error(
    server: Server, claude: anthropic.Anthropic, fault: str
) -> None:
    reply = ask(server, f"after {fault}", stream=True)
    name, data = reply.body.strip().split(b"\n\n")[-1].split(b"\n")
    told = json.loads(data.removeprefix(b"data: "))
    assert (name, told["type"], told["error"]["type"]) == (b"event: error", "error", "api_error")
    outcome, reason, _, (attempt,) = record(server, reply)
    assert (outcome, reason) == ("failed", told["error"]["code"])
    assert attempt["estimated"]
    with (
        pytest.raises(anthropic.APIError),
        claude.messages.stream(model=f"after {fault}", max_tokens=50, messages=SAID) as stream,
    ):
        stream.get_final_message()


def test_what_a_stream_has_read_is_booked_as_stated_also_when_it_is_cut(server: Server, vendor: FakeVendor) -> None:
    reply = ask(server, "after error:5", stream=True, messages=[{"role": "user", "content": "a word or two"}])
    line = vendor.invoice()[-1]
    _, _, _, (attempt,) = record(server, reply)
    assert attempt["tokens"]["input"] == line["prompt_tokens"]


def test_tokens_are_counted_by_the_vendor_or_estimated(claude: anthropic.Anthropic, server: Server) -> None:
    said: Any = [{"role": "user", "content": "one two three " * 30}]
    counted = claude.messages.count_tokens(model="claude", messages=said).input_tokens
    billed = claude.messages.create(model="claude", max_tokens=9, messages=said).usage
    assert counted == billed.input_tokens + (billed.cache_read_input_tokens or 0)
    assert claude.messages.count_tokens(model="gpt", messages=said).input_tokens > 50
    reply = server.ask("POST", "/v1/messages/count_tokens", json.dumps({"model": "fault 429", "messages": said}))
    assert reply.status == 200
    reply = server.ask("POST", "/v1/messages/count_tokens", json.dumps({"model": "nobody", "messages": said}))
    assert (reply.status, reply.json["error"]["type"]) == (404, "not_found_error")


def test_models_are_listed_in_the_callers_form(claude: anthropic.Anthropic) -> None:
    listed = claude.models.list()
    assert {"both", "claude", "gpt"} <= {model.id for model in listed}
    told = claude.models.retrieve("both")
    assert (told.type, told.lifecycle, told.max_input_tokens) == ("model", "active", None)
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("nobody")


def test_canned_replies_are_messages_too(claude: anthropic.Anthropic) -> None:
    said: Any = [{"role": "user", "content": "which hours?"}]
    assert text_of(claude.messages.create(model="canned", max_tokens=9, messages=said)) == "Nine to five."
    with claude.messages.stream(model="canned", max_tokens=9, messages=said) as stream:
        assert text_of(stream.get_final_message()) == "Nine to five."


def test_responses_and_moderations_pass_through_where_they_are_offered(
    server: Server, gpt: openai.OpenAI, vendor: FakeVendor
) -> None:
    answer = gpt.responses.create(model="gpt", input="hi", instructions="be brief")
    assert answer.output_text
    events = list(gpt.responses.create(model="both", input="hi", stream=True))
    assert [event.type for event in events][0 :: len(events) - 1] == ["response.created", "response.completed"]
    for stream in (False, True):
        body = {"model": "gpt", "input": "a prompt of more tokens than are cached", "stream": stream}
        _, _, _, (attempt,) = record(server, server.ask("POST", "/v1/responses", json.dumps(body)))
        tokens = attempt["tokens"]
        assert (tokens["input"], tokens["output"], tokens["cached"]) == (vendor.invoice()[-1]["prompt_tokens"], 9, 5)
    assert not gpt.moderations.create(model="gpt", input="hi").results[0].flagged
    with pytest.raises(openai.BadRequestError, match="doesn't offer /v1/responses; those can: both, gpt"):
        gpt.responses.create(model="gpt tool", input="hi")
    with pytest.raises(openai.BadRequestError, match="`model` is missing; /v1/responses has '"):
        gpt.responses.create(input="hi")
    with pytest.raises(openai.APIStatusError) as told:
        gpt.responses.retrieve("resp_1")
    assert (told.value.status_code, told.value.code) == (501, "not_offered")


def test_what_is_nested_without_end_is_no_bug_of_ours(server: Server) -> None:
    said = '"messages": [{"role": "user", "content": "x"}], "max_tokens": 5'
    for depth in (900, 990, 1000, 5000, 100_000):
        for path in ("messages", "chat/completions", "responses"):
            for model in ("gpt", "claude lax"):
                deep = "[" * depth + "]" * depth
                body = (
                    f'{{"model": "{model}", {said}, "metadata": {deep}, "response_format": {deep}, "tools": [{deep}]}}'
                )
                reply = server.ask("POST", f"/v1/{path}", body)
                assert reply.status in (200, 400), (depth, path, model, reply.body)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "no JSON"),
        (b"[]", "object"),
        (b'{"model": "claude", "messages": []}', "messages"),
        (b'{"model": "claude", "messages": [{"role": "user", "content": "x"}]}', "max_tokens"),
        (b'{"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
        (b'{"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": "\xff"}]}', ""),
        (b"[" * 100_000, ""),
    ],
)  # fmt: skip
def test_what_isnt_a_message_is_told_in_the_apis_form(server: Server, body: bytes, told: str) -> None:
    reply = server.ask("POST", "/v1/messages", body)
    assert (reply.status, reply.json["type"], reply.json["error"]["type"]) == (400, "error", "invalid_request_error")
    assert told in reply.json["error"]["message"]


def test_strangers_are_told_in_the_apis_form(tmp_path: Path, vendor: FakeVendor) -> None:
    declared = manifest(vendor)
    declared["tenants"] = {"acme": {"keys": [{"id": "k", "sha256": "0" * 64}]}}
    with Server(tmp_path, declared) as server:
        client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key="wrong", max_retries=0)
        with pytest.raises(anthropic.AuthenticationError) as told:
            client.messages.create(model="claude", max_tokens=9, messages=SAID)
        assert isinstance(told.value.body, dict)
        assert told.value.body["error"]["type"] == "authentication_error"

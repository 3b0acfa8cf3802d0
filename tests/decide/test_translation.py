"""Chat for Anthropic's endpoints and messages for OpenAI's: nothing is lost that isn't told, whole or streamed."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.terms.reasons import Reason, Refusal
from servery.terms.text import Form, Look, Prompt, Tokens
from servery.wire import chat_by_messages, messages, messages_by_chat, openai
from servery.wire.answer import Stream, Wrong
from servery.wire.translating import FINISH_OF_STOP, STOP_OF_FINISH

SERVES = msgspec.Raw(b'"theirs"')
USER: dict[str, Any] = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,aGk="
FUNCTION = {"name": "weather", "description": "It tells.", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
USE = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}


def chat(**fields: Any) -> Prompt:
    return openai.decode_prompt(Form.CHAT, json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def message(**fields: Any) -> Prompt:
    body = {"model": "m", "messages": [USER], "max_tokens": 9, **fields}
    return messages.decode_prompt(json.dumps(body).encode())


def to_messages(prompt: Prompt, drop: bool = False) -> dict[str, Any]:
    return json.loads(chat_by_messages.encode_prompt(prompt, SERVES, "claude", drop))


def to_chat(prompt: Prompt, drop: bool = False) -> dict[str, Any]:
    return json.loads(messages_by_chat.encode_prompt(prompt, SERVES, "gpt", drop))


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"max_tokens": 4096}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6, "temperature": 0.5, "top_p": 0.9}, {"max_tokens": 6, "temperature": 0.5, "top_p": 0.9}),
        ({"stop": "x"}, {"stop_sequences": ["x"]}),
        ({"stop": ["x", "y"], "user": "u", "n": 1, "logprobs": False}, {"stop_sequences": ["x", "y"], "metadata": {"user_id": "u"}}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ({"seed": None, "frequency_penalty": 0, "presence_penalty": 0.0, "store": False}, {}),
        ({"reasoning_effort": "low"}, {"output_config": {"effort": "low"}}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        ),
        (
            {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required", "parallel_tool_calls": False},
            {
                "tools": [{"name": "weather", "description": "It tells.", "input_schema": FUNCTION["parameters"]}],
                "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            },
        ),
        (
            {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
            {
                "tools": [{"name": "weather", "description": "It tells.", "input_schema": FUNCTION["parameters"]}],
                "tool_choice": {"type": "tool", "name": "weather"},
            },
        ),
    ],
)  # fmt: skip
def test_a_chats_fields_become_those_of_messages(given: dict[str, Any], asked: dict[str, Any]) -> None:
    told = {"model": "theirs", "max_tokens": 4096, "messages": [{"role": "user", "content": [text("hi")]}]}
    assert to_messages(chat(**given)) == told | asked


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_a_chats_turns_become_messages() -> None:
    given = [
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": [text("and kind")]},
        {"role": "user", "content": [text("look"), {"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "warm"},
        {"role": "user", "content": "thanks"},
        {"role": "assistant", "content": "well", "refusal": None},
    ]
    asked = to_messages(chat(messages=given))
    assert asked["system"] == [text("be brief"), text("and kind")]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [text("warm")]}
    assert asked["messages"] == [
        {"role": "user", "content": [text("look"), image, linked]},
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [result, text("thanks")]},
        {"role": "assistant", "content": [text("well")]},
    ]


def test_the_turns_of_messages_become_a_chat() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    results = [
        {"type": "tool_result", "tool_use_id": "c1", "content": [text("warm")]},
        {"type": "tool_result", "tool_use_id": "c2", "content": "it broke", "is_error": True},
        text("thanks"),
    ]
    given = [
        {"role": "user", "content": [text("look"), image]},
        {"role": "assistant", "content": [text("I see"), USE]},
        {"role": "user", "content": results},
    ]
    cached = {**text("be brief"), "cache_control": {"type": "ephemeral"}}
    asked = to_chat(message(messages=given, system=[cached], stop_sequences=["x"], metadata={"user_id": "u"}))
    assert asked == {
        "model": "theirs",
        "max_completion_tokens": 9,
        "stop": ["x"],
        "user": "u",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [text("look"), {"type": "image_url", "image_url": {"url": PNG}}]},
            {"role": "assistant", "content": "I see", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "warm"},
            {"role": "tool", "tool_call_id": "c2", "content": "Error: it broke"},
            {"role": "user", "content": "thanks"},
        ],
    }


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        ({"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, {"tool_choice": "auto", "parallel_tool_calls": False}),
        ({"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "f"}}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ({"output_config": {"effort": "high"}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "disabled"}, "service_tier": "standard_only"}, {"service_tier": "default"}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)  # fmt: skip
def test_the_fields_of_messages_become_a_chats(given: dict[str, Any], asked: dict[str, Any]) -> None:
    told = to_chat(message(**given))
    assert {name: told[name] for name in asked} == asked


LOST_OF_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"seed": 5}, "seed"),
    ({"n": 2}, "n"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"temperature": 1.5}, "temperature"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"made_up": 1}, "made_up"),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0] (custom)"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages[0].content[0] (input_audio)"),
    ({"messages": [USER, {"role": "user", "name": "me", "content": "x"}]}, "messages[1].name"),
    ({"messages": [USER, {"role": "function", "content": "x"}]}, "messages[1].role"),
]  # fmt: skip
LOST_OF_MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"top_k": 5}, "top_k"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
    ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0] (web_search_20250305)"),
    ({"made_up": 1}, "made_up"),
    ({"messages": [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}]}, "messages[1].content[0] (thinking)"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]}, "messages[0].content[0] (image)"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "place"), LOST_OF_CHAT)
def test_what_messages_cant_hold_is_told_or_dropped(given: dict[str, Any], place: str) -> None:
    with pytest.raises(Refusal, match="Anthropic") as told:
        to_messages(chat(**given))
    assert told.value.reason is Reason.NOT_CAPABLE
    assert f"`{place}`" in told.value.message
    assert to_messages(chat(**given), drop=True)["model"] == "theirs"


@pytest.mark.parametrize(("given", "place"), LOST_OF_MESSAGES)
def test_what_a_chat_cant_hold_is_told_or_dropped(given: dict[str, Any], place: str) -> None:
    with pytest.raises(Refusal, match="OpenAI") as told:
        to_chat(message(**given))
    assert told.value.reason is Reason.NOT_CAPABLE
    assert f"`{place}`" in told.value.message
    assert to_chat(message(**given), drop=True)["model"] == "theirs"


@pytest.mark.parametrize(
    ("turn", "place"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": 5}]}, "messages[0].content[0].image_url"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "assistant", "tool_calls": 5}, "messages[0].tool_calls"),
    ],
)
def test_what_isnt_a_turn_is_the_callers_fault(turn: Any, place: str) -> None:
    with pytest.raises(Refusal) as told:
        to_messages(chat(messages=[turn]))
    assert told.value.reason is Reason.INVALID_REQUEST
    assert f"`{place}`" in told.value.message


def test_every_reason_for_an_end_has_its_word() -> None:
    for finish, stop in STOP_OF_FINISH.items():
        assert FINISH_OF_STOP[stop] == finish or finish == "function_call"


MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-x",
    "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, text("warm"), USE],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 7},
}


def test_a_message_becomes_a_chats_answer() -> None:
    whole = chat_by_messages.read_answer(json.dumps(MESSAGE).encode(), Look.TEXT, 123)
    assert whole.tokens == Tokens(16, 7, 4, 2)
    assert whole.said is not None
    assert whole.said.text == "warm"
    answer = json.loads(whole.data)
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "warm"
    assert choice["message"]["reasoning_content"] == "hm"
    assert choice["message"]["tool_calls"] == [CALL]
    assert (choice["finish_reason"], answer["created"], answer["model"]) == ("tool_calls", 123, "claude-x")
    assert answer["usage"]["prompt_tokens"] == 16
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


def test_a_chats_answer_becomes_a_message() -> None:
    choice = {"index": 0, "message": {"content": "warm", "tool_calls": [CALL]}, "finish_reason": "tool_calls"}
    usage = {"prompt_tokens": 10, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}
    body = json.dumps({"id": "c", "model": "gpt-x", "choices": [choice], "usage": usage}).encode()
    answer = json.loads(messages_by_chat.read_answer(body, Look.NOTHING).data)
    assert [block["type"] for block in answer["content"]] == ["text", "tool_use"]
    assert answer["content"][1] == USE
    assert (answer["stop_reason"], answer["usage"]["input_tokens"]) == ("tool_use", 6)
    assert (answer["usage"]["cache_read_input_tokens"], answer["usage"]["output_tokens"]) == (4, 7)


def events_of(stream: Stream, events: list[Any]) -> list[Any]:
    pieces = [piece for event in events for piece in stream.read(json.dumps(event).encode())]
    return [json.loads(piece.data) for piece in (*pieces, *stream.end()) if piece.data]


def test_the_events_of_a_message_become_a_chats_chunks() -> None:
    started = {**MESSAGE, "content": [], "stop_reason": None, "usage": {**MESSAGE["usage"], "output_tokens": 1}}
    events = [
        {"type": "message_start", "message": started},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": text("")},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "wa"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "rm"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {**USE, "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"city":'}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '"Rome"}'}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]
    stream = chat_by_messages.Stream(True, Look.TEXT, 123)
    chunks = events_of(stream, events)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "warm"
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert (calls[0]["id"], calls[0]["function"]["name"]) == ("c1", "weather")
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "Rome"}
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-1]["usage"]["prompt_tokens"] == 16
    assert (stream.complete, stream.tokens, stream.said and stream.said.text) == (True, Tokens(16, 7, 4, 2), "warm")
    hidden = events_of(chat_by_messages.Stream(False, Look.NOTHING, 123), events)
    assert all("usage" not in chunk for chunk in hidden)


def test_a_chats_chunks_become_the_events_of_a_message() -> None:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"id": "c", "model": "gpt-x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    start, rest = {"name": "weather", "arguments": ""}, {"arguments": '{"city":"Rome"}'}
    events = events_of(
        messages_by_chat.Stream(Look.NOTHING),
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "wa"}),
            chunk({"content": "rm"}),
            chunk({"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": start}]}),
            chunk({"tool_calls": [{"index": 0, "function": rest}]}),
            chunk({"tool_calls": [{"index": 1, "id": "c2", "type": "function", "function": start}]}),
            chunk({}, "tool_calls"),
            {"id": "c", "model": "gpt-x", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}},
        ],
    )
    kinds = [event["type"] for event in events]
    block = ["content_block_start", "content_block_delta"]
    assert kinds == [
        *("message_start", *block, "content_block_delta", "content_block_stop"),
        *(*block, "content_block_stop", "content_block_start", "content_block_stop", "message_delta", "message_stop"),
    ]
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (5, 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "text", "tool_use", "tool_calls", "user"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "role", "content", "text", "tool_calls", "function", "message", "delta", "index", "choices", "input",
             "finish_reason", "stop_reason", "content_block", "source", "name", "arguments", "usage", "tool_choice", "tools"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=25,
)  # fmt: skip


@given(JSON, JSON)
def test_whatever_is_asked_or_answered_is_translated_or_refused(one: Any, other: Any) -> None:
    for made in (
        lambda: to_messages(chat(messages=[one], tools=other)),
        lambda: to_chat(message(messages=[one], tools=other)),
    ):
        with contextlib.suppress(Refusal):
            made()
    answer = {"type": "message", "stop_reason": "end_turn", "content": one, "choices": other, "usage": other}
    for data in (answer, {"choices": [{"finish_reason": "stop", "message": one}]}, one):
        body = json.dumps(data).encode()
        with contextlib.suppress(Wrong):
            chat_by_messages.read_answer(body, Look.TEXT, 1)
        with contextlib.suppress(Wrong):
            messages_by_chat.read_answer(body, Look.TEXT)
    kinds = ("message_start", "content_block_start", "content_block_delta", "message_delta")
    for stream in (chat_by_messages.Stream(True, Look.TEXT, 1), messages_by_chat.Stream(Look.TEXT)):
        events = [{"type": kind, "message": one, "content_block": one, "delta": other, "index": 0} for kind in kinds]
        for event in (*events, {"choices": [{"delta": one}]}, {"choices": [{"delta": {"tool_calls": other}}]}, one):
            with contextlib.suppress(Wrong):
                stream.read(json.dumps(event).encode())
        stream.end()

"""What answers in text say, whole and in streams of every form, and which of them say the same."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from servery.terms.text import Form, Prompt
from servery.wire import heard as hearing
from servery.wire.heard import Heard, alike, heard, wants_json


def parts(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def call(name: str, arguments: str, **more: Any) -> dict[str, Any]:
    return {**more, "function": {"name": name, "arguments": arguments}}


WEATHER = [["weather", '{"city": "Abu Dhabi"}']]

SAID: list[tuple[Form, list[bytes], list[tuple[str, list[list[str]]]]]] = [
    (Form.CHAT, parts({"choices": [{"message": {"content": "Hi"}}]}), [("Hi", [])]),
    (Form.CHAT, parts({"choices": [{"message": {"content": None, "refusal": "No"}}]}), [("No", [])]),
    (
        Form.CHAT,
        parts({"choices": [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}}]}),
        [("a", []), ("b", [])],
    ),
    (
        Form.CHAT,
        parts({"choices": [{"message": {"content": None, "tool_calls": [call(*WEATHER[0], id="x", type="function")]}}]}),
        [("", WEATHER)],
    ),
    (
        Form.CHAT,
        parts(
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "H"}}]},
            {"choices": [{"index": 0, "delta": {"content": "i"}}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [call("weather", '{"city": ', index=0)]}}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '"Abu Dhabi"}'}}]}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
            {"choices": [], "usage": {}},
        ),
        [("Hi", WEATHER)],
    ),
    (Form.COMPLETIONS, parts({"choices": [{"text": "H"}]}, {"choices": [{"text": "i"}]}), [("Hi", [])]),
    (
        Form.MESSAGES,
        parts({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"},
                           {"type": "tool_use", "id": "x", "name": "weather", "input": {"city": "Abu Dhabi"}}]}),
        [("Hi", WEATHER)],
    ),
    (
        Form.MESSAGES,
        parts(
            {"type": "message_start", "message": {"content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "weather", "input": {}}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"city": '}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '"Abu Dhabi"}'}},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
            {"type": "message_stop"},
        ),
        [("Hi", WEATHER)],
    ),
    (
        Form.RESPONSES,
        parts(
            {"type": "response.output_text.delta", "delta": "Hi"},
            {"type": "response.completed", "response": {"output": [
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
                {"type": "function_call", "name": WEATHER[0][0], "arguments": WEATHER[0][1]}]}},
        ),
        [("Hi", WEATHER)],
    ),
    (Form.RESPONSES, parts({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]}), [("Hi", [])]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "written", "expected"), SAID)
def test_what_an_answer_says_is_read_whole_and_from_a_stream(
    form: Form, written: list[bytes], expected: list[tuple[str, list[list[str]]]]
) -> None:
    found = heard(form, written)
    assert found is not None
    assert [(one.text, one.calls) for one in found] == expected


@pytest.mark.parametrize(
    ("form", "written"),
    [
        (Form.EMBEDDINGS, parts({"data": [{"embedding": [1]}]})),
        (Form.CHAT, [b"no json"]),
        (Form.CHAT, parts({"choices": []})),
        (Form.CHAT, []),
        (Form.RESPONSES, []),
        (Form.CHAT, parts({"choices": [{"message": {"content": [1]}}]})),
        (Form.CHAT, parts({"choices": [{"index": at, "text": ""} for at in range(200)]})),
    ],
)
def test_what_cannot_be_told_is_not_compared(form: Form, written: list[bytes]) -> None:
    assert heard(form, written) is None


def test_calls_may_have_any_places() -> None:
    far = {"choices": [{"delta": {"tool_calls": [call("x", "{}", index=10**12), call("y", "{}", index=-3)]}}]}
    found = heard(Form.CHAT, parts(far))
    assert found is not None
    assert found[0].calls == [["x", "{}"], ["y", "{}"]]


TEXTS = [
    ("Paris", " paris\n", False, True),
    ("Paris", "Paris.", False, False),
    ("STRASSE", "straße", False, True),
    ('{"a": 1, "b": [1.0]}', '{"b":[1],"a":1.0}', True, True),
    ('{"a": 1}', '{"a": true}', True, False),
    ('{"a": 1}', '{"a":1}', False, False),  # nobody asked for JSON
    ('{"a": 1}', "a is 1", True, False),
    ("no json", " No JSON ", True, True),
]


@pytest.mark.parametrize(("one", "other", "json", "same"), TEXTS)
def test_texts_are_alike_but_for_case_and_white_space_or_as_json(one: str, other: str, json: bool, same: bool) -> None:
    assert alike([Heard(one)], [Heard(other)], json) is same
    assert alike([Heard(other)], [Heard(one)], json) is same


CALLED = [
    ([["f", '{"x": 1}']], [["f", '{ "x":1.0 }']], True),
    ([["f", '{"x": 1}']], [["f", '{"x": 2}']], False),
    ([["f", "{}"]], [["g", "{}"]], False),
    ([["f", ""]], [["f", "{}"]], True),
    ([["f", "{}"], ["g", "{}"]], [["g", "{}"], ["f", "{}"]], True),
    ([["f", "{}"]], [["f", "{}"], ["f", "{}"]], False),
    ([["f", "{broken"]], [["f", "{broken"]], True),
    ([["f", "{}"]], [], False),
]


@pytest.mark.parametrize(("one", "other", "same"), CALLED)
def test_calls_of_tools_are_alike_by_name_and_arguments_whatever_is_said_beside(
    one: list[list[str]], other: list[list[str]], same: bool
) -> None:
    assert alike([Heard("I look", one)], [Heard("Let me look", other)], False) is same


def test_as_many_choices_are_alike() -> None:
    assert not alike([Heard("a")], [Heard("a"), Heard("a")], False)
    assert alike([Heard("a"), Heard("b")], [Heard("A"), Heard("B")], False)


@pytest.mark.parametrize(
    ("form", "fields", "json"),
    [
        (Form.CHAT, {}, False),
        (Form.CHAT, {"response_format": None}, False),
        (Form.CHAT, {"response_format": {"type": "text"}}, False),
        (Form.CHAT, {"response_format": {"type": "json_object"}}, True),
        (Form.CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, True),
        (Form.CHAT, {"response_format": 7}, False),
        (Form.MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": {}}}}, True),
        (Form.MESSAGES, {"output_format": {"type": "json_schema", "schema": {}}}, True),
        (Form.MESSAGES, {"output_config": {"effort": "low"}}, False),
        (Form.RESPONSES, {"text": {"format": {"type": "json_schema"}}}, True),
        (Form.RESPONSES, {"text": {"verbosity": "low"}}, False),
    ],
)
def test_whether_json_was_asked_for_is_read_from_the_prompt(form: Form, fields: dict[str, Any], json: bool) -> None:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    assert wants_json(Prompt(form, "m", raw, False, False, "", 0)) is json


def test_deep_arguments_are_compared_as_they_are_written() -> None:
    deep = "[" * 100_000
    assert hearing.alike([Heard("", [["f", deep]])], [Heard("", [["f", deep]])], False)

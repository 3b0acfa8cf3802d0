"""OpenAI's API as text: what is read of prompts, answers and chunks, and what is passed on untouched."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.gateway.voices import VOICES
from servery.terms.reasons import Reason, Refusal
from servery.terms.text import Form, Piece, TokenPrice, Tokens
from servery.wire import openai as wire
from servery.wire import openai_answers as answers
from servery.wire.answer import Wrong
from servery.wire.sse import MOST_BYTES, Broken, Events, event


def prompt(**fields: Any) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}
    return wire.decode_prompt(Form.CHAT, json.dumps(body).encode())


def encoded(prompt: Any, serves: str) -> bytes:
    return wire.encode_prompt(prompt, msgspec.Raw(json.dumps(serves).encode()))


def piece(stream: answers.Stream, data: bytes) -> Piece:
    (one,) = stream.read(data)
    return one


def chunk(choices: list[Any], **more: Any) -> bytes:
    return json.dumps({"id": "c", "model": "v-1", "choices": choices, **more}).encode()


def delta(finish: str | None = None, index: int = 0, **said: Any) -> dict[str, Any]:
    return {"index": index, "delta": said, "finish_reason": finish}


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set[str]()),
        ({"tools": [{"type": "function"}]}, {"tools"}),
        ({"functions": [{"name": "f"}]}, {"tools"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"response_format": {"type": "json_object"}}, set[str]()),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs"}),
        ({"logprobs": False}, set[str]()),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, {"images"}),
    ],
)
def test_what_a_prompt_needs(fields: dict[str, Any], needs: set[str]) -> None:
    assert prompt(**fields).needs == needs


def test_the_score_looks_at_what_the_caller_said_last() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "system", "content": "s" * 100},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": parts},
        {"role": "tool", "content": "result"},
    ]
    read = prompt(messages=messages, max_tokens=5, max_completion_tokens=9)
    assert (read.text, read.most) == ("one\ntwo", 9)
    assert read.chars >= 100 + len("first" + "one\ntwo" + "result")


@pytest.mark.parametrize(
    ("given", "text", "least"),
    [("abc", "abc", 3), (["a", "bcd"], "bcd", 4), ([1, 2, 3], " " * 12, 12), ([[1], [2, 3]], " " * 12, 12)],
)
def test_texts_and_tokens_can_be_embedded(given: Any, text: str, least: int) -> None:
    body = json.dumps({"model": "m", "input": given}).encode()
    read = wire.decode_prompt(Form.EMBEDDINGS, body)
    assert (read.text, read.stream) == (text, False)
    assert read.chars >= least


@given(
    st.dictionaries(st.text(min_size=1), st.recursive(st.none() | st.booleans() | st.text(), st.lists, max_leaves=5))
)
def test_what_isnt_known_is_passed_on_as_it_was_written(extra: dict[str, Any]) -> None:
    known = {"model", "messages", "prompt", "input", "stream", "stream_options", "max_tokens", "max_completion_tokens",
             "tools", "functions", "response_format", "logprobs"}  # fmt: skip
    extra = {key: value for key, value in extra.items() if key not in known}
    sent = json.loads(encoded(prompt(**extra), "vendor's"))
    assert sent == {"model": "vendor's", "messages": [{"role": "user", "content": "hello"}], **extra}


@pytest.mark.parametrize(
    ("options", "sent", "wanted"),
    [
        ({}, {"include_usage": True}, False),
        ({"stream_options": None}, {"include_usage": True}, False),
        ({"stream_options": {"include_usage": False, "x": 1}}, {"include_usage": True, "x": 1}, False),
        ({"stream_options": {"include_usage": True}}, {"include_usage": True}, True),
    ],
)
def test_a_streams_usage_is_always_asked_for(options: dict[str, Any], sent: dict[str, Any], wanted: bool) -> None:
    read = prompt(stream=True, **options)
    assert json.loads(encoded(read, "v"))["stream_options"] == sent
    assert read.usage_wanted == wanted
    assert "stream_options" not in json.loads(encoded(prompt(), "v"))


def test_a_stream_is_complete_when_each_choice_has_its_finish_reason() -> None:
    stream = answers.Stream(usage_wanted=False)
    assert not stream.complete
    assert not piece(stream, chunk([delta(role="assistant", content="")])).said
    assert piece(stream, chunk([delta(content="he"), delta(content="y", index=1)])).said
    assert not stream.complete
    stream.read(chunk([delta("stop")]))
    assert not stream.complete
    stream.read(chunk([delta("length", index=1)]))
    assert (stream.complete, stream.chars, stream.answered_as, stream.tokens) == (True, 3, "v-1", None)


@pytest.mark.parametrize("said", [{"content": "x"}, {"refusal": "no"}, {"tool_calls": [{"index": 0}]}, {"reasoning_content": "hm"}, {"function_call": {"name": "f"}}])  # fmt: skip
def test_words_calls_refusals_and_thoughts_all_begin_an_answer(said: dict[str, Any]) -> None:
    stream = answers.Stream(usage_wanted=False)
    assert piece(stream, chunk([delta(**said)])).said
    assert stream.chars > 0


def test_usage_is_read_and_hidden_unless_it_was_asked_for() -> None:
    for wanted in (True, False):
        stream = answers.Stream(wanted)
        plain = chunk([delta(content="x")], usage=None)
        assert (b"usage" in piece(stream, plain).data) == wanted
        together = chunk([delta("stop")], usage=USAGE)  # as some servers do it
        assert (b"usage" in piece(stream, together).data) == wanted
        alone = piece(stream, chunk([], usage=USAGE)).data
        assert alone == (chunk([], usage=USAGE) if wanted else b"")
        assert stream.tokens == Tokens(10, 7, 4, 0, 2)


def test_a_chunk_without_usage_is_passed_on_byte_by_byte() -> None:
    data = b'{"choices" : [ {"delta":{"content":"\\u00e9 x"} , "index":0} ],"odd":1.50}'
    assert piece(answers.Stream(False), data).data is data


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (USAGE, Tokens(10, 7, 4, 0, 2)),
        ({"prompt_tokens": 3, "total_tokens": 3}, Tokens(3)),
        ({"prompt_tokens": 3, "completion_tokens": 1, "cache_creation_input_tokens": 2}, Tokens(3, 1, 0, 2)),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cache_write_tokens": 4}},
            Tokens(9, 1, 0, 4),
        ),
        (None, None),
        ({}, None),
        ({"prompt_tokens": -1, "completion_tokens": 4}, None),
        ({"prompt_tokens": 1, "completion_tokens": -4}, None),
        ({"prompt_tokens": 1, "completion_tokens": 10**8}, Tokens(1, 10**8)),
        ({"prompt_tokens": 1, "completion_tokens": 10**8 + 1}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 1}, None),
        ({"prompt_tokens": "many"}, None),
        ([1], None),
    ],
)
def test_tokens_are_the_vendors_or_nobodys(usage: Any, tokens: Tokens | None) -> None:
    choice = {"index": 0, "message": {"content": "abc"}, "finish_reason": "stop"}
    whole = answers.read_answer(Form.CHAT, chunk([choice], usage=usage))
    assert (whole.tokens, whole.chars, whole.answered_as) == (tokens, 3, "v-1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": "x"}, "finish_reason": null}]}',
        b'{"choices": [{"message": {"content": "x"}}]}',
        b'{"error": {"message": "x"}}',
        b'{"choices": 5}',
        b'{"choices": [{"message": {"content": "\xff"}, "finish_reason": "stop"}]}',
        b'{"choices": [{"text": "x", "finish_reason": "stop"}]}',
        b'{"choices": [{"message": null, "finish_reason": "stop"}]}',
    ],
)
def test_what_is_no_whole_answer_is_wrong(body: bytes) -> None:
    with pytest.raises(Wrong):
        answers.read_answer(Form.CHAT, body)


@pytest.mark.parametrize("form", Form)
def test_what_isnt_utf8_is_refused_also_where_it_is_passed_on(form: Form) -> None:
    said = b'"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x", "max_tokens": 5'
    with pytest.raises(Refusal, match="no JSON"):
        VOICES[form].decode(form, b'{"model": "m", %b, "odd": "\xff"}' % said)
    assert VOICES[form].decode(form, b'{"model": "m", %b, "odd": "\xc3\xa9"}' % said)


@pytest.mark.parametrize("form", [Form.EMBEDDINGS, Form.MODERATIONS])
def test_what_comes_in_one_isnt_streamed(form: Form) -> None:
    with pytest.raises(Refusal, match="leave it out"):
        VOICES[form].decode(form, b'{"model": "m", "input": "x", "stream": true}')


def test_what_answers_another_form_of_prompt_is_wrong() -> None:
    chat, text = chunk([delta(content="x")]), chunk([{"index": 0, "text": "x"}])
    for form, odd in ((Form.CHAT, text), (Form.COMPLETIONS, chat)):
        with pytest.raises(Wrong, match="another form"):
            answers.Stream(True, form=form).read(odd)
    with pytest.raises(Wrong, match="another form"):
        answers.read_answer(Form.COMPLETIONS, chunk([{"message": {"content": "x"}, "finish_reason": "stop"}]))


@given(st.binary(max_size=200))
def test_whatever_arrives_is_read_or_refused(body: bytes) -> None:
    for form in Form:
        with contextlib.suppress(Refusal):
            wire.decode_prompt(form, body)
        with contextlib.suppress(Wrong):
            answers.read_answer(form, body)
    wire.read_error(body)


def test_errors_have_the_vendors_form() -> None:
    told = json.loads(wire.encode_error(Refusal(Reason.RATE_LIMITED, "slower")))["error"]
    assert told == {"message": "slower", "type": "rate_limit_error", "param": None, "code": "rate_limited"}
    read = wire.read_error(b'{"error": {"message": "too long", "code": "context_length_exceeded"}}')
    assert (read.message, read.code) == ("too long", "context_length_exceeded")
    assert wire.read_error(b'{"error": "x"}') == wire.read_error(b"<html>") == wire.Error()


@given(st.lists(st.sampled_from(["a", "b\r\nc", "", '{"x": 1}', "é"]), max_size=5), st.data())
def test_events_come_out_whole_however_they_arrive(texts: list[str], data: st.DataObject) -> None:
    texts = [text.replace("\r\n", " ") for text in texts]
    stream = b": comment\n\nretry: 5\n\n" + b"".join(
        event(text.encode(), "odd" if at % 2 else "") for at, text in enumerate(texts)
    )
    stream = stream.replace(b"\n", b"\r\n") if data.draw(st.booleans()) else stream
    events, found = Events(), list[bytes]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += events.feed(stream[:size])
        stream = stream[size:]
    assert found == [text.encode() for text in texts]


def test_an_event_of_several_lines_and_one_without_end() -> None:
    assert Events().feed(b"data:a\ndata: b\n\n") == [b"a\nb"]
    with pytest.raises(Broken):
        Events().feed(b"data: " + b"x" * MOST_BYTES)
    line = b"data: " + b"x" * (MOST_BYTES // 4) + b"\n"
    with pytest.raises(Broken):
        Events().feed(5 * line)
    for crumb in (b"data:\n" * 10_000, b"x" * 60_000, b": ping\n\n" * 8_000):
        events = Events()
        with pytest.raises(Broken):  # lines that hold nothing take something too
            _feed(events, crumb, 2 * MOST_BYTES)


def _feed(events: Events, part: bytes, most: int) -> None:
    for _ in range(most // len(part)):
        events.feed(part)


def test_each_kind_of_token_has_its_price() -> None:
    price = TokenPrice(input=100, output=1000, cached=10, cache_write=130, reasoning=2000)
    assert price.of(Tokens(10, 7, 4, 1, 2)) == 5 * 100 + 4 * 10 + 1 * 130 + 5 * 1000 + 2 * 2000
    assert price.of(Tokens(1, 1, 5, 0, 9)) == 5 * 10 + 9 * 2000  # parts larger than the whole cost what they say

"""What answers in text say, read from what a caller gets, and whether two say the same. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from servery.terms.text import Form, Prompt

_MOST_CHOICES = 128


class Heard(msgspec.Struct):
    """What one answer, or one of several choices, says: its text, and the tools that it calls, each with its arguments as written."""

    text: str = ""
    calls: list[list[str]] = []


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None


class _Block(msgspec.Struct):
    """Of Anthropic's messages, and what a stream adds to it; or an item of a response, and a part of that."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")
    partial_json: str | None = None
    arguments: str | None = None
    content: list[_Block] | None = None


class _Response(msgspec.Struct):
    output: list[_Block] = []


class _Chunk(msgspec.Struct):
    """Of chat and completions, as the two structs below: an answer, or a part of its stream."""

    choices: list[_Choice] | None = None


class _MessagePart(msgspec.Struct):
    content: list[_Block] | None = None
    index: int = 0
    content_block: _Block | None = None
    delta: _Block | None = None


class _ResponsePart(msgspec.Struct):
    output: list[_Block] | None = None
    response: _Response | None = None  # of a stream: all of it so far


_chunk = msgspec.json.Decoder(_Chunk).decode
_message = msgspec.json.Decoder(_MessagePart).decode
_response = msgspec.json.Decoder(_ResponsePart).decode


def heard(form: Form, parts: Sequence[bytes]) -> tuple[Heard, ...] | None:
    """What an answer says, by choice; it came whole, or in the parts of a stream. None: that can't be told."""
    if not parts:
        return None
    try:
        match form:
            case Form.CHAT | Form.COMPLETIONS:
                said = _choices(parts)
            case Form.MESSAGES:
                said = (_joined(_blocks(parts)),)
            case Form.RESPONSES:
                last = _response(parts[-1])
                said = (_joined((last.output if last.response is None else last.response.output) or ()),)
            case _:
                return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return said if 0 < len(said) <= _MOST_CHOICES else None


def _choices(parts: Sequence[bytes]) -> tuple[Heard, ...]:
    choices: dict[int, Heard] = {}
    calls: dict[tuple[int, int], list[str]] = {}  # by choice and place
    for one in map(_chunk, parts):
        for choice in one.choices or ():
            said = choices.setdefault(choice.index, Heard())
            message = choice.message or choice.delta
            if message is None:
                said.text += choice.text or ""
                continue
            said.text += (message.content or "") + (message.refusal or "")
            for at, call in enumerate(message.tool_calls or [_ToolCall(0, message.function_call)]):
                if call.function is not None:
                    place = (choice.index, at if call.index is None else call.index)
                    if place not in calls:
                        said.calls.append(calls.setdefault(place, ["", ""]))
                    calls[place][0] += call.function.name or ""
                    calls[place][1] += call.function.arguments or ""
    return tuple([choices[index] for index in sorted(choices)])


def _blocks(parts: Sequence[bytes]) -> list[_Block]:
    blocks: dict[int, _Block] = {}
    for one in map(_message, parts):
        blocks |= dict(enumerate(one.content or ()))
        if one.content_block is not None:
            blocks[one.index] = one.content_block
        elif one.delta is not None and one.index in blocks:
            block = blocks[one.index]
            block.text = (block.text or "") + (one.delta.text or "")
            block.arguments = (block.arguments or "") + (one.delta.partial_json or "")
    return list(blocks.values())


def _joined(blocks: Sequence[_Block]) -> Heard:
    """The blocks of a message, or the items of a response, as one."""
    said = Heard()
    for block in blocks:
        if block.type in ("tool_use", "function_call"):
            said.calls.append([block.name or "", block.arguments or bytes(block.input).decode()])
        elif block.type not in ("thinking", "reasoning"):
            said.text += (block.text or "") + (block.refusal or "")
            said.text += "".join([(part.text or "") + (part.refusal or "") for part in block.content or ()])
    return said


class _Format(msgspec.Struct):
    type: str | None = None


class _Config(msgspec.Struct):
    format: _Format | None = None


def wants_json(prompt: Prompt) -> bool:
    """Whether a prompt asks for an answer in JSON."""
    fields = prompt.fields
    try:
        if prompt.form is Form.MESSAGES:
            config = msgspec.json.decode(fields.get("output_config", b"null"), type=_Config | None)
            found = config.format if config is not None else None
            found = msgspec.json.decode(fields.get("output_format", b"null"), type=_Format | None) or found
        elif prompt.form is Form.RESPONSES:
            config = msgspec.json.decode(fields.get("text", b"null"), type=_Config | None)
            found = config.format if config is not None else None
        else:
            found = msgspec.json.decode(fields.get("response_format", b"null"), type=_Format | None)
    except (msgspec.DecodeError, RecursionError):
        return False
    return found is not None and (found.type or "").startswith("json")


def alike(one: Sequence[Heard], other: Sequence[Heard], json: bool) -> bool:
    """Whether two answers say the same, choice by choice: they call the same tools with equal arguments, in any order; or call none,
    and their texts are equal but for case and the white space around them, or with `json` as values.
    """
    return len(one) == len(other) and all(_alike(*pair, json) for pair in zip(one, other, strict=True))


def _alike(one: Heard, other: Heard, json: bool) -> bool:
    if one.calls or other.calls:
        return sorted(map(_called, one.calls)) == sorted(map(_called, other.calls))
    if json and (value := _value(one.text)) is not None:
        return value == _value(other.text)
    return one.text.strip().casefold() == other.text.strip().casefold()


def _called(call: Sequence[str]) -> tuple[str, bytes]:
    name, arguments = call
    value = _value(arguments or "{}")
    return name, arguments.encode() if value is None else value


def _value(text: str) -> bytes | None:
    """JSON in one form for all that mean the same; None where it is none."""
    try:
        return msgspec.json.encode(_plain(msgspec.json.decode(text)), order="deterministic")
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None


def _plain(value: Any) -> Any:
    """With 1 for 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(one) for one in cast(list[Any], value)]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in cast(dict[str, Any], value).items()}
    return value

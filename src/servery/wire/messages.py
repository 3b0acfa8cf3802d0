"""Anthropic's API as callers and vendors write it: prompts, answers, the events of a stream, errors. Pure.

A prompt's fields, and an answer's bytes, are passed on as they were written: only what decides or costs something is
read. (The API: docs.claude.com/en/api/messages.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from servery.terms.reasons import Fault, Reason, Refusal
from servery.terms.text import Fields, Form, Look, Piece, Prompt, Said, Tokens
from servery.wire.answer import MOST_TOKENS, NAME_CHARS, Error, Whole, Wrong, believed
from servery.wire.status import HTTP_STATUS
from servery.wire.utf8 import check_utf8

NULL = msgspec.Raw(b"null")
_CHARS_A_MESSAGE = 16  # for its role, and what parts it from the next one
_SEEN = ("image", "document")


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str | None = None
    content: msgspec.Raw = NULL  # of a tool's result: a text, or blocks


_Content = str | list[_Block]


class _Message(msgspec.Struct, gc=False):
    role: str
    content: _Content


class _OutputConfig(msgspec.Struct, gc=False):
    format: msgspec.Raw = NULL


class _Asked(msgspec.Struct, gc=False):
    """What is read of every prompt."""

    model: str
    messages: list[_Message]
    max_tokens: int | None = None
    system: _Content | None = None
    stream: bool | None = None
    tools: list[msgspec.Raw] | None = None
    output_config: _OutputConfig | None = None
    output_format: msgspec.Raw = NULL


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Written(msgspec.Struct, gc=False):
    """A block of an answer, or what a stream adds to one."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")
    stop_reason: str | None = None


class _Answered(msgspec.Struct, gc=False):
    """What is read of an answer, and of what begins a stream."""

    type: str = ""
    model: str = ""
    content: list[_Written] = []
    stop_reason: str | None = None
    usage: msgspec.Raw = NULL


class _Event(msgspec.Struct, gc=False):
    type: str
    message: _Answered | None = None
    content_block: _Written | None = None
    delta: _Written | None = None
    usage: msgspec.Raw = NULL


_fields = msgspec.json.Decoder(Fields).decode
_asked = msgspec.json.Decoder(_Asked).decode
_content = msgspec.json.Decoder(_Content).decode
_answered = msgspec.json.Decoder(_Answered).decode
_event = msgspec.json.Decoder(_Event).decode
_usage = msgspec.json.Decoder(_Usage).decode
_encode = msgspec.json.Encoder().encode


class _Typed(msgspec.Struct, gc=False):
    type: str = "message"


_STOP = b'{"type":"message_stop"}'
_typed = msgspec.json.Decoder(_Typed).decode


def decode_prompt(body: bytes, *, answered: bool = True) -> Prompt:
    """What a caller asks; without `answered`, for its tokens only. Refusal names the field that doesn't fit."""
    try:
        check_utf8(body)
        asked = _asked(body)
        fields = _fields(body)
        texts, last, seen = _texts(asked)
    except msgspec.ValidationError as error:
        raise _bad(f"the body doesn't fit: {error}") from None
    except RecursionError:
        raise _bad("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(f"the body is no JSON: {error}") from None
    if not asked.messages:
        raise _bad("`messages` is empty; write a list of {role, content}")
    if answered and (asked.max_tokens is None or asked.max_tokens < 1):
        raise _bad("`max_tokens` is missing, or below 1; write how many tokens the answer may have")
    chars = sum(len(text) + _CHARS_A_MESSAGE for text in texts) + len(fields.get("tools", b""))
    formatted = asked.output_format != NULL or (asked.output_config is not None and asked.output_config.format != NULL)
    needs = {"tools": bool(asked.tools), "images": seen, "json_schema": formatted}
    needed = frozenset(name for name, is_needed in needs.items() if is_needed)
    return Prompt(
        Form.MESSAGES,
        asked.model[:NAME_CHARS],
        fields,
        bool(asked.stream),
        True,
        last,
        chars,
        needed,
        max(asked.max_tokens or 0, 0),
    )


def _texts(asked: _Asked) -> tuple[list[str], str, bool]:
    """All that is said, the last that the caller says, and whether something is to be looked at."""
    seen = False
    texts, last = ([] if asked.system is None else [_said(asked.system)[0]]), ""
    for message in asked.messages:
        text, looks = _said(message.content)
        seen = seen or looks
        texts.append(text)
        if message.role == "user" and text:
            last = text
    return texts, last, seen


def _said(content: _Content) -> tuple[str, bool]:
    if isinstance(content, str):
        return content, False
    texts: list[str] = []
    seen = False
    for block in content:
        if block.text:
            texts.append(block.text)
        seen = seen or block.type in _SEEN
        if block.type == "tool_result" and block.content != NULL:
            text, looks = _said(_content(block.content))
            texts.append(text)
            seen = seen or looks
    return "\n".join(texts), seen


def encode_prompt(prompt: Prompt, serves: msgspec.Raw) -> bytes:
    """The prompt for an endpoint that calls the model `serves` (as JSON)."""
    return _encode({**prompt.fields, "model": serves})


def read_answer(body: bytes, look: Look = Look.NOTHING) -> Whole:
    """What a whole answer says of itself. Wrong where it is none, or not complete."""
    try:
        check_utf8(body)
        answer = _answered(body)
    except msgspec.ValidationError as error:
        raise Wrong(f"it doesn't fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Wrong("it is no JSON") from None
    if answer.type != "message":
        raise Wrong("it is an error in the place of an answer" if answer.type == "error" else "it is no message")
    if answer.stop_reason is None:
        raise Wrong("it has no stop_reason, so it isn't complete")
    chars = sum(map(_chars, answer.content))
    said = Said("".join([block.text for block in answer.content if block.text])) if look else None
    return Whole(_tokens(answer.usage), answer.model[:NAME_CHARS], chars, body, said)


class Stream:
    """One answer as it arrives in events."""

    __slots__ = ("_look", "_stopped", "_text", "answered_as", "chars", "complete", "read_so_far", "tokens")

    def __init__(self, look: Look = Look.NOTHING) -> None:
        self._look = look
        self._text: list[str] = []
        self.tokens: Tokens | None = None
        self.read_so_far: Tokens | None = None
        self.answered_as = ""
        self.chars = 0
        self.complete = self._stopped = False

    @property
    def said(self) -> Said | None:
        """As of answer.Stream."""
        return Said("".join(self._text)) if self._look else None

    def read(self, data: bytes) -> tuple[Piece, ...]:
        """As of answer.Stream."""
        try:
            check_utf8(data)
            event = _event(data)
        except msgspec.ValidationError as error:
            raise Wrong(f"it doesn't fit: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Wrong("it is no JSON") from None
        said = False
        match event.type:
            case "error":
                raise Wrong("it is an error in the place of an answer")
            case "message_start" if event.message is not None:
                self.answered_as = event.message.model[:NAME_CHARS]
                self.read_so_far = _tokens(event.message.usage)
            case "content_block_start" if event.content_block is not None:
                said = event.content_block.type not in ("text", "thinking")
            case "content_block_delta" if event.delta is not None:
                self.chars += _chars(event.delta)
                said = bool(event.delta.text or event.delta.thinking or event.delta.partial_json)
                if self._look and event.delta.text:
                    self._text.append(event.delta.text)
            case "message_delta":
                self.complete = self.complete or (event.delta is not None and event.delta.stop_reason is not None)
                self.tokens = _tokens(event.usage, self.read_so_far) or self.tokens
            case "message_stop":
                self._stopped = True
            case _:
                pass  # pings, ends of blocks, and what the API may get later
        return (Piece(data, said),)

    def end(self) -> tuple[Piece, ...]:
        """As of answer.Stream: clients wait for an end that says so."""
        return () if self._stopped else (Piece(_STOP),)


def _chars(block: _Written) -> int:
    texts = (block.text, block.thinking, block.partial_json)
    return sum(len(text) for text in texts if text) + len(bytes(block.input))


def _tokens(usage: msgspec.Raw, before: Tokens | None = None) -> Tokens | None:
    """The tokens that a vendor states, in a stream after what it has stated `before`; None where it states none, or
    what can't be.
    """
    try:
        stated = _usage(usage)
    except msgspec.DecodeError:
        return None
    if stated.output_tokens is None or (stated.input_tokens is None and before is None):
        return None
    cached = stated.cache_read_input_tokens
    written = stated.cache_creation_input_tokens
    before = before or Tokens()
    cached = before.cached if cached is None else cached
    written = before.cache_write if written is None else written
    plain = before.input - before.cached - before.cache_write if stated.input_tokens is None else stated.input_tokens
    return believed(Tokens(plain + cached + written, stated.output_tokens, cached, written)) if plain >= 0 else None


def read_error(body: bytes) -> Error:
    """What the body of a refusal says; nothing where it isn't in the API's form."""
    try:
        told = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        error = msgspec.json.decode(told.get("error", msgspec.Raw(b"{}")), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Error()
    message = error.get("message")
    if not isinstance(message, str):
        return Error()
    # It has no code of its own for this.
    return Error(message, "context_length_exceeded" if message.startswith("prompt is too long") else "")


def read_count(body: bytes) -> int:
    """The tokens of a prompt that a vendor has counted. Wrong."""
    try:
        counted = _usage(body).input_tokens
    except (msgspec.DecodeError, UnicodeDecodeError):
        counted = None
    if counted is None or not 0 <= counted <= MOST_TOKENS:
        raise Wrong("it states no `input_tokens`")
    return counted


def encode_error(refusal: Refusal) -> bytes:
    """A refusal in the API's form."""
    status = HTTP_STATUS[refusal.reason]
    kind = _KINDS.get(status) or ("invalid_request_error" if refusal.reason.fault is Fault.CALLER else "api_error")
    told = {"type": kind, "message": refusal.message, "code": refusal.reason.word}
    return _encode({"type": "error", "error": told})


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def event_name(data: bytes) -> str:
    """What an event is called: its type."""
    return _typed(data).type


def encode_model(name: str, created_s: int, window: int) -> dict[str, Any]:
    """A name that can be asked, as the API lists it. `window`: the tokens that a prompt may have (0: unknown)."""
    created = datetime.fromtimestamp(created_s, UTC).isoformat().replace("+00:00", "Z")
    unknown = dict.fromkeys(("capabilities", "deprecated_at", "line", "max_tokens", "retires_at"))
    known = {"type": "model", "id": name, "display_name": name, "created_at": created, "lifecycle": "active"}
    return {**known, **unknown, "max_input_tokens": window or None}


def encode_models(windows: Mapping[str, int], created_s: int) -> bytes:
    """All of them, on one page."""
    data = [encode_model(name, created_s, window) for name, window in windows.items()]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return _encode({"data": data, "has_more": False, "first_id": first, "last_id": last})


def encode_count(tokens: int) -> bytes:
    return _encode({"input_tokens": tokens})


def _bad(message: str) -> Refusal:
    return Refusal(Reason.INVALID_REQUEST, message)

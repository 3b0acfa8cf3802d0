"""OpenAI's API as callers and vendors write it: prompts, answers, the chunks of a stream, errors. Pure.

A prompt's fields, and an answer's bytes, are passed on as they were written: only what decides or costs something is
read. (The API: github.com/openai/openai-openapi.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from servery.terms.reasons import Fault, Reason, Refusal
from servery.terms.text import Fields, Form, Look, Piece, Prompt, Said, Tokens
from servery.wire.status import HTTP_STATUS

DONE = b"[DONE]"
NULL = msgspec.Raw(b"null")
_CHARS_A_TOKEN = 4  # of prompts that are written in tokens
_CHARS_A_MESSAGE = 16  # for its role, and what parts it from the next one
_NAME_CHARS = 256

T = TypeVar("T")


class _Part(msgspec.Struct, gc=False):
    type: str
    text: str | None = None


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class _Format(msgspec.Struct, gc=False):
    type: str


_Input = str | list[str | int | list[int]]  # a text or some, or the same in tokens


class _Asked(msgspec.Struct, gc=False):
    """What is read of every prompt."""

    model: str
    messages: list[_Message] | None = None
    prompt: _Input | None = None
    input: _Input | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    response_format: _Format | None = None
    logprobs: bool | int | None = None


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    cache_creation_input_tokens: int | None = None


class _Said(msgspec.Struct, gc=False):
    """A message, or what a chunk adds to it."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    function_call: msgspec.Raw = NULL
    audio: msgspec.Raw = NULL


class _Likely(msgspec.Struct, gc=False):
    logprob: float | None = None
    top_logprobs: list[_Likely] | None = None


class _Logprobs(msgspec.Struct, gc=False):
    """As chat has them (`content`), and as completions do."""

    content: list[_Likely] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Sure(msgspec.Struct, gc=False):
    logprobs: _Logprobs | None = None


class _Looked(msgspec.Struct, gc=False):
    """What is read of an answer, or a chunk, whose log-probabilities are looked at."""

    choices: list[_Sure] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    message: _Said | None = None
    delta: _Said | None = None
    text: str | None = None


class _Answered(msgspec.Struct, gc=False):
    """What is read of an answer, and of a chunk."""

    model: str | None = None
    choices: list[_Choice] | None = None
    data: list[msgspec.Raw] | None = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class Wrong(Exception):
    """An answer that can't be one. The message says why, and holds nothing of the answer."""


class Whole(msgspec.Struct, frozen=True):
    """What is to be known of a whole answer, and its bytes as the caller gets them. Without `tokens` the vendor didn't
    say; `chars` are those of its text.
    """

    tokens: Tokens | None
    answered_as: str
    chars: int
    data: bytes
    said: Said | None = None


class Error(msgspec.Struct, frozen=True):
    """What a vendor says of a refusal."""

    message: str = ""
    code: str = ""


_fields = msgspec.json.Decoder(Fields).decode
_asked = msgspec.json.Decoder(_Asked).decode
_answered = msgspec.json.Decoder(_Answered).decode
_looked = msgspec.json.Decoder(_Looked).decode
_usage = msgspec.json.Decoder(_Usage).decode
_encode = msgspec.json.Encoder().encode
_INCLUDE_USAGE = msgspec.Raw(b'{"include_usage":true}')


def decode_prompt(form: Form, body: bytes) -> Prompt:
    """What a caller asks. Refusal names the field that doesn't fit."""
    try:
        asked = _asked(body)
        fields = _fields(body)
    except msgspec.ValidationError as error:
        raise _bad(f"the body doesn't fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(f"the body is no JSON: {error}") from None
    texts, last, images = _texts(form, asked)
    stream = bool(asked.stream) and form is not Form.EMBEDDINGS
    wanted = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    chars = sum(len(text) + _CHARS_A_MESSAGE for text in texts) + sum(
        len(fields[name]) for name in ("tools", "functions") if name in fields
    )
    most = asked.max_completion_tokens or asked.max_tokens or 0
    return Prompt(
        form, asked.model[:_NAME_CHARS], fields, stream, wanted, last, chars, _needs(asked, images), max(most, 0)
    )


def _texts(form: Form, asked: _Asked) -> tuple[list[str], str, bool]:
    """All that is said, the last that the caller says, and whether there are images."""
    if form is Form.CHAT:
        if not asked.messages:
            raise _bad("`messages` is missing or empty; write a list of {role, content}")
        said = [_content(message) for message in asked.messages]
        last = next((text for text, of in zip(said[::-1], asked.messages[::-1], strict=True) if of.role == "user"), "")
        parts = [part for message in asked.messages if isinstance(message.content, list) for part in message.content]
        return said, last, any(part.type == "image_url" for part in parts)
    name, given = ("prompt", asked.prompt) if form is Form.COMPLETIONS else ("input", asked.input)
    if given is None or given == []:
        raise _bad(f"`{name}` is missing or empty; write a text, or a list of texts")
    said = [given] if isinstance(given, str) else _listed(given)
    return said, said[-1], False


def _listed(given: Sequence[str | int | list[int]]) -> list[str]:
    """Texts as they are; for tokens, blanks that are as long as the text may be."""
    lengths = [1 if isinstance(one, int) else len(one) for one in given if not isinstance(one, str)]
    texts = [one for one in given if isinstance(one, str)]
    return [*texts, " " * (_CHARS_A_TOKEN * sum(lengths))] if lengths else texts


def _content(message: _Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join([part.text for part in message.content or () if part.text])


def _needs(asked: _Asked, images: bool) -> frozenset[str]:
    needs = {
        "tools": bool(asked.tools or asked.functions),
        "images": images,
        "json_schema": asked.response_format is not None and asked.response_format.type == "json_schema",
        "logprobs": asked.logprobs is not None and asked.logprobs is not False,
    }
    return frozenset(name for name, needed in needs.items() if needed)


def encode_prompt(prompt: Prompt, serves: msgspec.Raw, look: Look = Look.NOTHING) -> bytes:
    """The prompt for an endpoint that calls the model `serves` (as JSON). Asked for besides: a stream's usage, and what is
    to be looked at.
    """
    fields: Fields = {**prompt.fields, "model": serves}
    if prompt.stream:
        fields["stream_options"] = _with_usage(prompt.fields.get("stream_options"))
    if look >= Look.LOGPROBS:
        if prompt.form is Form.CHAT:
            fields["logprobs"] = msgspec.Raw(b"true")
            if look is Look.MARGINS and fields.get("top_logprobs") in (None, NULL, b"0", b"1"):
                fields["top_logprobs"] = msgspec.Raw(b"2")
        elif not hides_logprobs(prompt, look):
            pass  # the caller's own number
        else:
            fields["logprobs"] = msgspec.Raw(b"2" if look is Look.MARGINS else b"1")
    return _encode(fields)


def hides_logprobs(prompt: Prompt, look: Look) -> bool:
    """Whether log-probabilities are asked for that the caller doesn't want."""
    return look >= Look.LOGPROBS and "logprobs" not in prompt.needs


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    if options is None or options == NULL:
        return _INCLUDE_USAGE
    return msgspec.Raw(_encode({**_fields(options), "include_usage": True}))


def read_answer(form: Form, body: bytes, look: Look = Look.NOTHING, hide: bool = False) -> Whole:
    """What a whole answer says of itself. `hide` its log-probabilities. Wrong where it is none, or not complete."""
    answer = _read(body)
    tokens = _tokens(answer.usage)
    if form is Form.EMBEDDINGS:
        if not answer.data:
            raise Wrong("it has no `data`")
        return Whole(tokens, _name(answer), 0, body, Said() if look else None)
    if not answer.choices:
        raise Wrong("it has no `choices`")
    if any(choice.finish_reason is None for choice in answer.choices):
        raise Wrong("it has no finish_reason, so it isn't complete")
    chars = 0
    for choice in answer.choices:
        chars += _chars(choice)
    if not look:
        return Whole(tokens, _name(answer), chars, body)
    first = answer.choices[0]
    text = (first.message.content or "") if first.message is not None else first.text or ""
    said = Said(text, *_sure(body)) if look >= Look.LOGPROBS else Said(text)
    return Whole(tokens, _name(answer), chars, _without_logprobs(body) if hide else body, said)


def _sure(data: bytes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The log-probabilities of the first choice's tokens, and their margins."""
    try:
        choices = _looked(data).choices
    except msgspec.DecodeError:
        return (), ()
    told = choices[0].logprobs if choices else None
    if told is None:
        return (), ()
    if told.content is None:
        tops = [sorted((one or {}).values())[-2:] for one in told.top_logprobs or ()]
        logprobs = tuple(value for value in told.token_logprobs or () if value is not None)
    else:
        tops = [
            sorted(top.logprob for top in one.top_logprobs or () if top.logprob is not None)[-2:]
            for one in told.content
        ]
        logprobs = tuple(one.logprob for one in told.content if one.logprob is not None)
    return logprobs, tuple(_margin(top) for top in tops if top)


def _margin(top: list[float]) -> float:
    likely = [math.exp(min(value, 0.0)) for value in top]
    return likely[-1] - (likely[0] if len(likely) > 1 else 0.0)


def _without_logprobs(data: bytes) -> bytes:
    fields = _fields(data)
    choices = msgspec.json.decode(fields["choices"], type=list[Fields])
    fields["choices"] = msgspec.Raw(_encode([{**choice, "logprobs": NULL} for choice in choices]))
    return _encode(fields)


class Stream:
    """One answer as it arrives in chunks. `tokens` is None as long as the vendor hasn't said."""

    __slots__ = ("_finished", "_hide", "_look", "_said", "_seen", "_usage_wanted", "answered_as", "chars", "tokens")

    def __init__(self, usage_wanted: bool, look: Look = Look.NOTHING, hide: bool = False) -> None:
        self._usage_wanted = usage_wanted
        self._look = look
        self._hide = hide
        self._said: list[Said] = []
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self.tokens: Tokens | None = None
        self.answered_as = ""
        self.chars = 0

    @property
    def complete(self) -> bool:
        """Whether every choice has its finish reason: `[DONE]` may be missing, and proves nothing."""
        return bool(self._seen) and self._seen == self._finished

    @property
    def said(self) -> Said | None:
        """What was looked at."""
        if not self._look:
            return None
        parts = self._said
        logprobs = tuple(value for part in parts for value in part.logprobs)
        margins = tuple(value for part in parts for value in part.margins)
        return Said("".join([part.text for part in parts]), logprobs, margins)

    def read(self, data: bytes) -> Piece:
        """A chunk as the caller gets it. Wrong where it is none, or an error."""
        chunk = _read(data)
        if chunk.usage != NULL or b'"usage"' in data:
            self.tokens = _tokens(chunk.usage) or self.tokens
            if not self._usage_wanted:
                stated_alone = not chunk.choices and chunk.usage != NULL
                data = b"" if stated_alone else _without_usage(data)
        if not self.answered_as:
            self.answered_as = _name(chunk)
        said = False
        for choice in chunk.choices or ():
            self._seen.add(choice.index)
            if choice.finish_reason is not None:
                self._finished.add(choice.index)
            self.chars += _chars(choice)
            said = said or _says(choice)
        if self._look and chunk.choices and data:
            first = chunk.choices[0]
            text = (first.delta.content if first.delta is not None else first.text) or ""
            self._said.append(Said(text, *_sure(data)) if self._look >= Look.LOGPROBS else Said(text))
            data = _without_logprobs(data) if self._hide else data
        return Piece(data, said)


def _read(body: bytes) -> _Answered:
    try:
        answer = _answered(body)
    except msgspec.ValidationError as error:
        raise Wrong(f"it doesn't fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Wrong("it is no JSON") from None
    if answer.error != NULL:
        raise Wrong("it is an error in the place of an answer")
    return answer


def _without_usage(data: bytes) -> bytes:
    fields = _fields(data)
    fields.pop("usage", None)
    return _encode(fields)


def _name(answer: _Answered) -> str:
    return (answer.model or "")[:_NAME_CHARS]


def _chars(choice: _Choice) -> int:
    said = choice.message or choice.delta
    if said is None:
        return len(choice.text or "")
    calls = [*(said.tool_calls or ()), *((said.function_call,) if said.function_call != NULL else ())]
    texts = (said.content, said.refusal, said.reasoning_content)
    return sum(len(text) for text in texts if text) + sum(map(len, calls))


def _says(choice: _Choice) -> bool:
    said = choice.delta
    return bool(choice.text) or (
        said is not None
        and bool(
            said.content
            or said.refusal
            or said.reasoning_content
            or said.tool_calls
            or said.function_call != NULL
            or said.audio != NULL
        )
    )


def _tokens(usage: msgspec.Raw) -> Tokens | None:
    """The tokens that a vendor states; None where it states none, or what can't be."""
    try:
        stated = _usage(usage)
    except msgspec.DecodeError:
        return None
    if stated.prompt_tokens is None:
        return None
    total = stated.total_tokens or 0
    output = stated.completion_tokens if stated.completion_tokens is not None else total - stated.prompt_tokens
    cached = (stated.prompt_tokens_details and stated.prompt_tokens_details.cached_tokens) or 0
    reasoning = (stated.completion_tokens_details and stated.completion_tokens_details.reasoning_tokens) or 0
    written = stated.cache_creation_input_tokens or 0
    tokens = Tokens(stated.prompt_tokens, max(output, 0), cached, written, reasoning)
    return tokens if min(stated.prompt_tokens, cached, written, reasoning) >= 0 else None


def read_error(body: bytes) -> Error:
    """What the body of a refusal says; nothing where it isn't in the API's form."""
    try:
        told = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        error = msgspec.json.decode(told.get("error", msgspec.Raw(b"{}")), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Error()
    message, code = error.get("message"), error.get("code")
    return Error(message if isinstance(message, str) else "", code if isinstance(code, str) else "")


def encode_error(refusal: Refusal, param: str | None = None) -> bytes:
    """A refusal in the API's form."""
    status = HTTP_STATUS[refusal.reason]
    kind = _KINDS.get(status) or ("invalid_request_error" if refusal.reason.fault is Fault.CALLER else "server_error")
    told = {"message": refusal.message, "type": kind, "param": param, "code": refusal.reason.word}
    return _encode({"error": told})


_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def encode_model(name: str, created: int) -> dict[str, Any]:
    """A name that can be asked, as the API lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "servery"}


def encode_models(names: Iterable[str], created: int) -> bytes:
    return _encode({"object": "list", "data": [encode_model(name, created) for name in names]})


def encode_reply(form: Form, text: str, reply_id: str, created: int, model: str) -> bytes:
    """A whole answer that says `text`, and has taken no tokens."""
    chat = form is Form.CHAT
    kind = "chat.completion" if chat else "text_completion"
    message = {"role": "assistant", "content": text, "refusal": None}
    said: dict[str, Any] = {"message": message} if chat else {"text": text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    head = {"id": reply_id, "object": kind, "created": created, "model": model}
    return _encode({**head, "choices": [choice], "usage": usage})


def encode_reply_chunks(form: Form, text: str, reply_id: str, created: int, model: str) -> list[bytes]:
    """The same as a stream's chunks: what is said, then its end."""
    chat = form is Form.CHAT
    kind = "chat.completion.chunk" if chat else "text_completion"
    head = {"id": reply_id, "object": kind, "created": created, "model": model}
    said: dict[str, Any] = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
    nothing: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    return [
        _encode({**head, "choices": [{"index": 0, **part, "finish_reason": finish}]})
        for part, finish in ((said, None), (nothing, "stop"))
    ]


def _bad(message: str) -> Refusal:
    return Refusal(Reason.INVALID_REQUEST, message)

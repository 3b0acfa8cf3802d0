"""Answers in OpenAI's API, whole and in the chunks of a stream. Pure.

Their bytes are passed on as they were written: only what decides or costs something is read.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from servery.terms.text import Fields, Form, Look, Piece, Said, Tokens
from servery.wire.answer import NAME_CHARS, Whole, Wrong, believed
from servery.wire.openai import NULL, encode, fields_of
from servery.wire.utf8 import check_utf8


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


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


_answered = msgspec.json.Decoder(_Answered).decode
_looked = msgspec.json.Decoder(_Looked).decode
_usage = msgspec.json.Decoder(_Usage).decode
_ANOTHERS = "it answers another form of prompt"


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
    if any((choice.message if form is Form.CHAT else choice.text) is None for choice in answer.choices):
        raise Wrong(_ANOTHERS)
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
    fields = fields_of(data)
    choices = msgspec.json.decode(fields["choices"], type=list[Fields])
    fields["choices"] = msgspec.Raw(encode([{**choice, "logprobs": NULL} for choice in choices]))
    return encode(fields)


class Stream:
    """One answer as it arrives in chunks."""

    read_so_far = None
    __slots__ = (
        "_chat",
        "_finished",
        "_hide",
        "_look",
        "_said",
        "_seen",
        "_usage_wanted",
        "answered_as",
        "chars",
        "tokens",
    )

    def __init__(
        self, usage_wanted: bool, look: Look = Look.NOTHING, hide: bool = False, form: Form = Form.CHAT
    ) -> None:
        self._chat = form is Form.CHAT
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

    def read(self, data: bytes) -> tuple[Piece, ...]:
        """As of answer.Stream."""
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
            if (choice.text if self._chat else choice.delta) is not None:
                raise Wrong(_ANOTHERS)
            self._seen.add(choice.index)
            if choice.finish_reason is not None:
                self._finished.add(choice.index)
            self.chars += _chars(choice)
            said = said or _says(choice)
        if self._look and chunk.choices and data:
            first = chunk.choices[0]
            if not first.index:  # of several choices the first is looked at
                text = (first.delta.content if first.delta is not None else first.text) or ""
                self._said.append(Said(text, *_sure(data)) if self._look >= Look.LOGPROBS else Said(text))
            data = _without_logprobs(data) if self._hide else data
        return (Piece(data, said),)

    def end(self) -> tuple[Piece, ...]:
        """As of answer.Stream."""
        return ()


def _read(body: bytes) -> _Answered:
    try:
        check_utf8(body)
        answer = _answered(body)
    except msgspec.ValidationError as error:
        raise Wrong(f"it doesn't fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Wrong("it is no JSON") from None
    if answer.error != NULL:
        raise Wrong("it is an error in the place of an answer")
    return answer


def _without_usage(data: bytes) -> bytes:
    fields = fields_of(data)
    fields.pop("usage", None)
    return encode(fields)


def _name(answer: _Answered) -> str:
    return (answer.model or "")[:NAME_CHARS]


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
    written = (stated.prompt_tokens_details and stated.prompt_tokens_details.cache_write_tokens) or 0
    written = written or stated.cache_creation_input_tokens or 0
    return believed(Tokens(stated.prompt_tokens, output, cached, written, reasoning))


def encode_reply(form: Form, text: str, reply_id: str, created: int, model: str) -> bytes:
    """A whole answer that says `text`, and has taken no tokens."""
    chat = form is Form.CHAT
    kind = "chat.completion" if chat else "text_completion"
    message = {"role": "assistant", "content": text, "refusal": None}
    said: dict[str, Any] = {"message": message} if chat else {"text": text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    head = {"id": reply_id, "object": kind, "created": created, "model": model}
    return encode({**head, "choices": [choice], "usage": usage})


def encode_reply_chunks(form: Form, text: str, reply_id: str, created: int, model: str) -> list[bytes]:
    """The same as a stream's chunks: what is said, then its end."""
    chat = form is Form.CHAT
    kind = "chat.completion.chunk" if chat else "text_completion"
    head = {"id": reply_id, "object": kind, "created": created, "model": model}
    said: dict[str, Any] = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
    nothing: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    return [
        encode({**head, "choices": [{"index": 0, **part, "finish_reason": finish}]})
        for part, finish in ((said, None), (nothing, "stop"))
    ]

"""OpenAI's API as callers write it: prompts, errors, the list of models. Pure.

A prompt's fields are passed on as they were written: only what decides or costs something is read. (The API:
github.com/openai/openai-openapi.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from servery.terms.reasons import Fault, Reason, Refusal
from servery.terms.text import Fields, Form, Look, Prompt
from servery.wire.answer import NAME_CHARS, Error
from servery.wire.status import HTTP_STATUS
from servery.wire.utf8 import check_utf8

DONE = b"[DONE]"
NULL = msgspec.Raw(b"null")
_CHARS_A_TOKEN = 4  # of prompts that are written in tokens
_CHARS_A_MESSAGE = 16  # for its role, and what parts it from the next one


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


fields_of = msgspec.json.Decoder(Fields).decode
_asked = msgspec.json.Decoder(_Asked).decode
encode = msgspec.json.Encoder().encode
_INCLUDE_USAGE = msgspec.Raw(b'{"include_usage":true}')


def decode_prompt(form: Form, body: bytes) -> Prompt:
    """What a caller asks. Refusal names the field that doesn't fit."""
    try:
        check_utf8(body)
        asked = _asked(body)
        fields = fields_of(body)
    except msgspec.ValidationError as error:
        raise _bad(f"the body doesn't fit: {error}") from None
    except RecursionError:
        raise _bad("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(f"the body is no JSON: {error}") from None
    texts, last, images = _texts(form, asked)
    stream = bool(asked.stream)
    if stream and form is Form.EMBEDDINGS:
        raise _bad("`stream` is true, but vectors come in one; leave it out")
    wanted = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    chars = sum(map(len, texts)) + _CHARS_A_MESSAGE * len(texts)
    if asked.tools or asked.functions:
        chars += sum([len(fields[name]) for name in ("tools", "functions") if name in fields])
    most = asked.max_completion_tokens or asked.max_tokens or 0
    return Prompt(
        form, asked.model[:NAME_CHARS], fields, stream, wanted, last, chars, _needs(form, asked, images), max(most, 0)
    )


def _texts(form: Form, asked: _Asked) -> tuple[list[str], str, bool]:
    """All that is said, the last that the caller says, and whether there are images."""
    if form is Form.CHAT:
        if not asked.messages:
            raise _bad("`messages` is missing or empty; write a list of {role, content}")
        said: list[str] = []
        last, images = "", False
        for message in asked.messages:
            content = message.content
            if not isinstance(content, str):
                images = images or any(part.type == "image_url" for part in content or ())
                content = "\n".join([part.text for part in content or () if part.text])
            said.append(content)
            if message.role == "user":
                last = content
        return said, last, images
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


_NO_NEEDS: frozenset[str] = frozenset()


def _needs(form: Form, asked: _Asked, images: bool) -> frozenset[str]:
    if form is Form.CHAT and not (
        images or asked.tools or asked.functions or asked.response_format or asked.logprobs is not None
    ):
        return _NO_NEEDS
    needs = {
        "tools": bool(asked.tools or asked.functions),
        "images": images,
        "json_schema": asked.response_format is not None and asked.response_format.type == "json_schema",
        "logprobs": asked.logprobs is not None and asked.logprobs is not False,
    }
    named = [name for name, needed in needs.items() if needed]
    return frozenset(named if form is Form.CHAT else [*named, form.value])


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
        elif hides_logprobs(prompt, look):  # or the caller's own number stays
            fields["logprobs"] = msgspec.Raw(b"2" if look is Look.MARGINS else b"1")
    return encode(fields)


def hides_logprobs(prompt: Prompt, look: Look) -> bool:
    """Whether log-probabilities are asked for that the caller doesn't want."""
    return look >= Look.LOGPROBS and "logprobs" not in prompt.needs


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    if options is None or options == NULL:
        return _INCLUDE_USAGE
    return msgspec.Raw(encode({**fields_of(options), "include_usage": True}))


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
    return encode({"error": told})


_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def encode_model(name: str, created: int) -> dict[str, Any]:
    """A name that can be asked, as the API lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "servery"}


def encode_models(names: Iterable[str], created: int) -> bytes:
    return encode({"object": "list", "data": [encode_model(name, created) for name in names]})


def _bad(message: str) -> Refusal:
    return Refusal(Reason.INVALID_REQUEST, message)

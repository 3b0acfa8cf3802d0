"""How the APIs of language models are spoken to callers: one Voice for each that differs in it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from servery.terms.reasons import Refusal
from servery.terms.text import Form, Prompt
from servery.wire import messages, openai, responses
from servery.wire.sse import event


class Voice(msgspec.Struct, frozen=True):
    """`event` makes one of a stream, of its data; `done` ends a stream that was complete."""

    decode: Callable[[Form, bytes], Prompt]
    event: Callable[[bytes], bytes]
    encode_error: Callable[[Refusal], bytes]
    done: bytes = b""


def _message(form: Form, body: bytes) -> Prompt:
    del form
    return messages.decode_prompt(body)


def _named(data: bytes) -> bytes:
    return event(data, messages.event_name(data))


OPENAI = Voice(openai.decode_prompt, event, openai.encode_error, event(openai.DONE))
RESPONSES = Voice(responses.decode_prompt, _named, openai.encode_error)
ANTHROPIC = Voice(_message, _named, messages.encode_error)
VOICES = dict.fromkeys(Form, OPENAI) | {
    Form.MESSAGES: ANTHROPIC,
    Form.RESPONSES: RESPONSES,
    Form.MODERATIONS: RESPONSES,
}

"""How an endpoint is asked for a prompt, and its answer read: by the endpoint's API, and the one that the caller writes. Pure."""

from __future__ import annotations

from typing import Protocol

import msgspec

from servery.terms.text import Form, Look, Prompt
from servery.wire import chat_by_messages, messages, messages_by_chat, openai, openai_answers, responses
from servery.wire.answer import Stream, Whole


class Dialect(Protocol):
    """The path is that behind the endpoint's address. `serves` is what the endpoint calls the model, as JSON."""

    @property
    def path(self) -> str: ...
    def encode_prompt(self, prompt: Prompt, serves: msgspec.Raw, look: Look) -> bytes:
        """The body of the call. Refusal where it can't hold the prompt."""
        ...

    def read_answer(self, prompt: Prompt, body: bytes, look: Look, now_s: int) -> Whole:
        """Wrong where it is no answer."""
        ...

    def stream(self, prompt: Prompt, look: Look, now_s: int) -> Stream: ...


class OpenAi:
    """OpenAI's chat, completions and embeddings, as they are."""

    def __init__(self, form: Form) -> None:
        self.path = form.value

    def encode_prompt(self, prompt: Prompt, serves: msgspec.Raw, look: Look) -> bytes:
        return openai.encode_prompt(prompt, serves, look)

    def read_answer(self, prompt: Prompt, body: bytes, look: Look, now_s: int) -> Whole:
        del now_s
        return openai_answers.read_answer(prompt.form, body, look, openai.hides_logprobs(prompt, look))

    def stream(self, prompt: Prompt, look: Look, now_s: int) -> Stream:
        del now_s
        return openai_answers.Stream(prompt.usage_wanted, look, openai.hides_logprobs(prompt, look), prompt.form)


class Responses:
    """OpenAI's responses and moderations, as they are."""

    def __init__(self, form: Form) -> None:
        self.path = form.value

    def encode_prompt(self, prompt: Prompt, serves: msgspec.Raw, look: Look) -> bytes:
        del look
        return messages.encode_prompt(prompt, serves)

    def read_answer(self, prompt: Prompt, body: bytes, look: Look, now_s: int) -> Whole:
        del now_s
        return responses.read_answer(prompt.form, body, look)

    def stream(self, prompt: Prompt, look: Look, now_s: int) -> Stream:
        del prompt, now_s
        return responses.Stream(look)


class Messages:
    """Anthropic's messages, as they are."""

    path = Form.MESSAGES.value

    def encode_prompt(self, prompt: Prompt, serves: msgspec.Raw, look: Look) -> bytes:
        del look
        return messages.encode_prompt(prompt, serves)

    def read_answer(self, prompt: Prompt, body: bytes, look: Look, now_s: int) -> Whole:
        del prompt, now_s
        return messages.read_answer(body, look)

    def stream(self, prompt: Prompt, look: Look, now_s: int) -> Stream:
        del prompt, now_s
        return messages.Stream(look)


class ChatByMessages:
    """OpenAI's chat, asked of an endpoint of Anthropic's API. `drop`: leave out what it can't hold."""

    path = Form.MESSAGES.value

    def __init__(self, model: str, drop: bool) -> None:
        self._model = model
        self._drop = drop

    def encode_prompt(self, prompt: Prompt, serves: msgspec.Raw, look: Look) -> bytes:
        del look
        return chat_by_messages.encode_prompt(prompt, serves, self._model, self._drop)

    def read_answer(self, prompt: Prompt, body: bytes, look: Look, now_s: int) -> Whole:
        del prompt
        return chat_by_messages.read_answer(body, look, now_s)

    def stream(self, prompt: Prompt, look: Look, now_s: int) -> Stream:
        return chat_by_messages.Stream(prompt.usage_wanted, look, now_s)


class MessagesByChat:
    """Anthropic's messages, asked of an endpoint of OpenAI's API. `drop`: leave out what it can't hold."""

    path = Form.CHAT.value

    def __init__(self, model: str, drop: bool) -> None:
        self._model = model
        self._drop = drop

    def encode_prompt(self, prompt: Prompt, serves: msgspec.Raw, look: Look) -> bytes:
        body = messages_by_chat.encode_prompt(prompt, serves, self._model, self._drop)
        if look < Look.LOGPROBS:
            return body
        chat = openai.fields_of(body)
        return openai.encode_prompt(msgspec.structs.replace(prompt, form=Form.CHAT, fields=chat), serves, look)

    def read_answer(self, prompt: Prompt, body: bytes, look: Look, now_s: int) -> Whole:
        del prompt, now_s
        return messages_by_chat.read_answer(body, look)

    def stream(self, prompt: Prompt, look: Look, now_s: int) -> Stream:
        del prompt, now_s
        return messages_by_chat.Stream(look)


def of_openai(model: str, drop: bool) -> dict[Form, Dialect]:
    """How an endpoint of OpenAI's API is asked."""
    plain = {form: OpenAi(form) for form in (Form.CHAT, Form.COMPLETIONS, Form.EMBEDDINGS)}
    passed = {form: Responses(form) for form in (Form.RESPONSES, Form.MODERATIONS)}
    return {**plain, **passed, Form.MESSAGES: MessagesByChat(model, drop)}


def of_anthropic(model: str, drop: bool) -> dict[Form, Dialect]:
    """How one of Anthropic's is."""
    return {Form.MESSAGES: Messages(), Form.CHAT: ChatByMessages(model, drop)}

"""Two more forms of OpenAI's API, which are passed on as they are: responses and moderations. Pure."""

from __future__ import annotations

import msgspec

from servery.terms.reasons import Reason, Refusal
from servery.terms.text import Fields, Form, Look, Piece, Prompt, Said, Tokens
from servery.wire.answer import NAME_CHARS, Whole, Wrong, believed
from servery.wire.utf8 import check_utf8

NULL = msgspec.Raw(b"null")
_CHARS_A_MESSAGE = 16  # for its role, and what parts it from the next one


class _Part(msgspec.Struct, gc=False):
    text: str | None = None


class _Item(msgspec.Struct, gc=False):
    """What is said, or one of the many other items that there are."""

    type: str = ""
    role: str = ""
    text: str | None = None  # of what is to be moderated
    content: str | list[_Part] | None = None


class _Asked(msgspec.Struct, gc=False):
    """What is read of every prompt. Both APIs let `model` away."""

    model: str = ""
    input: str | list[str | _Item] | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    tools: list[msgspec.Raw] | None = None


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Answered(msgspec.Struct, gc=False):
    """What is read of an answer, of which a stream has one in its last event."""

    model: str = ""
    status: str | None = None
    output: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class _Event(msgspec.Struct, gc=False):
    type: str
    response: _Answered | None = None
    delta: msgspec.Raw = NULL


_fields = msgspec.json.Decoder(Fields).decode
_asked = msgspec.json.Decoder(_Asked).decode
_answered = msgspec.json.Decoder(_Answered).decode
_event = msgspec.json.Decoder(_Event).decode
_usage = msgspec.json.Decoder(_Usage).decode
_ENDED = ("completed", "incomplete")


def decode_prompt(form: Form, body: bytes) -> Prompt:
    """What a caller asks. Refusal names the field that doesn't fit."""
    try:
        check_utf8(body)
        asked = _asked(body)
        fields = _fields(body)
    except msgspec.ValidationError as error:
        raise Refusal(Reason.INVALID_REQUEST, f"the body doesn't fit: {error}") from None
    except RecursionError:
        raise Refusal(Reason.INVALID_REQUEST, "the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(Reason.INVALID_REQUEST, f"the body is no JSON: {error}") from None
    if form is Form.MODERATIONS and asked.input is None:
        raise Refusal(Reason.INVALID_REQUEST, "`input` is missing; write a text, or a list of texts")
    given = [asked.input or ""] if not isinstance(asked.input, list) else asked.input
    texts = [asked.instructions or ""]
    last = ""
    for item in given:
        said = item if isinstance(item, str) else _said(item)
        texts.append(said)
        if isinstance(item, str) or item.role == "user":
            last = said
    chars = sum(len(text) + _CHARS_A_MESSAGE for text in texts) + len(fields.get("tools", b""))
    needs = {form.value, "tools"} if asked.tools else {form.value}
    stream = bool(asked.stream)
    if stream and form is Form.MODERATIONS:
        raise Refusal(Reason.INVALID_REQUEST, "`stream` is true, but a moderation comes in one; leave it out")
    most = max(asked.max_output_tokens or 0, 0)
    return Prompt(form, asked.model[:NAME_CHARS], fields, stream, True, last, chars, frozenset(needs), most)


def _said(item: _Item) -> str:
    if isinstance(item.content, list):
        return "\n".join([part.text for part in item.content if part.text])
    return item.content or item.text or ""


def read_answer(form: Form, body: bytes, look: Look = Look.NOTHING) -> Whole:
    """What a whole answer says of itself. Wrong where it is none, or not complete."""
    try:
        check_utf8(body)
        answer = _answered(body)
    except msgspec.ValidationError as error:
        raise Wrong(f"it doesn't fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Wrong("it is no JSON") from None
    if answer.error != NULL:
        raise Wrong("it is an error in the place of an answer")
    said = Said() if look else None
    if form is Form.MODERATIONS:
        if answer.results is None:
            raise Wrong("it has no `results`")
        return Whole(Tokens(), answer.model[:NAME_CHARS], 0, body, said)  # vendors bill nothing for it
    if answer.output is None:
        raise Wrong("it has no `output`")
    if answer.status is not None and answer.status not in (*_ENDED, "queued", "in_progress"):
        raise Wrong(f"its status is {answer.status[:32]!r}, so it isn't complete")
    return Whole(_tokens(answer.usage), answer.model[:NAME_CHARS], sum(map(len, answer.output)), body, said)


class Stream:
    """One response as it arrives in events."""

    read_so_far = None

    def __init__(self, look: Look = Look.NOTHING) -> None:
        self._look = look
        self.tokens: Tokens | None = None
        self.answered_as = ""
        self.chars = 0
        self.complete = False

    @property
    def said(self) -> Said | None:
        """As of answer.Stream."""
        return Said() if self._look else None

    def read(self, data: bytes) -> tuple[Piece, ...]:
        """As of answer.Stream."""
        try:
            check_utf8(data)
            event = _event(data)
        except msgspec.ValidationError as error:
            raise Wrong(f"it doesn't fit: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Wrong("it is no JSON") from None
        if event.type in ("error", "response.failed"):
            raise Wrong("it is an error in the place of an answer")
        if event.response is not None:
            self.answered_as = event.response.model[:NAME_CHARS]
            if event.type.removeprefix("response.") in _ENDED:
                self.complete = True
                self.tokens = _tokens(event.response.usage)
        said = event.delta != NULL
        self.chars += len(event.delta) if said else 0
        return (Piece(data, said),)

    def end(self) -> tuple[Piece, ...]:
        """As of answer.Stream."""
        return ()


def _tokens(usage: msgspec.Raw) -> Tokens | None:
    """The tokens that a vendor states; None where it states none, or what can't be."""
    try:
        stated = _usage(usage)
    except msgspec.DecodeError:
        return None
    if stated.input_tokens is None or stated.output_tokens is None:
        return None
    cached = (stated.input_tokens_details and stated.input_tokens_details.cached_tokens) or 0
    reasoning = (stated.output_tokens_details and stated.output_tokens_details.reasoning_tokens) or 0
    written = (stated.input_tokens_details and stated.input_tokens_details.cache_write_tokens) or 0
    return believed(Tokens(stated.input_tokens, stated.output_tokens, cached, written, reasoning))

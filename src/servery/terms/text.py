"""Text from callers and from language models: what is asked, what is answered, and the tokens that both are billed by."""

from __future__ import annotations

import enum

import msgspec

Fields = dict[str, msgspec.Raw]  # a JSON object's, each as it was written


class Form(enum.Enum):
    """What is asked for; the value is the path behind `/v1/`: of Anthropic's API `messages`, the others of OpenAI's."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MODERATIONS = "moderations"
    MESSAGES = "messages"


class Tokens(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a call is billed by. `cached` and `cache_write` are parts of `input`, `reasoning` is one of `output`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output


class TokenPrice(msgspec.Struct, frozen=True, gc=False):
    """Pico-dollars for a token of each kind."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    def of(self, tokens: Tokens) -> int:
        """Pico-dollars of a call."""
        if not (tokens.cached or tokens.cache_write or tokens.reasoning):
            return max(tokens.input, 0) * self.input + max(tokens.output, 0) * self.output
        plain = max(tokens.input - tokens.cached - tokens.cache_write, 0)
        said = max(tokens.output - tokens.reasoning, 0)
        return (
            plain * self.input
            + tokens.cached * self.cached
            + tokens.cache_write * self.cache_write
            + said * self.output
            + tokens.reasoning * self.reasoning
        )


class Prompt(msgspec.Struct, frozen=True):
    """What a caller asks in text. `fields` are those of its JSON object: what isn't known here is passed on.

    `text` is what it says, for whoever chooses a model by it; `chars` counts all characters that a model reads,
    `needs` names the capabilities that an answer takes, `most` the tokens that it may have (0: not said). `beta` are the
    parts of Anthropic's API that are asked for in a header.
    """

    form: Form
    called: str
    fields: Fields
    stream: bool
    usage_wanted: bool  # in the stream
    text: str
    chars: int
    needs: frozenset[str] = frozenset()
    most: int = 0
    beta: str = ""


class Look(enum.IntEnum):
    """What is looked at in an answer, beside what costs: each holds those before it."""

    NOTHING = 0
    TEXT = 1
    LOGPROBS = 2  # of the tokens that were written
    MARGINS = 3  # how much likelier each was than the next best


class Said(msgspec.Struct, frozen=True, gc=False):
    """What an answer says, as far as it was looked at; `margins` are differences of probabilities."""

    text: str = ""
    logprobs: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A part of an answer: JSON as the caller gets it (b"": nothing to send). `said`: it holds something of the answer."""

    data: bytes
    said: bool = False

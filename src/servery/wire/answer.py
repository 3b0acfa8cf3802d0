"""What is to be known of a language model's answer, whichever API it is written in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from servery.terms.text import Piece, Said, Tokens

NAME_CHARS = 256
# No call takes more, and at the dearest price so many cost what 64 bits hold.
MOST_TOKENS = 10**8


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


def believed(tokens: Tokens) -> Tokens | None:
    """What a vendor states of itself; None where it can't be."""
    parts = (tokens.input, tokens.output, tokens.cached, tokens.cache_write, tokens.reasoning)
    return tokens if min(parts) >= 0 and max(parts) <= MOST_TOKENS else None


class Error(msgspec.Struct, frozen=True):
    """What a vendor says of a refusal."""

    message: str = ""
    code: str = ""


class Stream(Protocol):
    """One answer as it arrives. `tokens` is None as long as the vendor hasn't said; `read_so_far` are those of the
    prompt, where it has said only these.
    """

    @property
    def tokens(self) -> Tokens | None: ...
    @property
    def read_so_far(self) -> Tokens | None: ...
    @property
    def answered_as(self) -> str: ...
    @property
    def chars(self) -> int: ...
    @property
    def complete(self) -> bool:
        """Whether a reason for its end was seen."""
        ...

    @property
    def said(self) -> Said | None:
        """What was looked at."""
        ...

    def read(self, data: bytes) -> Sequence[Piece]:
        """An event as the caller gets it. Wrong where it can't be one, or is an error."""
        ...

    def end(self) -> Sequence[Piece]:
        """What the caller gets after the last event."""
        ...

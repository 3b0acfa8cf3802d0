"""The fake vendor's tokens, its answers, and its invoice."""

from __future__ import annotations

import random
import re

import msgspec

# Its own vocabulary, which nobody else has: bits of words, digits in threes, and every other sign by itself.
_TOKEN = re.compile(r" ?[A-Za-z]{1,5}|\d{1,3}|\s|[^\sA-Za-z\d]")
_WORDS = [
    "the",
    "a",
    "model",
    "answer",
    "route",
    "cost",
    "price",
    "token",
    "cheap",
    "fast",
    "slow",
    "careful",
    "each",
    "when",
    "then",
    "because",
    "after",
    "before",
    "while",
    "number",
    "seven",
    "river",
    "stone",
    "garden",
    "light",
    "quiet",
    "measure",
    "account",
    "promise",
    "record",
    "question",
    "reason",
    "ledger",
    "copper",
]


def tokens_of(text: str) -> list[str]:
    """The text in the vendor's tokens."""
    return _TOKEN.findall(text)


def made_up(count: int, draw: random.Random) -> str:
    """A text of `count` tokens."""
    tokens: list[str] = []
    while len(tokens) < count:
        tokens += tokens_of((" " if tokens else "") + draw.choice(_WORDS))
    return "".join(tokens[:count])


class Line(msgspec.Struct):
    """What one call is billed for. `reported`: the caller was told these tokens; `ended`: there will be no more of them;
    `user` is whom the prompt names as its user.
    """

    number: int
    model: str
    stream: bool
    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    complete: bool = False
    reported: bool = False
    ended: bool = False
    user: str = ""

"""How sure a tier's own answer in text is, from 0 to 1, so that a cascade knows whether to ask for a better one. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from servery.terms.text import Look, Prompt, Said

_WORD = re.compile(r"\w+")


class Check(msgspec.Struct, frozen=True):
    """`score` says how sure an answer is that was looked at so far as `look`. `twice`: by `agreement` with a second answer."""

    look: Look
    score: Callable[[Prompt, Said], float]
    twice: bool = False


def check_of(kind: str) -> Check:
    """The check of this name."""
    return _CHECKS[kind]


def mean_logprob(_: Prompt, said: Said) -> float:
    """The geometric mean of the probabilities of an answer's tokens; 0 where a vendor doesn't tell them."""
    return math.exp(min(sum(said.logprobs) / len(said.logprobs), 0.0)) if said.logprobs else 0.0


def mean_margin(_: Prompt, said: Said) -> float:
    """How much likelier each token was than the next best, on average."""
    return sum(said.margins) / len(said.margins) if said.margins else 0.0


def is_as_asked(prompt: Prompt, said: Said) -> float:
    """1 where an answer is the JSON that the prompt's `response_format` wants, or it wants none."""
    asked = prompt.fields.get("response_format")
    wanted = _Wanted() if asked is None else msgspec.json.decode(asked, type=_Wanted | None) or _Wanted()
    if wanted.type not in ("json_object", "json_schema"):
        return 1.0
    try:
        value = msgspec.json.decode(said.text)
    except msgspec.DecodeError:
        return 0.0
    if wanted.type == "json_object":
        return float(isinstance(value, dict))
    import jsonschema_rs  # noqa: PLC0415 15 MB, where it is needed

    schema = wanted.json_schema.schema if wanted.json_schema is not None else msgspec.Raw(b"true")
    try:
        validator = jsonschema_rs.validator_for(msgspec.json.decode(schema), retriever=_never)
    except ValueError:  # no schema, or one that lies elsewhere: the vendor may know better
        return 1.0
    return float(validator.is_valid(value))


def agreement(one: Said, other: Said) -> float:
    """How much of two answers is the same: 1 where both end in the same number, 0 where in two; else F1 of their words."""
    numbers = [_last_number(said.text) for said in (one, other)]
    if None not in numbers:
        return float(numbers[0] == numbers[1])
    words, others = (Counter(_WORD.findall(said.text.lower())) for said in (one, other))
    total = words.total() + others.total()
    return 2 * (words & others).total() / total if total else 1.0


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text[-4096:])
    return float(found[-1].replace(",", "")) if found else None


class _Named(msgspec.Struct):
    schema: msgspec.Raw = msgspec.Raw(b"true")


class _Wanted(msgspec.Struct):
    type: str = "text"
    json_schema: _Named | None = None


def _never(uri: str) -> Any:
    """What lies elsewhere isn't fetched: a caller wrote its address."""
    raise ValueError(f"{uri!r} is not a part of the schema")


_CHECKS = {
    "logprob": Check(Look.LOGPROBS, mean_logprob),
    "margin": Check(Look.MARGINS, mean_margin),
    "json_schema": Check(Look.TEXT, is_as_asked),
    "agreement": Check(Look.TEXT, lambda _prompt, _said: 0.0, twice=True),
}

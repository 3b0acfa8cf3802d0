"""What both translations between OpenAI's chat and Anthropic's messages go by. Pure.

Every field of a prompt is taken exactly once: kept, changed, or known to mean nothing to the other API. What is left can't
be kept, and is told, or dropped where the manifest says so.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from servery.terms.reasons import Reason, Refusal
from servery.terms.text import Fields
from servery.wire.answer import Wrong

Json = dict[str, Any]

# By the API's words for why an answer has ended.
STOP_OF_FINISH = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
FINISH_OF_STOP = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
EFFORTS = ("low", "medium", "high")


class Taken:
    """A prompt's fields as they are translated; `lost` are the places of what can't be kept."""

    def __init__(self, fields: Fields) -> None:
        try:
            self._fields = {name: msgspec.json.decode(raw) for name, raw in fields.items()}
        except msgspec.DecodeError as error:
            raise Refusal(Reason.INVALID_REQUEST, f"the body is no JSON: {error}") from None
        self.lost: list[str] = []

    def take(self, name: str) -> Any:
        """The value of a field, None where it isn't there."""
        return self._fields.pop(name, None)

    def take_only(self, name: str, *harmless: object) -> None:
        """A field that the other API doesn't have, but which means nothing with these values."""
        value = self._fields.pop(name, None)
        if value is not None and value not in harmless:
            self.lost.append(name)

    def lose(self, place: str) -> None:
        self.lost.append(place)

    def end(self, drop: bool, model: str, api: str) -> None:
        """All has been taken. Refusal where something can't be kept, and isn't to be dropped."""
        self.lost += [name for name, value in self._fields.items() if value is not None]
        if self.lost and not drop:
            places = ", ".join(f"`{place[:100]}`" for place in self.lost[:10])
            message = f"'{model}' is asked by {api}, which can't hold {places}; leave it out"
            raise Refusal(Reason.NOT_CAPABLE, message)


def listed(value: Any, place: str) -> list[Any]:
    """A list. Refusal."""
    if not isinstance(value, list):
        raise _unfit(place, "a list")
    return cast("list[Any]", value)


def mapped(value: Any, place: str) -> Json:
    """An object. Refusal."""
    if not isinstance(value, dict):
        raise _unfit(place, "an object")
    return cast(Json, value)


def worded(value: Any, place: str) -> str:
    """A text. Refusal."""
    if not isinstance(value, str):
        raise _unfit(place, "a text")
    return value


def part_of(value: Any) -> Json:
    """An object of an answer, {} where it is left out. Wrong."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Wrong("a part of it isn't an object")
    return cast(Json, value)


def _unfit(place: str, wanted: str) -> Refusal:
    return Refusal(Reason.INVALID_REQUEST, f"`{place}` must be {wanted}")

"""Answers that models gave once, from a file: what the vendor says again in the place of what it would make up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from servery.host.rows import Row, Unreadable, rows_of, some

Share = Annotated[float, Meta(gt=0, le=1)]


class Unknown(Exception):
    """No such model or prompt was recorded; the message says which."""


class Answer(msgspec.Struct, frozen=True):
    """What a model said, and the probability that it stated for its tokens (None: not recorded)."""

    text: str
    sure: float | None = None


class Answers:
    """By model and prompt. Of a prompt that stands in the file twice, the first answer counts."""

    def __init__(self, by_model: Mapping[str, Mapping[str, Answer]]) -> None:
        self._by_model = by_model
        self.models = tuple(by_model)
        self.prompts = len({prompt for answers in by_model.values() for prompt in answers})

    def find(self, model: str, prompt: str) -> Answer:
        """The answer of a model; spaces and line breaks of a prompt count as one space each. Unknown."""
        answers = self._by_model.get(model)
        if answers is None:
            raise Unknown(f"the model {model[:128]!r} isn't among the recorded ones: {some(self.models)}")
        found = answers.get(_key(prompt))
        if found is None:
            raise Unknown(f"no answer of {model!r} was recorded to the prompt {_key(prompt)[:80]!r}")
        return found


def read_answers(path: Path, prompt: str, columns: Mapping[str, str]) -> Answers:
    """The answers in a file; `columns` is by model the column that holds them. Unreadable, OSError.

    The column `MODEL sure`, where there is one, is how sure that model was of its tokens, from 0 to 1. A value that is
    empty or missing is no answer.
    """
    found: dict[str, dict[str, Answer]] = {model: {} for model in columns}
    first = True
    for where, row in rows_of(path):
        if first and (missing := [name for name in (prompt, *columns.values()) if name not in row]):
            raise Unreadable(f"{path} has no column {missing[0]!r}; it has {some(list(row))}")
        first = False
        asked = row.get(prompt)
        if not isinstance(asked, str) or not asked.strip():
            raise Unreadable(f"{where}: the prompt ({prompt!r}) must be a text that isn't empty")
        for model, column in columns.items():
            if (answer := _answer(row, model, column, where)) is not None:
                found[model].setdefault(_key(asked), answer)
    if not any(found.values()):
        raise Unreadable(f"{path} holds no answers")
    return Answers(found)


def last_said(asked: Mapping[str, Any]) -> str:
    """The text of the caller's last message, whichever API it is written in; "" where there is none."""
    said: Any = next((asked[name] for name in ("messages", "input", "prompt") if asked.get(name)), "")
    if isinstance(said, list):
        users = [message for message in _objects(said) if message.get("role") == "user"]
        said = users[-1] if users else cast(list[Any], said)[-1]
    if isinstance(said, dict):
        said = cast(Row, said).get("content")
    if isinstance(said, list):
        return "\n".join(str(block["text"]) for block in _objects(said) if block.get("text"))
    return said if isinstance(said, str) else ""


def _objects(values: Any) -> list[Row]:
    return [value for value in values if isinstance(value, dict)]


def _key(prompt: str) -> str:
    return " ".join(prompt.split())


def _answer(row: Row, model: str, column: str, where: str) -> Answer | None:
    text, sure = row.get(column), row.get(f"{model} sure")
    if text is None or text == "":
        return None
    if not isinstance(text, str):
        raise Unreadable(f"{where}: {column!r} must be a text")
    if sure is None or sure == "":
        return Answer(text)
    try:
        return Answer(text, msgspec.convert(sure, Share, strict=False))
    except msgspec.ValidationError:
        raise Unreadable(f"{where}: '{model} sure' must be a number above 0 and up to 1") from None

"""Checks of language models: prompts that a new Version must answer as the manifest says, before anybody is given it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from servery.control.places import Places, at
from servery.terms.change import Problem
from servery.terms.rollouts import Check
from servery.terms.text import Form, Prompt
from servery.wire import openai
from servery.wire.heard import Heard, alike, heard

_TOLD = 200  # characters of an answer
_SEARCHED = 16_384  # some patterns take a time that grows with its square


def prompt_of(check: Check, model: str) -> Prompt:
    """What is asked."""
    said = [{"role": "user", "content": check.prompt}] if check.prompt else msgspec.to_builtins(check.messages)
    return openai.decode_prompt(Form.CHAT, openai.encode({"model": model, "messages": said}))


def problem_of(check: Check, body: bytes) -> str:
    """What of an answer isn't as it must be ("": it is)."""
    choices = heard(Form.CHAT, (body,))
    if choices is None:
        return "what it said can't be read"
    answer, text = choices[0], choices[0].text
    said = repr(text if len(text) <= _TOLD else f"{text[:_TOLD]}…")
    if answer.calls and not text:
        return f"it called the tool {answer.calls[0][0][:_TOLD]!r}"
    if check.json and not _is_json(text):
        return f"it said {said}, which is no JSON"
    if check.equals and not alike([Heard(check.equals)], [Heard(text)], check.json):
        return f"it said {said}, not {check.equals!r}"
    if check.contains and check.contains.casefold() not in text.casefold():
        return f"it said {said}, without {check.contains!r}"
    if check.matches and re.search(check.matches, text[:_SEARCHED]) is None:
        return f"it said {said}, in which {check.matches!r} isn't found"
    return ""


def check_check(check: Check, where: str, places: Places) -> Iterator[Problem]:
    """What of a language model's check can't be asked, or would say nothing."""
    if check.inputs or check.outputs or check.within or check.refused:
        message = "inputs and outputs are tensors, and this model answers in text"
        yield places.problem(where, message, "write such as `{prompt: ..., contains: ...}`")
    elif bool(check.prompt) == bool(check.messages):
        yield places.problem(where, "a check asks a `prompt`, or `messages`", "write one of both")
    elif not (check.contains or check.equals or check.matches or check.json):
        message = "a check that expects nothing passes always"
        yield places.problem(where, message, "write `contains`, `equals`, `matches` or `json: true`")
    if check.equals and check.json and not _is_json(check.equals):
        yield places.problem(at(where, "equals"), "with `json` this can't be: it is no JSON", "write it as JSON")
    try:
        re.compile(check.matches)
    except re.error as error:
        yield places.problem(at(where, "matches"), f"it is no pattern: {error}", "write a regular expression")


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return False
    return True

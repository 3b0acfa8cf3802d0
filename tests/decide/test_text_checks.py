"""Checks of language models: what can't be asked, what of an answer isn't as it must be, and a gate that asks once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

import msgspec
import pytest

from servery.control.arrange import stepped
from servery.control.declare import declare
from servery.control.text_checks import problem_of, prompt_of
from servery.control.text_gates import TextGate
from servery.control.validate import validate
from servery.terms.change import Candidate, Served, Version
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Attempt, Outcome
from servery.terms.rollouts import Check, Message, Rollout, RolloutPolicy, Verdict
from servery.terms.text import Look, Prompt, TokenPrice, Tokens
from servery.wire.openai import encode


@pytest.mark.parametrize(
    ("checks", "where", "message"),
    [
        ("{prompt: a, contains: b}", "", ""),
        ("{messages: [{role: user, content: a}], json: true}", "", ""),
        ("{prompt: a, matches: '^b+$', equals: b}", "", ""),
        ("{prompt: a}", "[0]", "passes always"),
        ("{contains: b}", "[0]", "write one of both"),
        ("{prompt: a, messages: [{role: user, content: a}], contains: b}", "[0]", "write one of both"),
        ("{inputs: {x: [1]}, outputs: {y: [1]}}", "[0]", "write such as `{prompt: ..., contains: ...}`"),
        ("{prompt: a, contains: b, refused: true}", "[0]", "answers in text"),
        ("{prompt: a, matches: '('}", "[0].matches", "it is no pattern"),
        ("{prompt: a, equals: b, json: true}", "[0].equals", "it is no JSON"),
        ("{prompt: a, contain: b}", "[0].contain", "did you mean `contains`"),
        (
            "{messages: [{role: robot, content: a}], contains: b}",
            "[0].messages[0].role",
            "one of `assistant`, `developer`",
        ),
    ],
)
def test_a_check_that_cannot_be_asked_or_says_nothing_is_told_where_it_stands(
    tmp_path: Path, checks: str, where: str, message: str
) -> None:
    path = tmp_path / "servery.yaml"
    path.write_text(
        "servery: 1\nmodels:\n  m:\n    runtime: openai\n    endpoint: http://x/v1\n"
        f"    rollout: {{kind: canary, checks: [{checks}]}}\n"
    )
    read = declare(path)
    found = read.problems
    if read.sound is not None:
        models = {"m": Served((Version("m", "1", "d", "", price=TokenPrice(1, 1)),))}
        found = (*found, *validate(read.sound, models, read.places))
    said = [(one.where, message in str(one)) for one in found]
    assert said == ([(f"models.m.rollout.checks{where}", True)] if message else []), found


def test_a_model_of_tensors_is_asked_for_tensors(tmp_path: Path) -> None:
    path = tmp_path / "servery.yaml"
    path.write_text(
        "servery: 1\nmodels:\n  m:\n    runtime: onnx\n    artifact: m.onnx\n"
        "    rollout: {kind: canary, checks: [{prompt: a, contains: b}]}\n"
    )
    read = declare(path)
    assert read.sound is not None
    found = validate(read.sound, {"m": Served((Version("m", "1", "d", "/a"),))}, read.places)
    assert ["this model takes tensors" in str(one) for one in found] == [True]


def answer(text: str | None, **more: object) -> bytes:
    return encode({"choices": [{"message": {"content": text, **more}, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("check", "said", "wrong"),
    [
        (Check(prompt="a", contains="Paris"), "It is PARIS.", ""),
        (Check(prompt="a", contains="Paris"), "Rome", "it said 'Rome', without 'Paris'"),
        (Check(prompt="a", equals="Paris"), " paris\n", ""),
        (Check(prompt="a", equals="Paris"), "Paris!", "it said 'Paris!', not 'Paris'"),
        (Check(prompt="a", equals='{"a": 1}', json=True), '{"a":1.0}', ""),
        (Check(prompt="a", matches=r"^\d+$"), "42", ""),
        (Check(prompt="a", matches=r"^\d+$"), "4x", r"it said '4x', in which '^\\d+$' isn't found"),
        (Check(prompt="a", json=True), "[1, 2]", ""),
        (Check(prompt="a", json=True), "```json\n[1]\n```", "which is no JSON"),
        (Check(prompt="a", contains="b"), "c" * 10_000, "c" * 200 + "…'"),
        (Check(prompt="a", contains="b"), None, "it said '', without 'b'"),
    ],
)
def test_what_of_an_answer_is_not_as_it_must_be(check: Check, said: str | None, wrong: str) -> None:
    found = problem_of(check, answer(said))
    assert wrong in found
    assert bool(found) is bool(wrong)
    assert len(found) < 300


def test_a_tool_that_is_called_is_no_answer() -> None:
    called = answer(None, tool_calls=[{"function": {"name": "weather", "arguments": "{}"}}])
    assert problem_of(Check(prompt="a", contains="b"), called) == "it called the tool 'weather'"


def test_messages_are_asked_as_they_are_declared() -> None:
    asked = prompt_of(Check(messages=(Message("system", "Be brief."), Message("user", "Why?"))), "m")
    assert (asked.text, asked.stream) == ("Why?", False)
    assert msgspec.json.decode(asked.fields["messages"])[0] == {"role": "system", "content": "Be brief."}


class Said:
    """An Exchange, and the Target that opens it: what comes of each call, one after the other."""

    version = Version("m", "1", "d", "")
    price = TokenPrice(1, 2)
    answered_as = "m-2"
    stated = True
    may_pass = True
    tokens = Tokens(3, 4)

    def __init__(self, *comes: str | Reason) -> None:
        self.comes = list(comes)

    async def start(self) -> None: ...
    async def drain(self) -> None: ...

    def open(self, prompt: Prompt, look: Look, avoid: Collection[object]) -> Said:
        return self

    async def whole(self) -> bytes:
        one = self.comes.pop(0)
        if isinstance(one, Reason):
            raise Refusal(one, "so it is with k-secret")
        return answer(one)


async def gated(said: Said, *checks: Check) -> tuple[str, Verdict, list[Attempt]]:
    """What the gate says in the end, and what it has booked."""
    policy = RolloutPolicy("blue-green", checks=checks)
    booked: list[Attempt] = []

    async def book(attempt: Attempt, began_ns: int) -> None:
        assert began_ns > 0
        booked.append(attempt)

    served = Served((Said.version,))
    gate = TextGate(Candidate("r", Model("openai", rollout=policy), served, 0.0, None), said, book, ("k-secret",))
    rollout = Rollout("r", "m", "old", "new", "new", stepped(policy), 0)
    assert gate.look(msgspec.structs.replace(rollout, step=1)) == ()  # it is past that: nothing is asked
    assert not booked
    async with asyncio.timeout(20):
        while (look := gate.look(rollout)[0]).verdict is Verdict.NOT_YET:
            await asyncio.sleep(0.01)
    await gate.close()
    return look.said, look.verdict, booked


def test_each_is_asked_once_until_one_is_answered_otherwise() -> None:
    yes, no = Check(prompt="a", contains="yes"), Check(prompt="a", contains="no")
    told, verdict, booked = asyncio.run(gated(Said("yes", "yes", "yes"), yes, no, yes))
    assert (told, verdict) == ("check 1: it said 'yes', without 'no'", Verdict.WORSE)
    assert [(one.outcome, one.pico_usd, one.tokens, one.arm) for one in booked] == [
        (Outcome.SERVED, 11, Tokens(3, 4), "")
    ] * 2
    assert asyncio.run(gated(Said("yes"), yes))[1] is Verdict.NO_DIFFERENCE


def test_what_was_busy_is_asked_again_and_what_refuses_is_not() -> None:
    yes = Check(prompt="a", contains="yes")
    told, verdict, booked = asyncio.run(gated(Said(Reason.UPSTREAM_BUSY, "yes"), yes))
    assert (verdict, [one.reason for one in booked]) == (Verdict.NO_DIFFERENCE, ["upstream_busy", ""])
    told, verdict, booked = asyncio.run(gated(Said(Reason.INVALID_REQUEST, "yes"), yes))
    assert (told, verdict, len(booked)) == ("check 0: invalid_request: so it is with …", Verdict.WORSE, 1)

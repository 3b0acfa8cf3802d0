"""The gate of a language model's candidate: its checks are asked once of its endpoint, one by one, and each call is booked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from servery.control.text_checks import problem_of, prompt_of
from servery.host.clock import Clock
from servery.terms.change import Candidate, Version
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Attempt, Outcome, Role
from servery.terms.rollouts import Check, Looked, Rollout, Verdict
from servery.terms.text import Look, Prompt, TokenPrice, Tokens

log = logging.getLogger("servery.controller")

_CALL_S = 60.0
_PAUSES_S = (1.0, 3.0)  # before it is asked again, where it was busy or couldn't be reached
_MAY_PASS = (Reason.UPSTREAM_BUSY, Reason.UPSTREAM_CUT, Reason.MODEL_FAILED)


class Exchange(Protocol):
    """One call, as the gateway's."""

    @property
    def answered_as(self) -> str: ...
    @property
    def may_pass(self) -> bool: ...
    @property
    def stated(self) -> bool: ...
    @property
    def tokens(self) -> Tokens | None: ...
    async def whole(self) -> bytes: ...


class Speaking(Protocol):
    """How a language model is asked."""

    @property
    def version(self) -> Version: ...
    @property
    def price(self) -> TokenPrice: ...
    async def start(self) -> None: ...
    async def drain(self) -> None: ...
    def open(self, prompt: Prompt, look: Look, avoid: Collection[object]) -> Exchange: ...


Booked = Callable[[Attempt, int], Awaitable[None]]  # with when it began, in ns since 1970


class TextGate:
    """One candidate's. It asks from the first look at a step that waits for it until one answer is wrong, or it is closed. Each call
    is `booked`; nothing that is said holds one of the `secrets`.
    """

    def __init__(self, candidate: Candidate, target: Speaking, booked: Booked, secrets: tuple[str, ...]) -> None:
        self._checks = candidate.model.rollout.checks
        self._target = target
        self._booked = booked
        self._secrets = secrets
        self._clock = Clock()
        self._passed = 0
        self._wrong = ""
        self._task: asyncio.Task[None] | None = None

    def look(self, rollout: Rollout) -> tuple[Looked, ...]:
        """What is known now."""
        if not (rollout.gated and self._checks):
            return ()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="checks")
        passed, all_ = self._passed, len(self._checks)
        if self._wrong:
            verdict, said = Verdict.WORSE, f"check {passed}: {self._wrong}"
        elif passed < all_:
            verdict, said = Verdict.NOT_YET, f"{passed} of {all_} checks were answered"
        else:
            verdict, said = Verdict.NO_DIFFERENCE, f"all {all_} checks were answered as they say"
        wrong = int(bool(self._wrong))
        return (Looked("checks", verdict, wrong, all_ - passed, 0, 0, passed + wrong, said),)

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._target.drain()

    async def _run(self) -> None:
        try:
            await self._target.start()
            for check in self._checks:
                self._wrong = self._hidden(await self._ask(check))
                if self._wrong:
                    return
                self._passed += 1
        except Exception:
            log.exception("the checks of %s failed by an error of ours", self._target.version.model)

    async def _ask(self, check: Check) -> str:
        """What is wrong with the answer; one that hardly came is asked for again."""
        prompt = prompt_of(check, self._target.version.model)
        for pause_s in (*_PAUSES_S, None):
            try:
                return problem_of(check, await self._answer(prompt))
            except Again as again:
                if pause_s is None:
                    return again.args[0]
                await asyncio.sleep(pause_s)
            except Refusal as refusal:
                return f"{refusal.reason.word}: {refusal.message}"
        raise AssertionError("the last one returns")

    async def _answer(self, prompt: Prompt) -> bytes:
        """One call, which is booked however it ends. Again, Refusal."""
        began_ns, began = self._clock.wall_ns(), self._clock.steady_ns()
        exchange: Exchange | None = None
        outcome, reason = Outcome.ABANDONED, ""
        try:
            exchange = self._target.open(prompt, Look.NOTHING, ())
            async with asyncio.timeout(_CALL_S):
                answer = await exchange.whole()
            outcome = Outcome.SERVED
        except TimeoutError:
            outcome, reason = Outcome.FAILED, Reason.UPSTREAM_SLOW.word
            raise Refusal(Reason.UPSTREAM_SLOW, f"no answer within {_CALL_S:g} s") from None
        except Refusal as refusal:
            outcome, reason = Outcome.FAILED, refusal.reason.word
            if refusal.reason in _MAY_PASS and (exchange is None or exchange.may_pass):
                raise Again(f"{refusal.reason.word}: {refusal.message}") from None
            raise
        finally:
            took_ns = self._clock.steady_ns() - began
            await self._booked(_attempt(self._target, exchange, outcome, reason, took_ns), began_ns)
        return answer

    def _hidden(self, said: str) -> str:
        for secret in self._secrets:
            said = said.replace(secret, "…")
        return said


class Again(Exception):
    """A failure that may not happen again a moment later."""


def _attempt(target: Speaking, exchange: Exchange | None, outcome: Outcome, reason: str, took_ns: int) -> Attempt:
    tokens = None if exchange is None else exchange.tokens
    version = target.version
    return Attempt(
        Role.CHECK, "direct", version.model, version.name, 1, 0, took_ns,
        0 if tokens is None else target.price.of(tokens), outcome, reason,
        estimated=exchange is not None and tokens is not None and not exchange.stated,
        tokens=tokens,
        answered_as="" if exchange is None else exchange.answered_as,
        took_ns=took_ns,
    )  # fmt: skip

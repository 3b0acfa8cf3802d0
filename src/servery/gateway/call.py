"""One call of a language model for a Request, as a task of its own: what it says, what it takes, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import aclosing
from typing import Protocol

from servery.gateway.allowances import Allowance, Paid
from servery.gateway.holdings import UNBOUND
from servery.gateway.quotas import Quotas, come, leave
from servery.gateway.texts import Exchange, TextTier
from servery.gateway.trail import Made
from servery.host.clock import Clock
from servery.host.eager import eagerly
from servery.routing.next import Tried
from servery.terms.reasons import Reason, Refusal, bare
from servery.terms.record import Role
from servery.terms.request import Called
from servery.terms.text import Look, Prompt, Said

NS = 1_000_000_000
_MOST_TOLD = 4 << 20  # bytes of an answer that is compared with another one


class Says(Protocol):
    """Who takes the parts of a stream to the caller, as of Speaker."""

    async def say(self, tier: TextTier, chunks: list[bytes], degraded: str = "") -> None: ...


class Talk(Protocol):
    """The Request that a call is made for."""

    prompt: Prompt
    clock: Clock
    allowance: Allowance | None
    until_ns: int
    loop: asyncio.AbstractEventLoop

    @property
    def speaker(self) -> Says: ...
    @property
    def hold_tokens(self) -> int:
        """As of TextEntry."""
        ...

    def may_speak(self, call: Call) -> bool:
        """Whether the caller hears this call from now on; another one may have been faster."""
        ...

    def ring(self, _: object = None) -> None:
        """Something has happened."""
        ...


class Call:
    """An Attempt. `ended` once it has; `made` and `failure` are known then.

    `words`: pieces of a stream that said something. What isn't sent yet is `held`, or, of an answer in one, `body`. What was
    said is kept where it is compared with another answer.
    """

    __slots__ = (
        "_first_timer",
        "_forecast",
        "_paid",
        "_quotas",
        "_talk",
        "_told",
        "_told_bytes",
        "again",
        "avoid",
        "began_ns",
        "body",
        "confidence",
        "ended",
        "exchange",
        "failure",
        "first_ns",
        "held",
        "left",
        "looked",
        "lost",
        "made",
        "price",
        "role",
        "said",
        "step",
        "task",
        "tier",
        "words",
    )

    def __init__(self, talk: Talk, tier: TextTier, step: int, role: Role, avoid: Collection[object] = ()) -> None:
        self.step = step
        self.role = role
        self.tier = tier
        self.avoid = avoid
        self.exchange: Exchange | None = None
        self.made: Made | None = None
        self.failure: Refusal | None = None
        self.task: asyncio.Task[None] | None = None
        self.said: Said | None = None
        self.confidence: float | None = None
        self.body = b""
        self.held: list[bytes] = []
        self.words = self.first_ns = 0
        self.ended = self.lost = self.left = self.looked = self.again = False
        self.began_ns = talk.clock.steady_ns()
        self._talk = talk
        self._told: list[bytes] | None = [] if role is Role.SHADOW or self.tier.shadow is not None else None
        self._told_bytes = 0
        self._forecast = self.tier.target.forecast(talk.prompt)
        self.price = self.tier.target.price.of(self._forecast)
        self._paid: Paid | None = None
        self._quotas: Quotas = ()
        self._first_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, as far as it goes without waiting; at its end the Talk's bell rings."""
        limit_ns = self.tier.first_token_ns
        if limit_ns and self.began_ns + limit_ns < self._talk.until_ns:
            self._first_timer = self._talk.loop.call_later(limit_ns / NS, self._late)
        _, self.task = eagerly(self._run())

    def give_up(self, failure: Refusal | None = None, *, left: bool = False, lost: bool = False) -> None:
        """End it now, whatever it is at."""
        if not self.ended:
            self.left, self.lost = left, lost
            self._end(failure)
            if self.task is not None:
                self.task.cancel()

    def tried(self) -> Tried:
        """As routing sees it."""
        sure = None if self.confidence is None else (self.confidence,)
        reason = None if self.failure is None or self.role is Role.CHECK else self.failure.reason
        if self.role is Role.CHECK and self.ended and sure is None:
            sure = (0.0,)
        return Tried(self.step, None, reason, sure, self.role, self.again, self.lost, not self.ended, self.began_ns)

    async def _run(self) -> None:
        talk, tier = self._talk, self.tier
        try:
            if tier.bound is not UNBOUND or talk.allowance is not None:
                await self._let_in()
            check = tier.check
            look = Look.NOTHING if check is None else check.look
            exchange = tier.target.open(talk.prompt, look, self.avoid)
            self.exchange = exchange
            if not talk.prompt.stream:
                self.body = await exchange.whole()
                self._heard()
                self._keep(self.body)
            elif check is None:
                await self._speak(exchange)
            else:
                await self._hold(exchange)
            self.said = exchange.said
        except Refusal as refusal:
            if not self.ended:
                self._end(refusal)
        except asyncio.CancelledError:
            if not self.ended:  # or it was given up
                raise
        except _Lost:
            self.give_up(lost=True)
        else:
            if not self.ended:
                self._end(None)
        finally:
            talk.ring()

    async def _let_in(self) -> None:
        """Be counted on the model's limits, and put aside what the call may cost. Refusal."""
        talk, bound = self._talk, self.tier.bound
        if bound.quotas:
            await come(bound.quotas, talk.clock, talk.until_ns)
            self._quotas = bound.quotas
        allowance = talk.allowance if bound.allowance is None else bound.allowance.beside(talk.allowance)
        if allowance is not None:
            self._paid = allowance.take(self.price, self._forecast) or await allowance.reserve(
                self.price or None, self._forecast.total or None, talk.until_ns
            )

    async def _hold(self, exchange: Exchange) -> None:
        """Keep all of a stream until it is checked."""
        async for piece in exchange.pieces():
            if piece.said:
                self._heard()
            if piece.data:
                self.held.append(piece.data)
                self._keep(piece.data)

    async def _speak(self, exchange: Exchange) -> None:
        """Take the answer to the caller from its first word on."""
        talk, tier, held = self._talk, self.tier, self.held
        hold, speaks = talk.hold_tokens, False
        async with aclosing(exchange.pieces()) as pieces:
            async for piece in pieces:
                if piece.said:
                    self._heard()
                if piece.data:
                    held.append(piece.data)
                    self._keep(piece.data)
                if not speaks and self.words > hold:
                    speaks = self._begins_to_speak()
                if speaks and held:
                    await talk.speaker.say(tier, held)
                    held.clear()
        if not speaks:  # an answer that is whole, but with hardly a word
            self._begins_to_speak()
        if held:
            await talk.speaker.say(tier, held)
            held.clear()

    def _keep(self, part: bytes) -> None:
        """Keep what was said, where it is compared; too much can't be."""
        if self._told is not None:
            self._told.append(part)
            self._told_bytes += len(part)
            if self._told_bytes > _MOST_TOLD:
                self._told = None

    def _begins_to_speak(self) -> bool:
        if not self._talk.may_speak(self):
            raise _Lost
        return True

    def _heard(self) -> None:
        self.words += 1
        if not self.first_ns:
            self.first_ns = self._talk.clock.steady_ns() - self.began_ns
            if self._first_timer is not None:
                self._first_timer.cancel()

    def _late(self) -> None:
        limit_ms = self.tier.first_token_ns / 1e6
        self.give_up(Refusal(Reason.UPSTREAM_SLOW, f"'{self.tier.model}' had said nothing after {limit_ms:g} ms"))
        self._talk.ring()

    def _end(self, failure: Refusal | None) -> None:
        """Book what it took: by the vendor's count or, where it is silent, by ours."""
        self.ended = True
        self.failure = None if failure is None else bare(failure)
        if self._first_timer is not None:
            self._first_timer.cancel()
        exchange, tier = self.exchange, self.tier
        busy_ns = self._talk.clock.steady_ns() - self.began_ns
        word = "" if failure is None else failure.reason.word
        tokens = None if exchange is None else exchange.tokens
        if exchange is None or tokens is None:
            called = Called({}, busy_ns, word, first_ns=self.first_ns)
        else:
            called = Called(
                {},
                busy_ns,
                word,
                estimated=not exchange.stated,
                pico_usd=tier.target.price.of(tokens),
                tokens=tokens,
                first_ns=self.first_ns,
                answered_as=exchange.answered_as,
            )
        self.again = failure is not None and failure.reason in _MAY_PASS and exchange is not None and exchange.may_pass
        told = () if failure is not None or self._told is None else tuple(self._told)
        self.made = Made(self.role, tier, 1, called, left=self.left or self.lost, took_ns=busy_ns, told=told)
        leave(self._quotas)
        if self._paid is not None:
            self._paid.settle(called.pico_usd, 0 if tokens is None else tokens.total)


class _Lost(Exception):
    """Another call has begun to speak."""


# Failures that may not happen again a moment later.
_MAY_PASS = (Reason.UPSTREAM_CUT, Reason.MODEL_FAILED, Reason.WRONG_ANSWER, Reason.UPSTREAM_BUSY)

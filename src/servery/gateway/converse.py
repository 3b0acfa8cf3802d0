"""Execute, for text: ask one language model after the other as routing says, up to the commit point of the answer.

Before it the caller has been sent nothing, not even a status, so a refusal, a cut, a bad chunk, an error in the
stream or a slow first token is another tier's turn. It is the first chunk that says something. After it the answer can
only go on, or end in an error that the caller sees.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

import msgspec

from servery.gateway.admit import Left
from servery.gateway.budgets import Allowance, Paid
from servery.gateway.texts import Exchange, Speaker, TextEntry, TextTier
from servery.gateway.trail import Made, Trail
from servery.host.clock import Clock
from servery.routing import next as routing
from servery.routing.next import Facts, Refuse, Tried, Try
from servery.routing.static import By, pick
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Called
from servery.terms.text import Form, Prompt, Tokens

log = logging.getLogger("servery.gateway")

_NOTHING_CLOSED: frozenset[int] = frozenset()
# Failures that would be the same in every tier.
_FINAL = (Reason.INVALID_REQUEST,)
# What the log needn't tell: it is the prompt's doing.
_NOT_WORTH_A_LINE = (Reason.INVALID_REQUEST, Reason.NOT_CAPABLE)


class Talk(msgspec.Struct, frozen=True):
    """One Request in text, while it is answered."""

    prompt: Prompt
    entry: TextEntry
    facts: Facts
    trail: Trail
    clock: Clock
    speaker: Speaker
    gone: asyncio.Future[None]
    allowance: Allowance | None
    most_pico: int  # what the Request may cost in all; 0: anything


async def converse(
    prompt: Prompt,
    entry: TextEntry,
    trail: Trail,
    clock: Clock,
    speaker: Speaker,
    until_ns: int,
    allowance: Allowance | None,
) -> None:
    """Answer `prompt` by `until_ns` (steady). Raises Refusal when routing gives up, and Left when the caller does."""
    caps = [cap for cap in (entry.max_pico, 0 if allowance is None else allowance.most_pico) if cap]
    most_pico = min(caps, default=0)
    facts = _facts(prompt, entry, trail, speaker, until_ns, most_pico)
    decision = routing.next(entry.plan, (), facts, clock.steady_ns())
    gone = asyncio.ensure_future(speaker.left())
    talk = Talk(prompt, entry, facts, trail, clock, speaker, gone, allowance, most_pico)
    tried: list[Tried] = []
    failure: Refusal | None = None
    try:
        while isinstance(decision, Try):
            failure = await _attempt(decision, talk)
            if failure is not None and (speaker.begun or _is_final(failure, allowance)):
                raise failure
            tried.append(Tried(decision.step, None, None if failure is None else failure.reason))
            decision = routing.next(entry.plan, tried, facts, clock.steady_ns())
        if isinstance(decision, Refuse):
            raise _refusal(decision.reason, entry, trail, failure)
        trail.settled = decision
        if prompt.stream:
            await speaker.end()
    finally:
        gone.cancel()


def _is_final(failure: Refusal, allowance: Allowance | None) -> bool:
    """Whether no other tier is asked after this."""
    if failure.reason is Reason.BUDGET_SPENT:
        return allowance is not None and not allowance.cheaper
    return failure.reason in _FINAL


def _facts(prompt: Prompt, entry: TextEntry, trail: Trail, speaker: Speaker, until_ns: int, most_pico: int) -> Facts:
    """What is so for this Request: who should be asked first, and who can't be."""
    first = 0
    if entry.scored is not None:
        score = entry.scored.score(prompt.text)
        first = sum(score > threshold for threshold in entry.scored.thresholds)
        trail.why = f"complexity:{score:.4f}"
    elif entry.static is not None:
        static, said = entry.static, None
        if static.by is By.SUBSCRIPTION:
            said = trail.caller.subscription
        elif static.by is By.HEADER:
            said = speaker.header(static.name)
        elif static.name in prompt.fields:
            said = _scalar(prompt.fields[static.name])
        picked = pick(static, said)
        first, trail.why = picked.step, picked.why
    closed = entry.closed.get(trail.caller.tenant, _NOTHING_CLOSED)
    unfit = {step: why for step, tier in enumerate(entry.tiers) if (why := _unfit(prompt, tier, most_pico))}
    if unfit:
        skipped = ",".join(f"{entry.tiers[step].name}:{why}" for step, why in unfit.items())
        trail.why = f"{trail.why} without {skipped}".strip()
        if not set(range(len(entry.tiers))) - closed - set(unfit):
            told = "; ".join(f"'{entry.tiers[step].name}': {_UNFIT[why]}" for step, why in unfit.items())
            raise Refusal(Reason.NOT_CAPABLE, f"no tier of '{entry.name}' can answer this: {told}")
        closed = closed | unfit.keys()
    return Facts(1, until_ns, closed, first)


_UNFIT = {
    "tools": "it can't call tools",
    "images": "it can't see images",
    "json_schema": "it can't keep to a JSON schema",
    "logprobs": "it gives no log-probabilities",
    "context": "the prompt and its answer would be too long for it",
    "cost": "it would cost more than max_usd_per_inference, or the tenant's usd_per_request",
}


def _unfit(prompt: Prompt, tier: TextTier, max_pico: int) -> str:
    """Why a tier can't be asked, a key of _UNFIT; "" where it can."""
    missing = prompt.needs & tier.lacks
    if missing:
        return min(missing)
    if tier.window or max_pico:
        forecast = tier.target.forecast(prompt)
        if tier.window and forecast.input + prompt.most > tier.window:
            return "context"
        if max_pico and tier.target.price.of(forecast) > max_pico:
            return "cost"
    return ""


def _scalar(raw: msgspec.Raw) -> bool | int | float | str | None:
    try:
        return msgspec.json.decode(raw, type=bool | int | float | str)
    except msgspec.DecodeError:
        return None


async def _attempt(decision: Try, talk: Talk) -> Refusal | None:
    """Ask one tier; why it failed, if it did. Left."""
    tier, trail, clock = talk.entry.tiers[decision.step], talk.trail, talk.clock
    started_ns = clock.steady_ns()
    forecast = tier.target.forecast(talk.prompt)
    price = tier.target.price.of(forecast)
    exchange: Exchange | None = None
    paid: Paid | None = None
    call = _Call(talk, tier, started_ns)
    failure: Refusal | None = None
    left = False
    try:
        paid = await _pay(talk, price, forecast)
        trail.tries(decision.role, tier, 1, started_ns, price)
        exchange = tier.target.open(talk.prompt)
        await call.run(exchange)
    except Refusal as refusal:
        failure = refusal
    except TimeoutError:
        left = talk.gone.done()
        failure = call.late()
    except (Left, asyncio.CancelledError):
        left = True
        raise
    finally:
        busy_ns = clock.steady_ns() - started_ns
        called = _called(exchange, tier, busy_ns, call.first_ns, "" if failure is None else failure.reason.word)
        trail.made.append(Made(decision.role, tier, 1, called, left=left))
        if paid is not None:
            tokens = called.tokens
            paid.settle(called.pico_usd, 0 if tokens is None else tokens.input + tokens.output)
    if left:
        raise Left
    if failure is not None and exchange is not None and failure.reason not in _NOT_WORTH_A_LINE:
        log.warning("record %s: %s: %s: %s", trail.id.hex(), tier.model, failure.reason.word, failure.message)
    return failure


async def _pay(talk: Talk, price: int, forecast: Tokens) -> Paid | None:
    """Put aside what a call may cost. Refusal."""
    spent = sum(made.called.pico_usd for made in talk.trail.made)
    if talk.most_pico and spent and spent + price > talk.most_pico:
        message = "what was tried has cost so much that another call would exceed what this request may cost"
        raise Refusal(Reason.BUDGET_SPENT, message)
    if talk.allowance is None:
        return None
    tokens = forecast.input + forecast.output
    return await talk.allowance.reserve(price or None, tokens or None, talk.facts.deadline_ns)


class _Call:
    """One call while its pieces come in."""

    def __init__(self, talk: Talk, tier: TextTier, started_ns: int) -> None:
        self.first_ns = 0
        self._talk = talk
        self._tier = tier
        self._started_ns = started_ns
        self._slow = False

    async def run(self, exchange: Exchange) -> None:
        """Take the answer to the caller. TimeoutError at the deadline, before it where the first token is late, and when
        the caller leaves.
        """
        talk = self._talk
        loop = asyncio.get_running_loop()
        end = loop.time() + (talk.facts.deadline_ns - self._started_ns) / 1e9
        first = loop.time() + self._tier.first_token_ns / 1e9
        self._slow = self._tier.first_token_ns > 0 and first < end
        async with asyncio.timeout_at(first if self._slow else end) as limit:

            def leave(_: object) -> None:
                limit.reschedule(loop.time())

            talk.gone.add_done_callback(leave)
            try:
                async with aclosing(exchange.pieces()) as pieces:
                    held: list[bytes] = []
                    async for piece in pieces:
                        if piece.said and not self.first_ns:
                            self.first_ns = talk.clock.steady_ns() - self._started_ns
                            self._slow = False
                            if not talk.gone.done():
                                limit.reschedule(end)
                        if not talk.prompt.stream:
                            talk.speaker.whole(talk.entry, self._tier, piece.data)
                            continue
                        if piece.data:
                            held.append(piece.data)
                        if held and (self.first_ns or talk.speaker.begun):
                            await talk.speaker.say(talk.entry, self._tier, held)
                            held = []
                    if held:  # an answer without a word, but whole
                        await talk.speaker.say(talk.entry, self._tier, held)
            finally:
                talk.gone.remove_done_callback(leave)

    def late(self) -> Refusal:
        """What it means that the time was up."""
        if self._slow:
            limit_ms = self._tier.first_token_ns / 1e6
            return Refusal(Reason.UPSTREAM_SLOW, f"'{self._tier.model}' had said nothing after {limit_ms:g} ms")
        allowed_ms = (self._talk.facts.deadline_ns - self._talk.trail.started_ns) / 1e6
        return Refusal(Reason.DEADLINE_EXCEEDED, f"no whole answer within {allowed_ms:g} ms")


def _called(exchange: Exchange | None, tier: TextTier, busy_ns: int, first_ns: int, failure: str) -> Called:
    """What a call took and cost, by the vendor's count or, where it is silent, by ours."""
    tokens = None if exchange is None else exchange.tokens
    if exchange is None or tokens is None:
        return Called({}, busy_ns, failure, first_ns=first_ns)
    return Called(
        {},
        busy_ns,
        failure,
        estimated=not exchange.stated,
        pico_usd=tier.target.price.of(tokens),
        tokens=tokens,
        first_ns=first_ns,
        answered_as=exchange.answered_as,
    )


def _refusal(reason: Reason, entry: TextEntry, trail: Trail, failure: Refusal | None) -> Refusal:
    """Why there is no answer, in words for the caller."""
    if failure is not None and failure.reason is reason:
        return Refusal(reason, f"'{entry.name}' has no answer: {failure.message}", failure.retry_after_s)
    if reason is Reason.NO_CANDIDATE:
        message = f"no tier of '{entry.name}' may serve the tenant '{trail.caller.tenant}': its data may not flow there"
        return Refusal(reason, message)
    if reason is Reason.DEADLINE_EXCEEDED:
        return Refusal(reason, "the deadline passed before the answer was ready")
    return Refusal(reason, f"'{entry.name}' has no answer: {reason.meaning}")


def find_text(entries: dict[str, TextEntry], called: str, form: Form, tensors: bool) -> TextEntry:
    """The entry of this name. Refusal."""
    entry = entries.get(called)
    if entry is not None:
        return entry
    known = ", ".join(f"'{name}'" for name in list(entries)[:20]) or "none"
    if tensors:
        raise Refusal(Reason.INVALID_REQUEST, f"'{called}' takes tensors, at /v2/models; /v1/{form.value} has {known}")
    raise Refusal(Reason.NOT_FOUND, f"no route or model is called '{called[:128]}'; there is {known}")

"""Execute, for text: perform what routing.next returns, and call it again, up to the commit point of the answer.

Before it the caller has been sent nothing, not even a status, so a refusal, a cut, a bad chunk, an error in the
stream or a slow first token is another's turn. It is the first chunk that says something, or for an answer that is
checked its acceptance. After it the answer can only go on, or end in an error that the caller sees.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from servery.gateway.admit import Left
from servery.gateway.allowances import Allowance
from servery.gateway.call import Call
from servery.gateway.fit import Moment, facts_of
from servery.gateway.holder import Over
from servery.gateway.texts import Speaker, TextEntry
from servery.gateway.trail import Trail
from servery.host.clock import Clock
from servery.routing import next as routing
from servery.routing.checks import agreement
from servery.routing.next import Decision, Facts, Refuse, Settle, Try, Wait
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Role
from servery.terms.text import Form, Prompt

log = logging.getLogger("servery.gateway")

NS = 1_000_000_000
# Failures that would be the same in every tier.
_FINAL = (Reason.INVALID_REQUEST,)
# What the log needn't tell: it is the prompt's doing, or the tenant's.
_NOT_WORTH_A_LINE = (Reason.INVALID_REQUEST, Reason.NOT_CAPABLE, Reason.BUDGET_SPENT)


class Means(msgspec.Struct, frozen=True, gc=False):
    """What a Request may take: its deadline (steady), the pico-dollars that it may cost (0: any), and budgets. `over` is a
    limit that leaves it the cheaper tiers.
    """

    until_ns: int
    most_pico: int
    allowance: Allowance | None
    over: Over | None = None


class Conversation:
    """One Request in text, while it is answered. `until_ns` is its deadline (steady)."""

    __slots__ = (
        "_bell",
        "_calls",
        "_facts",
        "_gone",
        "_late",
        "_left",
        "_most_pico",
        "_over",
        "_speaking",
        "_trail",
        "allowance",
        "clock",
        "entry",
        "loop",
        "prompt",
        "speaker",
        "until_ns",
    )

    def __init__(
        self,
        prompt: Prompt,
        entry: TextEntry,
        trail: Trail,
        clock: Clock,
        speaker: Speaker,
        means: Means,
    ) -> None:
        self.prompt = prompt
        self.entry = entry
        self.clock = clock
        self.speaker = speaker
        self.until_ns = until_ns = means.until_ns
        self.allowance = means.allowance
        self._most_pico = means.most_pico
        self._over = means.over
        self._trail = trail
        self._facts = Facts(1, until_ns)
        self._calls: list[Call] = []
        self._speaking: Call | None = None
        self._left = self._late = False
        self.loop = asyncio.get_running_loop()
        self._bell: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None

    async def answer(self, draw: float, lot: float) -> None:
        """Answer. `draw` spreads retries, `lot` decides who is asked first where a policy explores. Raises Refusal when routing gives up, and Left when the caller does."""
        now_ns = self.clock.steady_ns()
        moment = Moment(now_ns, self.until_ns, self._most_pico, draw, lot, self._over)
        self._facts = facts_of(self.prompt, self.entry, self._trail, self.speaker, moment)
        decision = routing.next(self.entry.plan, (), self._facts, now_ns)
        timer = self.loop.call_later((self.until_ns - now_ns) / NS, self._is_late)
        gone = self._gone = asyncio.ensure_future(self.speaker.left())
        gone.add_done_callback(self._has_left)
        try:
            while not isinstance(decision, Settle):
                decision = await self._perform(decision)
            await self._tell(decision)
        finally:
            timer.cancel()
            gone.remove_done_callback(self._has_left)
            gone.cancel()
            for call in self._calls:
                call.give_up(left=self._left, lost=not self._left)
            self._trail.made = [call.made for call in self._calls if call.made is not None]
            if self.entry.watch is not None:
                tried = [call.tried() for call in self._calls]
                self._trail.watched = (self.entry.watch, tried, not self._facts.closed)
            # They know this Conversation: a cycle would be left to the garbage collector.
            self._calls, self._speaking = [], None

    @property
    def hold_tokens(self) -> int:
        """As of Talk."""
        return self.entry.hold_tokens

    def may_speak(self, call: Call) -> bool:
        """As of Talk. The others are given up."""
        if self._speaking is None:
            self._speaking = call
            for other in self._calls:
                if other is not call:
                    other.give_up(lost=True)
        return self._speaking is call

    def ring(self, _: object = None) -> None:
        """As of Talk."""
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    def _is_late(self) -> None:
        self._late = True
        allowed_ms = (self.until_ns - self._trail.started_ns) / 1e6
        for call in self._calls:
            call.give_up(Refusal(Reason.DEADLINE_EXCEEDED, f"no whole answer within {allowed_ms:g} ms"))
        self.ring()

    def _has_left(self, gone: asyncio.Future[None]) -> None:
        if not gone.cancelled():
            self._left = True
            self.ring()

    async def _perform(self, decision: Decision) -> Decision:
        """Do what was decided, wait until something happens, and decide again. Refusal, Left."""
        if isinstance(decision, Refuse):
            raise self._refusal(decision.reason)
        if isinstance(decision, Try):
            if decision.at_ns > self.clock.steady_ns():
                await self._something(decision.at_ns)
                if self._late:
                    return self._next()
            self._begin(decision)
            if not (self._facts.hedge_ns or self._calls[-1].ended):
                await self._something(self.until_ns)
        elif isinstance(decision, Wait):
            await self._something(decision.until_ns)
        return self._look() or self._next()

    def _begin(self, decision: Try) -> None:
        """One more call, which fails at once where the Request may not cost so much."""
        calls, trail = self._calls, self._trail
        avoid = [call.exchange.asked for call in calls if call.step == decision.step and call.exchange is not None]
        call = Call(self, self.entry.tiers[decision.step], decision.step, decision.role, avoid)
        extra = call.tier.target.extra
        if decision.role is Role.HEDGE:
            extra.hedged(call.price)
        elif decision.role is Role.RETRY:
            extra.retried()
        else:
            extra.called(call.price)
        before = calls[-1].made.called if calls and calls[-1].made is not None else None
        ended = None if before is None else (before.busy_ns, before.failure, before.pico_usd)
        calls.append(call)
        if self._most_pico and len(calls) > 1:
            spent = sum([one.price if one.made is None else one.made.called.pico_usd for one in calls])
            if spent > self._most_pico:
                message = "what was tried has cost so much that another call would exceed what this request may cost"
                call.give_up(Refusal(Reason.BUDGET_SPENT, message))
                self.loop.call_soon(self.ring)
                return
        trail.begins(len(calls) - 1, call.role, call.tier, 1, call.began_ns, ended, call.price)
        call.start()

    def _next(self) -> Decision:
        calls = self._calls
        facts, last = self._facts, calls[-1]
        target = last.tier.target
        now_ns = self.clock.steady_ns()
        if self._late:  # a timer may be early by a part of a millisecond
            now_ns = max(now_ns, self.until_ns)
        if last.again and (not target.extra.may_retry or target.rest_ns(now_ns)):
            last.again = False
        decision = routing.next(self.entry.plan, [call.tried() for call in calls], facts, now_ns)
        if isinstance(decision, Try) and decision.role is Role.HEDGE:
            hedge = self.entry.hedge
            if hedge is None or not target.extra.may_hedge(last.price, hedge.share):
                return Wait(self.until_ns)
        return decision

    async def _something(self, until_ns: int) -> None:
        """Wait until a call ends, or this moment. Left."""
        if not self._left:
            bell = self._bell = self.loop.create_future()
            timer = None
            if until_ns < self.until_ns:
                timer = self.loop.call_later(max(until_ns - self.clock.steady_ns(), 0) / NS, self.ring)
            try:
                await bell
            finally:
                self._bell = None
                if timer is not None:
                    timer.cancel()
        if self._left:
            raise Left

    def _look(self) -> Decision | None:
        """Look at the calls that have ended: a failure that is final ends the Request. Refusal."""
        for call in self._calls:
            if not call.ended:
                if call.task is not None and call.task.done():
                    call.task.result()  # a bug of ours
                continue
            if call.looked or call.lost:
                continue
            call.looked = True
            failure = call.failure
            if failure is None:
                self._weigh(call)
                continue
            if call.exchange is not None and failure.reason not in _NOT_WORTH_A_LINE:
                record = self._trail.id.hex()
                log.warning("record %s: %s: %s: %s", record, call.tier.model, failure.reason.word, failure.message)
            if self._speaking is call:
                raise failure
            if self._is_final(failure) and not (call.role is Role.HEDGE and self._under_way):
                settled = routing.settle([one.tried() for one in self._calls], self._facts)
                if isinstance(settled, Settle):
                    return settled
                raise failure
        return None

    @property
    def _under_way(self) -> bool:
        return not all(call.ended for call in self._calls)

    def _weigh(self, call: Call) -> None:
        """How sure an answer is; one of two that were asked for the same beats the other."""
        for other in self._calls:
            if other is not call and not other.ended:
                other.give_up(lost=True)
        check = call.tier.check
        if check is None or call.confidence is not None or self.entry.plan.steps[call.step].accept is None:
            return
        said = call.said
        if check.twice:
            if call.role is Role.CHECK and said is not None:
                first = next(
                    one for one in reversed(self._calls) if one.step == call.step and one.role is not Role.CHECK
                )
                call.confidence = 0.0 if first.said is None else agreement(first.said, said)
        else:
            call.confidence = 0.0 if said is None else check.score(self.prompt, said)

    def _is_final(self, failure: Refusal) -> bool:
        """Whether no other tier is asked after this."""
        return failure.final if isinstance(failure, Over) else failure.reason in _FINAL

    async def _tell(self, settled: Settle) -> None:
        """Take the answer that stands to the caller, as far as it hasn't heard it."""
        self._trail.settled = settled
        call = self._calls[-1 if settled.by_row is None else settled.by_row[0]]
        degraded = "" if settled.degraded is None else settled.degraded.word
        if not self.prompt.stream:
            self.speaker.whole(call.tier, call.body, degraded)
            return
        if call.held:
            await self.speaker.say(call.tier, call.held, degraded)
        await self.speaker.end()

    def _refusal(self, reason: Reason) -> Refusal:
        """Why there is no answer, in words for the caller."""
        name = self.entry.name
        failure = next((call.failure for call in reversed(self._calls) if call.failure is not None), None)
        if failure is not None and failure.reason is reason:
            return Refusal(reason, f"'{name}' has no answer: {failure.message}", failure.retry_after_s)
        if reason is Reason.NO_CANDIDATE:
            tenant = self._trail.caller.tenant
            return Refusal(reason, f"no tier of '{name}' may serve the tenant '{tenant}': its data may not flow there")
        if reason is Reason.DEADLINE_EXCEEDED:
            return Refusal(reason, "the deadline passed before the answer was ready")
        return Refusal(reason, f"'{name}' has no answer: {reason.meaning}")


def find_text(entries: dict[str, TextEntry], called: str, form: Form, tensors: bool) -> TextEntry:
    """The entry of this name; for a prompt that names none, the only one that offers its form. Refusal."""
    entry = entries.get(called)
    if entry is not None:
        return entry
    names = list(entries)
    if not called and entries:
        names = list(next(iter(entries.values())).capable.get(form.value, names))
        if len(names) == 1:
            return entries[names[0]]
    known = ", ".join(f"'{name}'" for name in names[:20]) or "none"
    if not called:
        raise Refusal(Reason.INVALID_REQUEST, f"`model` is missing; /v1/{form.value} has {known}")
    if tensors:
        raise Refusal(Reason.INVALID_REQUEST, f"'{called}' takes tensors, at /v2/models; /v1/{form.value} has {known}")
    raise Refusal(Reason.NOT_FOUND, f"no route or model is called '{called[:128]}'; there is {known}")

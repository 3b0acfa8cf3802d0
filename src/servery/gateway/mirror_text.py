"""Ask a language model that nobody is given what another one was asked, and say whether both answered the same. Nobody hears it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from servery.gateway.allowances import Allowance
from servery.gateway.call import NS, Call
from servery.gateway.fit import beyond
from servery.gateway.holdings import UNBOUND
from servery.gateway.texts import TextTier
from servery.gateway.trail import AskedText, Made
from servery.host.clock import Clock
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Role
from servery.terms.request import Called
from servery.terms.text import Prompt
from servery.wire.heard import alike, heard, wants_json


class _Aside:
    """A Talk that nobody hears: one call, in the form of the caller's, until `until_ns` (steady)."""

    hold_tokens = 0

    def __init__(self, prompt: Prompt, clock: Clock, until_ns: int) -> None:
        self.prompt = prompt
        self.clock = clock
        self.allowance: Allowance | None = None
        self.until_ns = until_ns
        self.loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()

    @property
    def speaker(self) -> _Aside:
        """As of Talk."""
        return self

    async def say(self, tier: TextTier, chunks: list[bytes], degraded: str = "") -> None:
        """As of Says: it goes nowhere."""

    def may_speak(self, call: Call) -> bool:
        """As of Talk."""
        return not call.ended

    def ring(self, _: object = None) -> None:
        """As of Talk."""
        self._ended.set()

    async def answered(self, call: Call) -> Made:
        """What comes of the only call."""
        late = Refusal(Reason.DEADLINE_EXCEEDED, "no whole answer in time")
        timer = self.loop.call_later((self.until_ns - self.clock.steady_ns()) / NS, lambda: call.give_up(late))
        try:
            call.start()
            await self._ended.wait()
            if call.made is None and call.task is not None:
                await call.task  # a bug of ours
        finally:
            timer.cancel()
        assert call.made is not None, "it has ended"
        return call.made


async def mirrored(asked: AskedText, told: Sequence[bytes], tier: TextTier, clock: Clock) -> tuple[Made, int, int]:
    """The Attempt; whether its answer could be compared with what another one `told` (1 or 0); and whether both said the same.

    It takes nothing of anybody's limits, and isn't asked what it can't do. What its Target has let go meanwhile was abandoned.
    """
    prompt, target = asked.prompt, tier.target
    if beyond(prompt, tier, target.forecast(prompt)):
        refused = Called({}, 0, Reason.NOT_CAPABLE.word)
        return Made(Role.SHADOW, tier, 1, refused), 0, 0
    ready = target.refusal is None
    aside = _Aside(prompt, clock, clock.steady_ns() + asked.limit_ns)
    call = Call(aside, msgspec.structs.replace(tier, bound=UNBOUND), 0, Role.SHADOW)
    made = await aside.answered(call)
    if made.called.failure and ready and target.refusal is not None:
        return msgspec.structs.replace(made, left=True), 0, 0
    if not (told and made.told):
        return made, 0, 0
    # Off the event loop: long answers take milliseconds.
    return made, *await asyncio.to_thread(_compared, prompt, told, made.told)


def _compared(prompt: Prompt, told: Sequence[bytes], answered: Sequence[bytes]) -> tuple[int, int]:
    one, other = heard(prompt.form, told), heard(prompt.form, answered)
    if one is None or other is None:
        return 0, 0
    return 1, int(alike(one, other, wants_json(prompt)))

"""What becomes of a mirrored prompt: an answer that is compared, a failure, a deadline, or a Target that is let go meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection

import pytest

from servery.gateway.mirror_text import mirrored
from servery.gateway.record import attempt_of
from servery.gateway.texts import TextTier
from servery.gateway.trail import AskedText
from servery.host.clock import Clock
from servery.quota.extra import Extra
from servery.terms.change import Version
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Attempt, Outcome, Role
from servery.terms.text import Form, Look, Piece, Prompt, Said, TokenPrice, Tokens
from servery.wire.openai import encode

MS = 1_000_000


def whole(text: str) -> bytes:
    return encode({"choices": [{"message": {"content": text}}]})


def chunk(text: str) -> bytes:
    return encode({"choices": [{"delta": {"content": text}}]})


class Endless:
    """A Target, and its only call, which says `parts` and then nothing more, or ends."""

    version = Version("m", "1", "d", "")
    pico_per_hour = 0
    price = TokenPrice(1, 2)
    extra = Extra()
    answered_as, may_pass, stated, asked = "m-2", True, True, None
    tokens = Tokens(3, 4)
    said: Said | None = None

    def __init__(self, *parts: bytes, fails: Reason | None = None, hangs: bool = False) -> None:
        self.parts, self.fails, self.hangs = parts, fails, hangs
        self.refusal: Reason | None = None
        self.unready = ""
        self.opened = 0
        self.gone = asyncio.Event()

    def forecast(self, prompt: Prompt) -> Tokens:
        return Tokens(10, prompt.most)

    async def count(self, prompt: Prompt) -> int:
        return 0

    def rest_ns(self, now_ns: int) -> int:
        return 0

    def late_ns(self, share: float, stream: bool) -> int:
        return 0

    def open(self, prompt: Prompt, look: Look, avoid: Collection[object]) -> Endless:
        self.opened += 1
        return self

    async def _end(self) -> None:
        if self.hangs:
            await self.gone.wait()
        if self.fails is not None:
            raise Refusal(self.fails, "so it is")

    async def whole(self) -> bytes:
        await self._end()
        return self.parts[0]

    async def pieces(self) -> AsyncGenerator[Piece]:
        for part in self.parts:
            yield Piece(part, said=True)
        await self._end()

    def let_go(self) -> None:
        """As a worker does that stops: what is under way is cut."""
        self.refusal, self.fails = Reason.WARMING, Reason.UPSTREAM_CUT
        self.gone.set()


def ask(
    make: Callable[[], Endless],
    told: tuple[bytes, ...] = (),
    *,
    stream: bool = False,
    limit_ms: int = 10_000,
    lacks: str = "",
    let_go: bool = False,
) -> tuple[Attempt, int, int, int]:
    """The Attempt, whether it could be compared, whether both say the same, and how often the Target was asked."""

    async def run() -> tuple[Attempt, int, int, int]:
        target = make()
        needs = frozenset({lacks} if lacks else ())
        prompt = Prompt(Form.CHAT, "r", {}, stream, False, "", 0, needs)
        tier = TextTier("only", target, "m", "1", lacks=needs, arm="r1/0/candidate")
        asking = asyncio.ensure_future(mirrored(AskedText(prompt, limit_ms * MS), told, tier, Clock()))
        if let_go:
            asyncio.get_running_loop().call_later(0.01, target.let_go)
        made, rows, alike = await asking
        assert made.role is Role.SHADOW
        return attempt_of(made, 0), rows, alike, target.opened

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("told", "parts", "stream", "same"),
    [
        ((whole("Yes"),), (whole(" yes "),), False, 1),
        ((whole("Yes"),), (whole("No"),), False, 0),
        ((chunk("Y"), chunk("es")), (chunk("yes"),), True, 1),
        ((chunk("Y"), chunk("es")), (chunk("y"),), True, 0),
    ],
)
def test_an_answer_is_compared_with_what_was_told(
    told: tuple[bytes, ...], parts: tuple[bytes, ...], stream: bool, same: int
) -> None:
    attempt, rows, alike, _ = ask(lambda: Endless(*parts), told, stream=stream)
    assert (attempt.outcome, attempt.pico_usd, attempt.arm, rows, alike) == (
        Outcome.SERVED,
        11,
        "r1/0/candidate",
        1,
        same,
    )


def test_where_one_of_both_has_no_answer_nothing_is_compared() -> None:
    assert ask(lambda: Endless(whole("Yes")))[1:3] == (0, 0)
    attempt, rows, _, _ = ask(lambda: Endless(fails=Reason.MODEL_FAILED), (whole("Yes"),))
    assert (attempt.outcome, attempt.reason, rows) == (Outcome.FAILED, "model_failed", 0)
    attempt, rows, _, _ = ask(lambda: Endless(b"no json"), (whole("Yes"),))
    assert (attempt.outcome, rows) == (Outcome.SERVED, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_it_has_as_long_as_the_callers_request_had(stream: bool) -> None:
    attempt, rows, _, _ = ask(lambda: Endless(chunk("Y"), hangs=True), (chunk("Y"),), stream=stream, limit_ms=20)
    assert (attempt.outcome, attempt.reason, rows) == (Outcome.FAILED, "deadline_exceeded", 0)


def test_what_it_cannot_do_it_is_not_asked() -> None:
    attempt, rows, _, opened = ask(lambda: Endless(whole("Yes")), (whole("Yes"),), lacks="tools")
    assert (attempt.outcome, attempt.reason, attempt.pico_usd) == (Outcome.REFUSED, "not_capable", 0)
    assert (rows, opened) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_cut_because_its_target_goes_is_abandoned_and_booked(stream: bool) -> None:
    attempt, rows, _, _ = ask(lambda: Endless(chunk("Y"), hangs=True), (chunk("Y"),), stream=stream, let_go=True)
    assert (attempt.outcome, attempt.reason, attempt.pico_usd, rows) == (Outcome.ABANDONED, "", 11, 0)

"""A model of patterns and canned replies: it costs nothing, and knows only what it was told."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Collection

from servery.host.clock import Clock, Dice
from servery.quota.extra import Extra
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Uptime
from servery.terms.statistics import VersionStatistics
from servery.terms.text import Form, Look, Piece, Prompt, Said, TokenPrice, Tokens
from servery.wire.openai import encode_reply, encode_reply_chunks

# How much of a prompt is searched: some patterns take a time that grows with its square.
MOST_CHARS = 16_384


class HeuristicTarget:
    """A Service that has nothing to start."""

    pico_per_hour = 0
    one_row_ns = 0.0
    price = TokenPrice()
    unready = ""
    refusal = None

    def __init__(self, model: Model, version: Version, clock: Clock, dice: Dice) -> None:
        self.version = version
        self.extra = Extra()
        self.name = f"model {version.model}"
        self._replies = [(re.compile(canned.pattern), canned.reply) for canned in model.replies]
        self._clock = clock
        self._dice = dice

    async def start(self) -> None:
        """Nothing is needed."""

    async def drain(self) -> None:
        """Nothing is open."""

    def uptimes(self, run: str, now_ns: int) -> list[Uptime]:
        """It costs nothing."""
        del run, now_ns
        return []

    def statistics(self) -> tuple[VersionStatistics, ...]:
        """They count rows of tensors."""
        return ()

    def forecast(self, prompt: Prompt) -> Tokens:
        """It takes none."""
        del prompt
        return Tokens()

    def rest_ns(self, now_ns: int) -> int:
        """It never rests."""
        del now_ns
        return 0

    def late_ns(self, share: float, stream: bool) -> int:
        """It is never late."""
        del share, stream
        return 0

    def open(self, prompt: Prompt, look: Look = Look.NOTHING, avoid: Collection[object] = ()) -> CannedExchange:
        """The first reply whose pattern is found. Refusal where there is none, so that another tier is asked."""
        del look, avoid
        said = prompt.text[:MOST_CHARS]
        reply = next((reply for pattern, reply in self._replies if pattern.search(said)), None)
        if reply is None or prompt.form is Form.EMBEDDINGS:
            raise Refusal(Reason.NOT_CAPABLE, f"'{self.version.model}' has no reply to this")
        created = self._clock.wall_ns() // 1_000_000_000
        return CannedExchange(prompt, reply, f"canned-{self._dice.bits(12).hex()}", created, self.version.model)


class CannedExchange:
    """A reply that is known already."""

    stated = True
    tokens = Tokens()
    asked = None
    may_pass = False

    def __init__(self, prompt: Prompt, reply: str, reply_id: str, created: int, model: str) -> None:
        self._prompt = prompt
        self._reply = (prompt.form, reply, reply_id, created, model)
        self.answered_as = model
        self.said = Said(reply)

    async def whole(self) -> bytes:
        """The reply in the form that was asked for."""
        return encode_reply(*self._reply)

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The same as a stream."""
        said, end = encode_reply_chunks(*self._reply)
        yield Piece(said, said=True)
        yield Piece(end)

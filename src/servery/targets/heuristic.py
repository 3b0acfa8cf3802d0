"""A model of patterns and canned replies: it costs nothing, and knows only what it was told."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Collection

from servery.host.clock import Clock, Dice
from servery.targets.still import Still
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.text import Form, Look, Piece, Prompt, Said, Tokens
from servery.wire import messages_by_chat
from servery.wire.openai_answers import encode_reply, encode_reply_chunks

# How much of a prompt is searched: some patterns take a time that grows with its square.
MOST_CHARS = 16_384


class HeuristicTarget(Still):
    """A Service that has nothing to start."""

    unready = ""
    refusal = None

    def __init__(self, model: Model, version: Version, clock: Clock, dice: Dice) -> None:
        super().__init__(version)
        self._replies = [(re.compile(canned.pattern), canned.reply) for canned in model.replies]
        self._clock = clock
        self._dice = dice

    def open(self, prompt: Prompt, look: Look, avoid: Collection[object]) -> CannedExchange:
        """The first reply whose pattern is found. Refusal where there is none, so that another tier is asked."""
        del look, avoid
        said = prompt.text[:MOST_CHARS]
        reply = next((reply for pattern, reply in self._replies if pattern.search(said)), None)
        if reply is None:
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
        form = Form.CHAT if prompt.form is Form.MESSAGES else prompt.form
        self._as_message = prompt.form is Form.MESSAGES
        self._reply = (form, reply, reply_id, created, model)
        self.answered_as = model
        self.said = Said(reply)

    async def whole(self) -> bytes:
        """The reply in the form that was asked for."""
        reply = encode_reply(*self._reply)
        return messages_by_chat.read_answer(reply, Look.NOTHING).data if self._as_message else reply

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The same as a stream."""
        said, end = encode_reply_chunks(*self._reply)
        if not self._as_message:
            yield Piece(said, said=True)
            yield Piece(end)
            return
        stream = messages_by_chat.Stream(Look.NOTHING)
        for piece in (*stream.read(said), *stream.read(end), *stream.end()):
            yield piece

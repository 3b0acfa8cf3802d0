"""One call of a language model: what is sent, what comes back, and what it took, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from servery.host.client import Client, Cut, Reply, TooLong, Unreached
from servery.host.clock import Clock
from servery.targets.apis import Api, asked_pause_s, spent_pause_s
from servery.targets.endpoints import Endpoint
from servery.targets.learned import Learned
from servery.terms.change import Version
from servery.terms.reasons import Reason, Refusal
from servery.terms.text import Form, Look, Piece, Prompt, Said, Tokens
from servery.wire import messages, openai
from servery.wire.answer import Stream, Wrong
from servery.wire.dialects import Dialect
from servery.wire.sse import Broken, Events

NS = 1_000_000_000
ANSWER_BYTES = 64 << 20
_OK = 200
_TOLD_CHARS = 500
_BUSY = (408, 429, 503, 529)
_THE_PROMPTS_FAULT = (400, 413, 422)
_SERVERS_FAULT = 500
_TOO_LONG = ("context_length_exceeded", "string_above_max_length")
_AGAIN_S = 1.0
_FEW = 3  # durations that say what is usual
_UNWRITTEN = (Form.EMBEDDINGS, Form.MODERATIONS)


class Asked(Protocol):
    """The model that is called, and what is known of it."""

    version: Version
    api: Api
    clock: Clock
    learned: Learned


class Sent(msgspec.Struct, frozen=True):
    """A request: by whom it goes, its head but for the length of its body, and that."""

    client: Client
    head: bytes
    body: bytes


class Exchange:
    """One call. What it took is known at any time, however it ends. `may_pass`: its failure may not happen again."""

    __slots__ = (
        "_began",
        "_began_ns",
        "_billed",
        "_chars",
        "_dead",
        "_dialect",
        "_look",
        "_prompt",
        "_sent",
        "_stated",
        "_stream",
        "_target",
        "answered_as",
        "asked",
        "may_pass",
        "said",
    )

    def __init__(
        self,
        target: Asked,
        endpoint: Endpoint,
        prompt: Prompt,
        look: Look,
        dialect: Dialect,
        sent: Sent,
    ) -> None:
        self.asked = endpoint
        self.answered_as = ""
        self.may_pass = True
        self.said: Said | None = None
        self._target = target
        self._prompt = prompt
        self._look = look
        self._dialect = dialect
        self._sent = sent
        self._began_ns = 0
        self._stream: Stream | None = None
        self._billed = False  # whether the vendor may have begun to answer
        self._stated: Tokens | None = None
        self._chars = 0
        self._began = False  # whether an answer, or a stream of it, has
        self._dead = False  # whether it failed before that

    @property
    def stated(self) -> bool:
        """Whether the vendor has said what it took."""
        return self._stated is not None

    @property
    def tokens(self) -> Tokens | None:
        """What it took; counted by us where the vendor is silent. None: it refused, or was never reached."""
        if self._stream is not None:
            self._stated, self._chars, self.answered_as = (
                self._stream.tokens,
                self._stream.chars,
                self._stream.answered_as,
            )
        if self._stated is not None:
            return self._stated
        if not self._billed:
            return None
        if not (self._prompt.stream or self._chars or self._dead):
            return self._guessed()
        counted = self._target.learned.tokens(self._prompt.chars, self._chars)
        read = None if self._stream is None else self._stream.read_so_far
        return counted if read is None else msgspec.structs.replace(read, output=counted.output)

    def _guessed(self) -> Tokens:
        """What was written until nobody waited for it any more: the part of an answer for which there was time."""
        learned, now_ns = self._target.learned, self._target.clock.steady_ns()
        forecast = learned.forecast(self._prompt.chars, self._prompt.most)
        usual_ns = learned.whole.quantile(0.5, now_ns, _FEW)
        done = min((now_ns - self._began_ns) / usual_ns, 1.0) if usual_ns else 1.0
        output = 0 if self._prompt.form in _UNWRITTEN else round(forecast.output * done)
        return msgspec.structs.replace(forecast, output=output)

    async def whole(self) -> bytes:
        """The answer. Refusal where it fails."""
        endpoint, prompt, clock = self.asked, self._prompt, self._target.clock
        endpoint.begins()
        self._billed = True
        began_ns = self._began_ns = clock.steady_ns()
        try:
            reply = await self._ask(stream=False)
            reply.end()
            self._began = True
            self._heed(reply)
            answer = self._dialect.read_answer(prompt, reply.body, self._look, clock.wall_ns() // NS)
        except _FAILURES as error:
            raise self._failed(error) from None
        except asyncio.CancelledError:
            endpoint.breaker.given_up()
            raise
        finally:
            endpoint.ended()
        self._stated, self._chars, self.answered_as = answer.tokens, answer.chars, answer.answered_as
        self.said = answer.said
        now_ns = clock.steady_ns()
        endpoint.took(now_ns - began_ns, now_ns)
        self._complete(began_ns, now_ns)
        return answer.data

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The answer, a Piece a chunk. Refusal where it fails, also after some of them."""
        endpoint, clock = self.asked, self._target.clock
        endpoint.begins()
        self._billed = True
        began_ns = self._began_ns = clock.steady_ns()
        reply: Reply | None = None
        try:
            reply = await self._ask(stream=True)
            self._heed(reply)
            first = True
            async for piece in self._chunks(reply):
                if first and piece.said:
                    first = False
                    now_ns = clock.steady_ns()
                    endpoint.took(now_ns - began_ns, now_ns)
                    self._target.learned.first.add(now_ns - began_ns, now_ns)
                yield piece
        except _FAILURES as error:
            raise self._failed(error) from None
        except (asyncio.CancelledError, GeneratorExit):
            endpoint.breaker.given_up()
            raise
        finally:
            if reply is not None:
                reply.end()
            endpoint.ended()
        self._complete(began_ns, clock.steady_ns())

    async def _chunks(self, reply: Reply) -> AsyncGenerator[Piece]:
        events = Events()
        stream = self._dialect.stream(self._prompt, self._look, self._target.clock.wall_ns() // NS)
        self._stream = stream
        try:
            while received := await reply.part():
                for data in events.feed(received):
                    if data != openai.DONE:
                        for piece in stream.read(data):
                            yield piece
        except Cut:
            if not stream.complete:  # else only what comes behind the answer is missing
                raise
        if not stream.complete:
            raise _Unfinished
        for piece in stream.end():
            yield piece
        self.said = stream.said

    async def count(self) -> int:
        """The tokens of the prompt, as the vendor counts them. Refusal."""
        endpoint = self.asked
        endpoint.begins()
        try:
            reply = await self._ask(stream=False)
            reply.end()
            counted = messages.read_count(reply.body)
        except _FAILURES as error:
            raise self._failed(error) from None
        except asyncio.CancelledError:
            endpoint.breaker.given_up()
            raise
        finally:
            endpoint.ended()
        endpoint.answered()
        return counted

    async def _ask(self, *, stream: bool) -> Reply:
        """The reply with status 200, whole or as far as its head; it must be ended. Refusal for another one."""
        sent = self._sent
        reply = await sent.client.ask(sent.head, sent.body, stream)
        if reply.status == _OK:
            return reply
        self._billed = False
        try:
            body = await reply.rest()
        except TooLong:
            body = b""
        finally:
            reply.end()
        raise self._refusal(reply, body)

    def _complete(self, began_ns: int, now_ns: int) -> None:
        """All of it has come."""
        target = self._target
        self.asked.answered()
        target.learned.whole.add(now_ns - began_ns, now_ns)
        if self.tokens is not None and self._stated is not None:
            target.learned.learn(self._prompt.chars, self._chars, self._stated)

    def _refusal(self, reply: Reply, body: bytes) -> Refusal:
        """What a status other than 200 means."""
        now_ns = self._target.clock.steady_ns()
        told, status = self._target.api.read_error(body), reply.status
        model, asked = self._target.version.model, self.asked
        if status in _BUSY:
            wait_s = asked_pause_s(reply, self._target.api, self._target.clock.wall_ns())
            asked.breaker.asked_to_wait(round(wait_s * NS), now_ns)
            message = f"the endpoint of '{model}' takes no more for now (it answered {status})"
            return Refusal(Reason.UPSTREAM_BUSY, message, retry_after_s=max(wait_s, _AGAIN_S))
        self.may_pass = status >= _SERVERS_FAULT
        if status in _THE_PROMPTS_FAULT:
            asked.answered()
            if told.code in _TOO_LONG:
                return Refusal(Reason.NOT_CAPABLE, f"the prompt is too long for '{model}'")
            return Refusal(Reason.INVALID_REQUEST, self._without_secret(told.message) or f"'{model}' refused it")
        asked.failed(now_ns)
        return Refusal(Reason.MODEL_FAILED, f"the endpoint of '{model}' answered {status}")

    def _heed(self, reply: Reply) -> None:
        """Leave an endpoint alone that says that this was the last call for now."""
        clock = self._target.clock
        if pause_s := spent_pause_s(reply, self._target.api, clock.wall_ns()):
            self.asked.breaker.asked_to_wait(round(pause_s * NS), clock.steady_ns())

    def _without_secret(self, message: str) -> str:
        secret = self.asked.secret
        return (message.replace(secret, "…") if secret else message)[:_TOLD_CHARS]

    def _failed(self, error: Exception) -> Refusal:
        """What it means that no answer came, or a wrong one."""
        self._dead = not (self._began or (isinstance(error, Cut) and error.begun))
        if isinstance(error, Unreached):
            self._billed = False
            reason, message = Reason.UPSTREAM_CUT, "its endpoint can't be reached"
        elif isinstance(error, Cut):
            reason, message = Reason.UPSTREAM_CUT, "its answer ended early"
        elif isinstance(error, _Unfinished):
            reason, message = Reason.UPSTREAM_CUT, "its stream ended without a finish reason"
        else:
            reason, message = Reason.WRONG_ANSWER, str(error)
        self.asked.failed(self._target.clock.steady_ns())
        return Refusal(reason, f"'{self._target.version.model}': {message}")


class _Unfinished(Exception):
    """A stream has ended, but not its answer."""


_FAILURES = (
    Unreached,
    Cut,
    TooLong,
    Wrong,
    Broken,
    _Unfinished,
    RecursionError,
    msgspec.DecodeError,
    UnicodeDecodeError,
)

"""A language model behind an OpenAI-compatible endpoint, through pyreqwest (Rust's reqwest)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectError, PyreqwestError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from servery import __version__
from servery.host.clock import Clock
from servery.targets.breaker import Breaker
from servery.targets.learned import Learned
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Uptime
from servery.terms.statistics import VersionStatistics
from servery.terms.text import Piece, Prompt, TokenPrice, Tokens
from servery.wire import openai as wire
from servery.wire.sse import Broken, Events

_ANSWER_BYTES = 64 << 20
_ERROR_BYTES = 65_536
_TOLD_CHARS = 500
_CONNECT = timedelta(seconds=5)
# After this many idle seconds many vendors close a connection, perhaps just as it is used.
_IDLE = timedelta(seconds=30)
_BUSY = (408, 429, 503, 529)
_THE_PROMPTS_FAULT = (400, 413, 422)
_TOO_LONG = ("context_length_exceeded", "string_above_max_length")
_AGAIN_S = 1.0


class OpenAiTarget:
    """A Service. `secret` is sent as `Authorization: Bearer`; nothing that is raised or logged holds it."""

    pico_per_hour = 0
    one_row_ns = 0.0

    def __init__(self, model: Model, version: Version, secret: str, clock: Clock) -> None:
        self.version = version
        self.name = f"model {version.model}"
        self.price = version.price or TokenPrice()
        self._serves = model.serves or version.model
        self._url = model.endpoint.rstrip("/")
        self._secret = secret
        self._clock = clock
        self._client: Client | None = None
        self.breaker = Breaker()
        self.learned = Learned()

    @property
    def unready(self) -> str:
        if self.version.problem:
            return self.version.problem
        return "" if self._client is not None else "it isn't started"

    @property
    def refusal(self) -> Reason | None:
        if not self.unready:
            return None
        return Reason.MODEL_UNAVAILABLE if self.version.problem else Reason.WARMING

    async def start(self) -> None:
        """Make the client; the first call connects."""
        if not self.version.problem:
            builder = ClientBuilder().follow_redirects(False).connect_timeout(_CONNECT).pool_idle_timeout(_IDLE)
            self._client = builder.user_agent(f"servery/{__version__}").build()

    async def drain(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def uptimes(self, run: str, now_ns: int) -> list[Uptime]:
        """Nothing is kept ready here that costs by the hour."""
        del run, now_ns
        return []

    def statistics(self) -> tuple[VersionStatistics, ...]:
        """They count rows of tensors."""
        return ()

    def forecast(self, prompt: Prompt) -> Tokens:
        """What a call may take."""
        return self.learned.forecast(prompt.chars, prompt.most)

    def open(self, prompt: Prompt) -> Exchange:
        """A call that begins when its pieces are asked for. Refusal where the endpoint wants to be left alone."""
        client = self._client
        if client is None:
            raise Refusal(self.refusal or Reason.WARMING, self.unready)
        wait_ns = self.breaker.wait_ns(self._clock.steady_ns())
        if wait_ns:
            message = f"the endpoint of '{self.version.model}' takes no calls for now"
            raise Refusal(Reason.UPSTREAM_BUSY, message, retry_after_s=wait_ns / 1e9)
        request = client.post(f"{self._url}/{prompt.form.value}").header("content-type", "application/json")
        if self._secret:
            request = request.header("authorization", f"Bearer {self._secret}", is_sensitive=True)
        request = request.body_bytes(wire.encode_prompt(prompt, self._serves))
        # It reads ahead otherwise, until so many bytes are there or the answer is whole.
        return Exchange(self, prompt, request.streamed_read_buffer_limit(0).build_streamed())

    def refused(self, status: int, retry_after: str | None, body: bytes) -> Refusal:
        """What a status other than 200 means."""
        now_ns = self._clock.steady_ns()
        told = wire.read_error(body)
        model = self.version.model
        if status in _BUSY:
            wait_s = _seconds(retry_after)
            self.breaker.asked_to_wait(round(wait_s * 1e9), now_ns)
            message = f"the endpoint of '{model}' takes no more for now (it answered {status})"
            return Refusal(Reason.UPSTREAM_BUSY, message, retry_after_s=max(wait_s, _AGAIN_S))
        if status in _THE_PROMPTS_FAULT:
            self.breaker.answered()
            if told.code in _TOO_LONG:
                return Refusal(Reason.NOT_CAPABLE, f"the prompt is too long for '{model}'")
            return Refusal(Reason.INVALID_REQUEST, self._without_secret(told.message) or f"'{model}' refused it")
        self.breaker.failed(now_ns)
        return Refusal(Reason.MODEL_FAILED, f"the endpoint of '{model}' answered {status}")

    def _without_secret(self, message: str) -> str:
        return (message.replace(self._secret, "…") if self._secret else message)[:_TOLD_CHARS]

    def failed(self, reason: Reason, message: str) -> Refusal:
        self.breaker.failed(self._clock.steady_ns())
        return Refusal(reason, f"'{self.version.model}': {message}")


def _seconds(retry_after: str | None) -> float:
    """The seconds of a Retry-After; a date is not looked at."""
    try:
        wait_s = float(retry_after or 0)
    except ValueError:
        wait_s = 0.0
    return wait_s if 0 < wait_s < math.inf else 0.0


class Exchange:
    """One call. What it took is known at any time, however it ends."""

    def __init__(self, target: OpenAiTarget, prompt: Prompt, request: StreamRequest) -> None:
        self._target = target
        self._prompt = prompt
        self._request = request
        self._stream = wire.Stream(prompt.usage_wanted)
        self._billed = False  # whether the vendor may have begun to answer
        self._stated: Tokens | None = None
        self._chars = 0
        self.answered_as = ""

    @property
    def stated(self) -> bool:
        """Whether the vendor has said what it took."""
        return self._stated is not None

    @property
    def tokens(self) -> Tokens | None:
        """What it took; counted by us where the vendor is silent. None: it refused, or was never reached."""
        if self._stated is not None:
            return self._stated
        return self._target.learned.tokens(self._prompt.chars, self._chars) if self._billed else None

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The answer: a Piece a chunk, or all of it in one. Refusal where it fails, also after some of them."""
        target, breaker = self._target, self._target.breaker
        breaker.begins()
        self._billed = True
        try:
            async with self._request as response:
                if response.status != 200:
                    self._billed = False
                    body = await _most(response, _ERROR_BYTES)
                    raise target.refused(response.status, response.get_header("retry-after"), body)
                if self._prompt.stream:
                    async for piece in self._chunks(response):
                        yield piece
                else:
                    yield await self._whole(response)
        except PyreqwestError as error:
            if _never_connected(error):
                self._billed = False
                raise target.failed(Reason.UPSTREAM_CUT, "its endpoint can't be reached") from None
            raise target.failed(Reason.UPSTREAM_CUT, "its answer ended early") from None
        except wire.Wrong as error:
            raise target.failed(Reason.WRONG_ANSWER, str(error)) from None
        except Broken as error:
            raise target.failed(Reason.WRONG_ANSWER, str(error)) from None
        except asyncio.CancelledError:
            breaker.given_up()
            raise
        breaker.answered()
        if self._stated is not None:
            target.learned.learn(self._prompt.chars, self._chars, self._stated)

    async def _whole(self, response: Response) -> Piece:
        body = await _most(response, _ANSWER_BYTES)
        answer = wire.read_answer(self._prompt.form, body)
        self._stated, self._chars, self.answered_as = answer.tokens, answer.chars, answer.answered_as
        return Piece(body, said=True)

    async def _chunks(self, response: Response) -> AsyncGenerator[Piece]:
        events, stream = Events(), self._stream
        reader = response.body_reader
        while (received := await reader.read_chunk()) is not None:
            for data in events.feed(bytes(received)):
                if data == wire.DONE:
                    continue
                piece = stream.read(data)
                self._stated, self._chars, self.answered_as = stream.tokens, stream.chars, stream.answered_as
                yield piece
        if not stream.complete:
            raise self._target.failed(Reason.UPSTREAM_CUT, "its stream ended without a finish reason")


def _never_connected(error: PyreqwestError) -> bool:
    """Whether nothing was sent. pyreqwest says ConnectError also of a connection that closed without a reply."""
    causes = error.details["causes"] if isinstance(error, ConnectError) else None
    return any(cause["message"] == "client error (Connect)" for cause in causes or ())


async def _most(response: Response, most: int) -> bytes:
    """The body; wire.Wrong where it is longer than `most`."""
    parts: list[bytes] = []
    size = 0
    while (part := await response.body_reader.read_chunk()) is not None:
        parts.append(bytes(part))
        size += len(parts[-1])
        if size > most:
            raise wire.Wrong(f"it is longer than {most >> 10} KiB")
    return _joined(parts)


def _joined(parts: Sequence[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)

"""A language model behind OpenAI-compatible endpoints, through pyreqwest (Rust's reqwest)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime

import msgspec
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectError, PyreqwestError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from servery import __version__
from servery.host.clock import Clock, Dice
from servery.quota.extra import Extra
from servery.targets.endpoints import Endpoint, pick, rest_ns
from servery.targets.learned import Learned
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Uptime
from servery.terms.statistics import VersionStatistics
from servery.terms.text import Look, Piece, Prompt, Said, TokenPrice, Tokens
from servery.wire import openai as wire
from servery.wire.sse import Broken, Events

NS = 1_000_000_000
_ANSWER_BYTES = 64 << 20
_ERROR_BYTES = 65_536
_TOLD_CHARS = 500
_CONNECT = timedelta(seconds=5)
# After this many idle seconds many vendors close a connection, perhaps just as it is used.
_IDLE = timedelta(seconds=30)
_BUSY = (408, 429, 503, 529)
_THE_PROMPTS_FAULT = (400, 413, 422)
_SERVERS_FAULT = 500
_TOO_LONG = ("context_length_exceeded", "string_above_max_length")
_AGAIN_S = 1.0
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")  # as in x-ratelimit-reset-requests: 6m0s
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class OpenAiTarget:
    """A Service. `endpoints` are tried as they are able; nothing that is raised or logged holds their secrets."""

    pico_per_hour = 0
    one_row_ns = 0.0

    def __init__(self, model: Model, version: Version, endpoints: Sequence[Endpoint], clock: Clock, dice: Dice) -> None:
        self.version = version
        self.name = f"model {version.model}"
        self.price = version.price or TokenPrice()
        self.clock = clock
        self.endpoints = tuple(endpoints)
        self.learned = Learned()
        self.extra = Extra()
        self._serves = msgspec.Raw(msgspec.json.encode(model.serves or version.model))
        self._dice = dice
        self._client: Client | None = None

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

    def rest_ns(self, now_ns: int) -> int:
        """For how long no endpoint wants to be asked; 0: one does."""
        return rest_ns(self.endpoints, now_ns)

    def late_ns(self, share: float, stream: bool) -> int:
        """The time that this share of answers didn't exceed lately: to the end, or of streams to the first word. 0: unknown."""
        return (self.learned.first if stream else self.learned.whole).quantile(share)

    def open(self, prompt: Prompt, look: Look = Look.NOTHING, avoid: Collection[object] = ()) -> Exchange:
        """A call that begins when its answer is asked for. Refusal where all endpoints want to be left alone."""
        client = self._client
        if client is None:
            raise Refusal(self.refusal or Reason.WARMING, self.unready)
        now_ns = self.clock.steady_ns()
        alone = len(self.endpoints) == 1
        endpoint = pick(self.endpoints, now_ns, 0 if alone else int.from_bytes(self._dice.bits(4)), avoid)
        if endpoint is None:
            message = f"the endpoint of '{self.version.model}' takes no calls for now"
            raise Refusal(Reason.UPSTREAM_BUSY, message, retry_after_s=self.rest_ns(now_ns) / NS)
        request = client.post(f"{endpoint.url}/{prompt.form.value}").header("content-type", "application/json")
        if endpoint.secret:
            request = request.header("authorization", f"Bearer {endpoint.secret}", is_sensitive=True)
        request = request.body_bytes(wire.encode_prompt(prompt, self._serves, look))
        # It reads ahead otherwise, until so many bytes are there or the answer is whole.
        if prompt.stream:
            request = request.streamed_read_buffer_limit(0)
        return Exchange(self, endpoint, prompt, look, request.build_streamed())


class Exchange:
    """One call. What it took is known at any time, however it ends. `may_pass`: its failure may not happen again."""

    __slots__ = (
        "_billed",
        "_chars",
        "_look",
        "_prompt",
        "_request",
        "_stated",
        "_stream",
        "_target",
        "answered_as",
        "asked",
        "may_pass",
        "said",
    )

    def __init__(
        self, target: OpenAiTarget, endpoint: Endpoint, prompt: Prompt, look: Look, request: StreamRequest
    ) -> None:
        self.asked = endpoint
        self.answered_as = ""
        self.may_pass = True
        self.said: Said | None = None
        self._target = target
        self._prompt = prompt
        self._look = look
        self._request = request
        self._stream: wire.Stream | None = None
        self._billed = False  # whether the vendor may have begun to answer
        self._stated: Tokens | None = None
        self._chars = 0

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
        return self._target.learned.tokens(self._prompt.chars, self._chars) if self._billed else None

    async def whole(self) -> bytes:
        """The answer. Refusal where it fails."""
        endpoint, prompt, clock = self.asked, self._prompt, self._target.clock
        endpoint.begins()
        self._billed = True
        began_ns = clock.steady_ns()
        try:
            async with self._request as response:
                if response.status != 200:
                    await self._refuse(response)
                body = await _most(response, _ANSWER_BYTES)
                self._heed(response, clock.steady_ns())
            hide = wire.hides_logprobs(prompt, self._look)
            answer = wire.read_answer(prompt.form, body, self._look, hide)
        except (PyreqwestError, wire.Wrong) as error:
            raise self._failed(error) from None
        except asyncio.CancelledError:
            endpoint.breaker.given_up()
            raise
        finally:
            endpoint.ended()
        self._stated, self._chars, self.answered_as = answer.tokens, answer.chars, answer.answered_as
        self.said = answer.said
        took_ns = clock.steady_ns() - began_ns
        endpoint.took(took_ns, began_ns + took_ns)
        self._complete(took_ns)
        return answer.data

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The answer, a Piece a chunk. Refusal where it fails, also after some of them."""
        endpoint, clock = self.asked, self._target.clock
        endpoint.begins()
        self._billed = True
        began_ns = clock.steady_ns()
        try:
            async with self._request as response:
                if response.status != 200:
                    await self._refuse(response)
                self._heed(response, clock.steady_ns())
                first = True
                async for piece in self._chunks(response):
                    if first and piece.said:
                        first = False
                        took_ns = clock.steady_ns() - began_ns
                        endpoint.took(took_ns, began_ns + took_ns)
                        self._target.learned.first.add(took_ns)
                    yield piece
        except (PyreqwestError, wire.Wrong, Broken, _Unfinished) as error:
            raise self._failed(error) from None
        except (asyncio.CancelledError, GeneratorExit):
            endpoint.breaker.given_up()
            raise
        finally:
            endpoint.ended()
        self._complete(clock.steady_ns() - began_ns)

    async def _chunks(self, response: Response) -> AsyncGenerator[Piece]:
        prompt, events = self._prompt, Events()
        stream = self._stream = wire.Stream(prompt.usage_wanted, self._look, wire.hides_logprobs(prompt, self._look))
        reader = response.body_reader
        while (received := await reader.read_chunk()) is not None:
            for data in events.feed(bytes(received)):
                if data != wire.DONE:
                    yield stream.read(data)
        if not stream.complete:
            raise _Unfinished
        self.said = stream.said

    def _complete(self, took_ns: int) -> None:
        """All of it has come."""
        target = self._target
        self.asked.answered()
        target.learned.whole.add(took_ns)
        if self.tokens is not None and self._stated is not None:
            target.learned.learn(self._prompt.chars, self._chars, self._stated)

    async def _refuse(self, response: Response) -> None:
        """Raise what a status other than 200 means."""
        self._billed = False
        body = await _most(response, _ERROR_BYTES)
        now_ns = self._target.clock.steady_ns()
        told, status = wire.read_error(body), response.status
        model, asked = self._target.version.model, self.asked
        if status in _BUSY:
            wait_s = asked_pause_s(response, now_wall_ns=self._target.clock.wall_ns())
            asked.breaker.asked_to_wait(round(wait_s * NS), now_ns)
            message = f"the endpoint of '{model}' takes no more for now (it answered {status})"
            raise Refusal(Reason.UPSTREAM_BUSY, message, retry_after_s=max(wait_s, _AGAIN_S))
        self.may_pass = status >= _SERVERS_FAULT
        if status in _THE_PROMPTS_FAULT:
            asked.answered()
            if told.code in _TOO_LONG:
                raise Refusal(Reason.NOT_CAPABLE, f"the prompt is too long for '{model}'")
            raise Refusal(Reason.INVALID_REQUEST, self._without_secret(told.message) or f"'{model}' refused it")
        asked.failed(now_ns)
        raise Refusal(Reason.MODEL_FAILED, f"the endpoint of '{model}' answered {status}")

    def _heed(self, response: Response, now_ns: int) -> None:
        """Leave an endpoint alone that says that this was the last call for now."""
        if response.get_header("x-ratelimit-remaining-requests") == "0":
            pause_s = period_s(response.get_header("x-ratelimit-reset-requests") or "")
            self.asked.breaker.asked_to_wait(round(pause_s * NS), now_ns)

    def _without_secret(self, message: str) -> str:
        secret = self.asked.secret
        return (message.replace(secret, "…") if secret else message)[:_TOLD_CHARS]

    def _failed(self, error: PyreqwestError | wire.Wrong | Broken | _Unfinished) -> Refusal:
        """What it means that no answer came, or a wrong one."""
        if isinstance(error, PyreqwestError):
            reason = Reason.UPSTREAM_CUT
            if _never_connected(error):
                self._billed = False
                message = "its endpoint can't be reached"
            else:
                message = "its answer ended early"
        elif isinstance(error, _Unfinished):
            reason, message = Reason.UPSTREAM_CUT, "its stream ended without a finish reason"
        else:
            reason, message = Reason.WRONG_ANSWER, str(error)
        self.asked.failed(self._target.clock.steady_ns())
        return Refusal(reason, f"'{self._target.version.model}': {message}")


class _Unfinished(Exception):
    """A stream has ended, but not its answer."""


def asked_pause_s(response: Response, now_wall_ns: int) -> float:
    """For how long an endpoint that takes no more wants to be left alone; 0 where it doesn't say."""
    stated = response.get_header("retry-after-ms")
    if stated is not None:
        return period_s(f"{stated.strip()}ms")
    stated = (response.get_header("retry-after") or "").strip()
    if not stated:
        return period_s(response.get_header("x-ratelimit-reset-requests") or "")
    if period := period_s(f"{stated}s"):
        return period
    try:
        at = parsedate_to_datetime(stated)
    except ValueError:
        return 0.0
    return max(at.timestamp() - now_wall_ns / NS, 0.0)


def period_s(text: str) -> float:
    """The seconds that a text such as `6m0s` or `20ms` states; 0 where it states none."""
    found = _PERIOD.findall(text)
    if "".join(number + unit for number, unit in found) != text:
        return 0.0
    return sum(float(number) * _UNIT_S[unit] for number, unit in found)


def _never_connected(error: PyreqwestError) -> bool:
    """Whether nothing was sent. pyreqwest says ConnectError also of a connection that closed without a reply."""
    causes = error.details["causes"] if isinstance(error, ConnectError) else None
    return any(cause["message"] == "client error (Connect)" for cause in causes or ())


async def _most(response: Response, most: int) -> bytes:
    """The body; wire.Wrong where it is longer than `most`."""
    stated = response.get_header("content-length")
    if stated is not None and stated.isdecimal() and int(stated) <= most:  # hyper reads no more than that
        return bytes(await response.bytes())
    reader = response.body_reader
    part = await reader.read_chunk()
    if part is None:
        return b""
    body = bytes(part)
    parts: list[bytes] = []
    size = len(body)
    while (part := await reader.read_chunk()) is not None:
        parts.append(bytes(part))
        size += len(parts[-1])
        if size > most:
            raise wire.Wrong(f"it is longer than {most >> 10} KiB")
    return b"".join((body, *parts)) if parts else body

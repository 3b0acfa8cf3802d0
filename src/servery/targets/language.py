"""A language model behind endpoints of a vendor's API, through pyreqwest (Rust's reqwest)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import timedelta

import msgspec
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectError, PyreqwestError
from pyreqwest.request import RequestBuilder, StreamRequest
from pyreqwest.response import Response

from servery import __version__
from servery.host.clock import Clock, Dice
from servery.quota.extra import Extra
from servery.targets.apis import ANTHROPIC, api_of, asked_pause_s, spent_pause_s
from servery.targets.endpoints import Endpoint, pick, rest_ns
from servery.targets.learned import Learned
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Uptime
from servery.terms.statistics import VersionStatistics
from servery.terms.text import Form, Look, Piece, Prompt, Said, TokenPrice, Tokens
from servery.wire import messages, openai
from servery.wire.answer import Stream, Wrong
from servery.wire.dialects import Dialect
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
# A call is ended so long after its Request's deadline, when that has been told already.
_GRACE_S = 0.1
_NEARLY_NS = 10_000_000  # timers may be early
_COUNT = timedelta(seconds=30)
_UNWRITTEN = (Form.EMBEDDINGS, Form.MODERATIONS)


class LanguageTarget:
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
        self.api = api_of(model)
        self.dialects = self.api.dialects(version.model, model.drop_unsupported)
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
        recent = self.learned.first if stream else self.learned.whole
        return recent.quantile(share, self.clock.steady_ns())

    def open(self, prompt: Prompt, look: Look, avoid: Collection[object], until_ns: int) -> Exchange:
        """A call that begins when its answer is asked for, and is ended after `until_ns` (steady). Refusal where all endpoints
        want to be left alone, and where they can't be asked this.
        """
        dialect = self.dialects.get(prompt.form)
        if dialect is None:
            raise Refusal(Reason.NOT_CAPABLE, f"'{self.version.model}' has nothing for /v1/{prompt.form.value}")
        endpoint, client = self._endpoint(avoid)
        request = self._request(client, endpoint, dialect.path, prompt.beta)
        try:
            request = request.body_bytes(dialect.encode_prompt(prompt, self._serves, look))
        except RecursionError:
            raise Refusal(Reason.INVALID_REQUEST, "the prompt is nested too deeply") from None
        # It reads ahead otherwise, until so many bytes are there or the answer is whole.
        if prompt.stream:
            request = request.streamed_read_buffer_limit(0)
        # Until an answer begins the client ends a call for nothing else, not even when nobody waits for it.
        left_s = max((until_ns - self.clock.steady_ns()) / NS, 0) + _GRACE_S
        request = request.timeout(timedelta(seconds=left_s))
        return Exchange(self, endpoint, prompt, look, dialect, request.build_streamed(), until_ns)

    def _endpoint(self, avoid: Collection[object]) -> tuple[Endpoint, Client]:
        client = self._client
        if client is None:
            raise Refusal(self.refusal or Reason.WARMING, self.unready)
        now_ns = self.clock.steady_ns()
        alone = len(self.endpoints) == 1
        endpoint = pick(self.endpoints, now_ns, 0 if alone else int.from_bytes(self._dice.bits(4)), avoid)
        if endpoint is None:
            message = f"the endpoint of '{self.version.model}' takes no calls for now"
            raise Refusal(Reason.UPSTREAM_BUSY, message, retry_after_s=self.rest_ns(now_ns) / NS)
        return endpoint, client

    def _request(self, client: Client, endpoint: Endpoint, path: str, beta: str) -> RequestBuilder:
        api = self.api
        request = client.post(f"{endpoint.url}/{path}").header("content-type", "application/json")
        if endpoint.secret:
            request = request.header(api.key, f"{api.before}{endpoint.secret}", is_sensitive=True)
        for name, value in api.headers:
            request = request.header(name, value)
        return request.header("anthropic-beta", beta) if beta and self.counts else request

    @property
    def counts(self) -> bool:
        """Whether its API counts a prompt's tokens for nothing."""
        return self.api is ANTHROPIC

    async def count(self, prompt: Prompt) -> int:
        """The tokens of a prompt, by the vendor where it counts them, else as they are forecast. Refusal."""
        if not self.counts:
            return self.forecast(prompt).input
        endpoint, client = self._endpoint(())
        body = messages.encode_prompt(prompt, self._serves)
        request = self._request(client, endpoint, "messages/count_tokens", prompt.beta).body_bytes(body)
        request = request.timeout(_COUNT)
        exchange = Exchange(
            self, endpoint, prompt, Look.NOTHING, self.dialects[Form.MESSAGES], request.build_streamed(), 0
        )
        return await exchange.count()


class Exchange:
    """One call. What it took is known at any time, however it ends. `may_pass`: its failure may not happen again."""

    __slots__ = (
        "_began",
        "_billed",
        "_chars",
        "_dead",
        "_dialect",
        "_look",
        "_prompt",
        "_request",
        "_stated",
        "_stream",
        "_target",
        "_until_ns",
        "answered_as",
        "asked",
        "may_pass",
        "said",
    )

    def __init__(
        self,
        target: LanguageTarget,
        endpoint: Endpoint,
        prompt: Prompt,
        look: Look,
        dialect: Dialect,
        request: StreamRequest,
        until_ns: int,
    ) -> None:
        self.asked = endpoint
        self.answered_as = ""
        self.may_pass = True
        self.said: Said | None = None
        self._target = target
        self._prompt = prompt
        self._look = look
        self._dialect = dialect
        self._request = request
        self._until_ns = until_ns
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
        if (
            self._stream is None
            and not (self._chars or self._dead)
            and self._target.clock.steady_ns() + _NEARLY_NS < self._until_ns
        ):
            return self._guessed()  # it is being written, though nobody will hear it
        counted = self._target.learned.tokens(self._prompt.chars, self._chars)
        read = None if self._stream is None else self._stream.read_so_far
        return counted if read is None else msgspec.structs.replace(read, output=counted.output)

    def _guessed(self) -> Tokens:
        """As long an answer as usual."""
        forecast = self._target.forecast(self._prompt)
        return msgspec.structs.replace(forecast, output=0) if self._prompt.form in _UNWRITTEN else forecast

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
                self._began = True
                body = await _most(response, _ANSWER_BYTES)
                self._heed(response, clock.steady_ns())
            answer = self._dialect.read_answer(prompt, body, self._look, clock.wall_ns() // NS)
        except (PyreqwestError, Wrong, RecursionError) as error:
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
                        now_ns = clock.steady_ns()
                        endpoint.took(now_ns - began_ns, now_ns)
                        self._target.learned.first.add(now_ns - began_ns, now_ns)
                    yield piece
        except (PyreqwestError, Wrong, Broken, _Unfinished, RecursionError) as error:
            raise self._failed(error) from None
        except (asyncio.CancelledError, GeneratorExit):
            endpoint.breaker.given_up()
            raise
        finally:
            endpoint.ended()
        self._complete(began_ns, clock.steady_ns())

    async def _chunks(self, response: Response) -> AsyncGenerator[Piece]:
        events = Events()
        stream = self._dialect.stream(self._prompt, self._look, self._target.clock.wall_ns() // NS)
        self._stream = stream
        reader = response.body_reader
        while (received := await reader.read_chunk()) is not None:
            for data in events.feed(bytes(received)):
                if data != openai.DONE:
                    for piece in stream.read(data):
                        yield piece
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
            async with self._request as response:
                if response.status != 200:
                    await self._refuse(response)
                counted = messages.read_count(await _most(response, _ERROR_BYTES))
        except (PyreqwestError, Wrong, RecursionError) as error:
            raise self._failed(error) from None
        except asyncio.CancelledError:
            endpoint.breaker.given_up()
            raise
        finally:
            endpoint.ended()
        endpoint.answered()
        return counted

    def _complete(self, began_ns: int, now_ns: int) -> None:
        """All of it has come."""
        target = self._target
        self.asked.answered()
        target.learned.whole.add(now_ns - began_ns, now_ns)
        if self.tokens is not None and self._stated is not None:
            target.learned.learn(self._prompt.chars, self._chars, self._stated)

    async def _refuse(self, response: Response) -> None:
        """Raise what a status other than 200 means."""
        self._billed = False
        body = await _most(response, _ERROR_BYTES)
        now_ns = self._target.clock.steady_ns()
        told, status = self._target.api.read_error(body), response.status
        model, asked = self._target.version.model, self.asked
        if status in _BUSY:
            wait_s = asked_pause_s(response, self._target.api, self._target.clock.wall_ns())
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
        if pause_s := spent_pause_s(response, self._target.api, self._target.clock.wall_ns()):
            self.asked.breaker.asked_to_wait(round(pause_s * NS), now_ns)

    def _without_secret(self, message: str) -> str:
        secret = self.asked.secret
        return (message.replace(secret, "…") if secret else message)[:_TOLD_CHARS]

    def _failed(self, error: PyreqwestError | Wrong | Broken | _Unfinished | RecursionError) -> Refusal:
        """What it means that no answer came, or a wrong one."""
        self._dead = not self._began
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


def _never_connected(error: PyreqwestError) -> bool:
    """Whether nothing was sent. pyreqwest says ConnectError also of a connection that closed without a reply."""
    causes = error.details["causes"] if isinstance(error, ConnectError) else None
    return any(cause["message"] == "client error (Connect)" for cause in causes or ())


async def _most(response: Response, most: int) -> bytes:
    """The body; Wrong where it is longer than `most`."""
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
            raise Wrong(f"it is longer than {most >> 10} KiB")
    return b"".join((body, *parts)) if parts else body

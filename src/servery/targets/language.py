"""A language model behind endpoints of a vendor's API."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from servery.host.client import Client
from servery.host.clock import Clock, Dice
from servery.quota.extra import Extra
from servery.targets.apis import ANTHROPIC, api_of
from servery.targets.endpoints import Endpoint, pick, rest_ns
from servery.targets.exchange import ANSWER_BYTES, NS, Exchange, Sent
from servery.targets.learned import Learned
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Uptime
from servery.terms.statistics import VersionStatistics
from servery.terms.text import Form, Look, Prompt, TokenPrice, Tokens
from servery.wire import messages

_COUNT = "messages/count_tokens"
_COUNT_S = 30.0


class _Line(msgspec.Struct, frozen=True):
    """How an endpoint is called: the head of a request, but for the length of its body, by path."""

    client: Client
    heads: dict[str, bytes]


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
        self._lines: dict[Endpoint, _Line] = {}
        self._broken = ""

    @property
    def unready(self) -> str:
        if self.version.problem or self._broken:
            return self.version.problem or self._broken
        return "" if self._lines else "it isn't started"

    @property
    def refusal(self) -> Reason | None:
        if not self.unready:
            return None
        return Reason.MODEL_UNAVAILABLE if self.version.problem or self._broken else Reason.WARMING

    async def start(self) -> None:
        """Make the clients; the first call connects."""
        if not self.version.problem:
            try:
                loop = asyncio.get_running_loop()
                self._lines = {endpoint: self._line(endpoint, loop) for endpoint in self.endpoints}
            except ValueError as error:
                self._broken = f"an endpoint of '{self.version.model}' can't be called: {error}"

    def _line(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> _Line:
        api, client = self.api, Client(endpoint.url, ANSWER_BYTES, loop)
        told = [(api.key, f"{api.before}{endpoint.secret}")] if endpoint.secret else []
        paths = {*(dialect.path for dialect in self.dialects.values()), _COUNT}
        return _Line(client, {path: client.head(path, *told, *api.headers) for path in paths})

    async def drain(self) -> None:
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.client.close()

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

    def open(self, prompt: Prompt, look: Look, avoid: Collection[object]) -> Exchange:
        """A call that begins when its answer is asked for. Refusal where all endpoints want to be left alone, and where they
        can't be asked this.
        """
        dialect = self.dialects.get(prompt.form)
        if dialect is None:
            raise Refusal(Reason.NOT_CAPABLE, f"'{self.version.model}' has nothing for /v1/{prompt.form.value}")
        endpoint = self._endpoint(avoid)
        try:
            body = dialect.encode_prompt(prompt, self._serves, look)
        except RecursionError:
            raise Refusal(Reason.INVALID_REQUEST, "the prompt is nested too deeply") from None
        line = self._lines[endpoint]
        head = self._told(line.heads[dialect.path], prompt)
        return Exchange(self, endpoint, prompt, look, dialect, Sent(line.client, head, body))

    def _endpoint(self, avoid: Collection[object]) -> Endpoint:
        if not self._lines:
            raise Refusal(self.refusal or Reason.WARMING, self.unready)
        now_ns = self.clock.steady_ns()
        alone = len(self.endpoints) == 1
        endpoint = pick(self.endpoints, now_ns, 0 if alone else int.from_bytes(self._dice.bits(4)), avoid)
        if endpoint is None:
            message = f"the endpoint of '{self.version.model}' takes no calls for now"
            raise Refusal(Reason.UPSTREAM_BUSY, message, retry_after_s=self.rest_ns(now_ns) / NS)
        return endpoint

    def _told(self, head: bytes, prompt: Prompt) -> bytes:
        """The head with what this prompt's caller says in one."""
        if not (prompt.beta and self.counts):
            return head
        start, line, rest = head.partition(b"\r\n")
        return b"%b%banthropic-beta: %b\r\n%b" % (start, line, prompt.beta.encode("latin-1", "replace"), rest)

    @property
    def counts(self) -> bool:
        """Whether its API counts a prompt's tokens for nothing."""
        return self.api is ANTHROPIC

    async def count(self, prompt: Prompt) -> int:
        """The tokens of a prompt, by the vendor where it counts them, else as they are forecast. Refusal."""
        if not self.counts:
            return self.forecast(prompt).input
        endpoint = self._endpoint(())
        line = self._lines[endpoint]
        body = messages.encode_prompt(prompt, self._serves)
        sent = Sent(line.client, self._told(line.heads[_COUNT], prompt), body)
        dialect = self.dialects[Form.MESSAGES]
        try:
            async with asyncio.timeout(_COUNT_S):
                return await Exchange(self, endpoint, prompt, Look.NOTHING, dialect, sent).count()
        except TimeoutError:
            message = f"the endpoint of '{self.version.model}' had counted nothing after {_COUNT_S:g} s"
            raise Refusal(Reason.UPSTREAM_SLOW, message) from None

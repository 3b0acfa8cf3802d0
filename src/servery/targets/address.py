"""Where one Replica of this machine is called: how it is, its connections, and the calls that are with it.

A connection stays open for as long as this worker may call the Replica. Its end says at once that the Replica has
died; and a Replica that is told to stop goes when the last one is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable, Iterator
from pathlib import Path

import msgspec

from servery.host.clock import Clock
from servery.targets.connection import Connection, Reply, connect
from servery.terms.manifest import Health
from servery.terms.reasons import Reason
from servery.terms.statistics import VersionStatistics, latest
from servery.wire import replica as wire

_LOOK = b"GET /v2/health/ready HTTP/1.1\r\nhost: replica\r\n\r\n"
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5  # between looks at a Replica that isn't ready
_DEATHS = 3  # so many in a row, without getting ready, and it isn't waited for any more
_PATIENCE_S = 60.0  # how long nobody may listen there, until it isn't waited for any more
_TOLD_NS = 60 * 10**9  # how long an ended life is still told
_BY_WORD = {reason.word: reason for reason in Reason}


class _Look:
    """An Asker that keeps the reply."""

    def __init__(self) -> None:
        self.reply: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

    def replied(self, connection: Connection, reply: Reply) -> None:  # noqa: ARG002
        if not self.reply.done():
            self.reply.set_result(reply)

    def cut(self) -> None:
        if not self.reply.done():
            self.reply.set_result(None)


class Address:
    """One socket, behind which a Replica lives, dies, and lives again.

    `refusal` is why a call would be refused there now, and `why` says it. One that is `leaving` still takes calls.
    """

    def __init__(self, path: Path, health: Health, clock: Clock) -> None:
        self.refusal: Reason | None = Reason.WARMING
        self.why = "its process is starting"
        self.leaving = False
        self.changed = asyncio.Event()
        self.jobs: dict[Hashable, int] = {}  # calls of ours that are there, in order: since when
        self._path = path
        self._health = health
        self._clock = clock
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._task: asyncio.Task[None] | None = None
        self._replied_ns = 0
        self._life: tuple[str, int] | None = None  # (run, since) of the one that is ready
        self.counted: tuple[VersionStatistics, ...] = ()  # by each life, as it said last
        self._ended: list[tuple[str, int, int]] = []
        self._deaths = self._missed = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"replica {self._path.name}")

    async def drain(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._rest()
        for connection in tuple(self._all):
            connection.close()

    def idle(self) -> Connection | None:
        """An open connection that nobody uses."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def connect(self) -> Connection:
        """A new connection; OSError."""
        connection = await connect(self._path, self._all.discard)
        self._all.add(connection)
        return connection

    def put_back(self, connection: Connection) -> None:
        """Keep a connection whose reply has come for the next call."""
        self._replied_ns = self._clock.steady_ns()
        if connection.open:
            self._idle.append(connection)

    def busy_ns(self, job: Hashable) -> int:
        """How long a call that is there may have run: the oldest one since the last reply, the others not at all."""
        if next(iter(self.jobs), None) is not job:
            return 0
        return self._clock.steady_ns() - max(self.jobs[job], self._replied_ns)

    def lives(self, now_ns: int) -> Iterator[tuple[str, int, int]]:
        """(run, since, until) of the life that is ready, and of those that ended a moment ago; wall ns."""
        self._ended = [life for life in self._ended if now_ns - life[2] < _TOLD_NS]
        yield from self._ended
        if self._life is not None:
            yield *self._life, now_ns

    async def _follow(self) -> None:
        """Look at the Replica again and again, over a connection that is kept."""
        pause, alone_s = _FIRST_PAUSE_S, 0.0
        while True:
            await asyncio.sleep(pause)
            lost = asyncio.Event()
            try:
                connection = await connect(self._path, lambda _, lost=lost: lost.set())
            except OSError:
                if alone_s > _PATIENCE_S:
                    self._say(Reason.MODEL_UNAVAILABLE, "no process of it can be reached; the log says why")
                alone_s += pause
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                continue
            pause, alone_s = _FIRST_PAUSE_S, 0.0
            try:
                answered = await self._watch(connection, lost)
            finally:
                connection.close()
            if answered:
                self._died()

    async def _watch(self, connection: Connection, lost: asyncio.Event) -> bool:
        """Until the connection is lost (True), or the Replica doesn't answer on it."""
        pause = _FIRST_PAUSE_S
        while not lost.is_set():
            look = _Look()
            connection.send(look, (_LOOK,))
            try:
                async with asyncio.timeout(self._health.limit_s):
                    reply = await look.reply
            except TimeoutError:
                self._missed += 1
                if self._missed >= self._health.threshold:
                    self._rest()
                    self._say(Reason.WARMING, "its process doesn't answer any more and will be replaced")
                return False
            if reply is None:
                return True
            self._missed = 0
            self._take(reply)
            if self.refusal is not Reason.WARMING:
                pause = self._health.interval_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await lost.wait()
            pause = min(pause * 2, max(_LONGEST_PAUSE_S, self._health.interval_s))
        return True

    def _take(self, reply: Reply) -> None:
        try:
            state = wire.decode_state(reply.body)
        except msgspec.DecodeError:
            self._say(Reason.MODEL_UNAVAILABLE, "what listens on its socket is no Replica")
            return
        if state.statistics is not None:
            self.counted = latest((*self.counted, state.statistics))
        self.leaving = state.reason == Reason.DRAINING.word
        if state.ready or (self.leaving and self.refusal is None):
            self._life = (state.run, state.since_ns)
            self._deaths = 0
            self._say(None, "")
        elif self._deaths < _DEATHS or state.reason != Reason.WARMING.word:
            self._say(_BY_WORD.get(state.reason, Reason.MODEL_UNAVAILABLE), state.why)

    def _died(self) -> None:
        self._deaths += 1
        self._rest()
        if self._deaths >= _DEATHS:
            why = f"its process ended {self._deaths} times in a row before it was ready; the log says how"
            self._say(Reason.MODEL_UNAVAILABLE, why)
        else:
            self._say(Reason.WARMING, "its process ended and starts again")

    def _rest(self) -> None:
        """The life that was ready is over."""
        if self._life is not None:
            self._ended.append((*self._life, self._clock.wall_ns()))
            self._life = None

    def _say(self, refusal: Reason | None, why: str) -> None:
        self.refusal, self.why = refusal, why
        self.changed.set()

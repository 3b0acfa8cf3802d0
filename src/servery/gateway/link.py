"""A worker's line to the controller: hears of new Snapshots, acknowledges them, asks for what only the controller does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from servery.gateway.serving import Serving
from servery.host.bulletin import read_bulletin
from servery.host.channel import Channel, connect_to
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.terms.change import Snapshot
from servery.terms.messages import (
    Acknowledged,
    Alive,
    Asked,
    Count,
    Counted,
    Hello,
    Posted,
    Published,
    Replied,
    Seen,
    Withdraw,
    Withdrew,
)
from servery.terms.reasons import Reason, Refusal
from servery.terms.statistics import VersionStatistics

log = logging.getLogger("servery.worker")

_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
# Loading a large model may take minutes; whoever asked for it gives up earlier if they want to.
_REPLY_S = 600.0
_COUNT_S = 5.0
_CONNECT_S = 3.0
_TELL_S = 0.5


class Link:
    """A Service. Without a controller, serving goes on by the last Snapshot, and it is looked for again and again.

    `read` reads the published Snapshot, off the event loop.
    """

    name = "controller"
    unready = ""

    def __init__(
        self,
        folder: DataFolder,
        run: str,
        serving: Serving,
        read: Callable[[], Awaitable[Snapshot]],
        clock: Clock,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._run = run
        self._serving = serving
        self._read = read
        self._channel: Channel | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Replied]] = {}
        self._counting: dict[int, asyncio.Future[tuple[VersionStatistics, ...]]] = {}
        self._told: dict[tuple[str, str], int] = {}  # what the controller has not replied to yet
        self._task: asyncio.Task[None] | None = None
        self._changes: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._there = asyncio.Event()  # while there is a channel

    async def start(self) -> None:
        self._serving.hear(read_bulletin(self._folder.bulletin, self._clock.wall_ns()))
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._listen(), name="controller")
        self._changes = loop.create_task(self._follow(), name="changes")
        self._telling = loop.create_task(self._tell(), name="sights")

    async def drain(self) -> None:
        if self._channel is not None:  # what ran here stays the machine's
            self._tell_sights()
            self._channel.send(Counted(0, self._own()))
        tasks = [task for task in (self._task, self._changes, self._telling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, verb: str, model: str, by: str, why: str = "") -> Replied:
        """Have the controller do `verb` to `model`, and wait until it is in effect in all workers. Refusal."""
        channel = await self._connected(
            f"there is no controller now, so nothing can be changed ({verb} {model}); try again"
        )
        number = next(self._numbers)
        reply = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            channel.send(Asked(number, verb, model, by, why))
            replied = await asyncio.wait_for(reply, _REPLY_S)
        except TimeoutError:
            raise Refusal(Reason.NO_CONTROLLER, f"the controller said nothing of '{model}' for minutes") from None
        finally:
            del self._asked[number]
        if replied.problem:
            raise Refusal(next(one for one in Reason if one.word == replied.reason), replied.problem)
        return replied

    async def statistics(self) -> tuple[VersionStatistics, ...]:
        """The machine's. Refusal."""
        channel = await self._connected("there is no controller now, and it alone has every worker's statistics")
        number = next(self._numbers)
        counted = self._counting[number] = asyncio.get_running_loop().create_future()
        try:
            channel.send(Count(number))
            return await asyncio.wait_for(counted, _COUNT_S)
        except (TimeoutError, ConnectionError):
            raise Refusal(Reason.NO_CONTROLLER, "the controller gave no statistics in time; try again") from None
        finally:
            del self._counting[number]

    async def _connected(self, otherwise: str) -> Channel:
        """The channel, waited for where the controller has just started, or starts again. Refusal."""
        if self._channel is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._there.wait(), _CONNECT_S)
        if self._channel is None:
            raise Refusal(Reason.NO_CONTROLLER, otherwise)
        return self._channel

    def _own(self) -> tuple[VersionStatistics, ...]:
        """What ran here, under this run's name, so that nobody counts it twice."""
        return tuple(replace(one, source=one.source or self._run) for one in self._serving.statistics())

    def tell(self, verb: str, model: str) -> None:
        """Ask without waiting for an answer; what is asked for already isn't asked again."""
        if self._channel is not None and (verb, model) not in self._told:
            number = self._told[verb, model] = next(self._numbers)
            self._channel.send(Asked(number, verb, model, self._run))

    async def _tell(self) -> None:
        """Tell what was seen of Routes whose thresholds follow their traffic. Without a controller it adds up."""
        while True:
            await asyncio.sleep(_TELL_S)
            self._tell_sights()

    def _tell_sights(self) -> None:
        if self._channel is not None and (sights := self._serving.sights()):
            self._channel.send(Seen(sights))

    async def _listen(self) -> None:
        pause = _PAUSE_S
        while True:
            with contextlib.suppress(OSError):
                channel = await Channel.over(connect_to(self._folder.control))
                pause = _PAUSE_S
                try:
                    await self._converse(channel)
                finally:
                    self._lose(channel)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _converse(self, channel: Channel) -> None:
        self._channel = channel
        self._there.set()
        serving = self._serving
        channel.send(Hello(self._run, serving.table.epoch, serving.took_ns(), serving.bulletin))
        async for message in channel.receive():
            if isinstance(message, Published):
                self._news.set()
            elif isinstance(message, Alive):
                self._serving.heard(message.epoch)
            elif isinstance(message, Withdraw):
                serving.withdraw(message.rollouts)
                channel.send(Withdrew(message.number))
            elif isinstance(message, Posted):
                self._serving.hear(message.bulletin)
            elif isinstance(message, Replied):
                self._hear(message)
            elif isinstance(message, Count):
                channel.send(Counted(message.number, self._own()))
            elif isinstance(message, Counted) and not (counted := self._counting[message.number]).done():
                counted.set_result(message.statistics)

    def _hear(self, message: Replied) -> None:
        reply = self._asked.get(message.number)
        if reply is not None and not reply.done():
            reply.set_result(message)
        for what, number in list(self._told.items()):
            if number == message.number:
                del self._told[what]
                if message.problem:
                    log.warning("%s %s: %s", *what, message.problem)

    def _lose(self, channel: Channel) -> None:
        channel.close()
        self._channel = None
        self._there.clear()
        self._told.clear()
        for counted in self._counting.values():
            if not counted.done():
                counted.set_exception(ConnectionError())
        for reply in self._asked.values():
            if not reply.done():
                lost = "the controller ended while it was at it; look at the repository's index"
                reply.set_result(Replied(0, lost, Reason.NO_CONTROLLER.word))

    async def _follow(self) -> None:
        """Each published Snapshot in turn; of several in a row only the last matters."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                snapshot = await self._read()
                problems = await self._serving.change(snapshot)
            except Exception as error:
                log.exception("a published snapshot could not be taken over; the old one goes on")
                snapshot, problems = None, {"": str(error)}
            if self._channel is not None:
                epoch = self._serving.table.epoch if snapshot is None else snapshot.epoch
                self._channel.send(Acknowledged(epoch, problems, self._serving.took_ns()))

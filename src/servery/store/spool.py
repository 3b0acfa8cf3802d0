"""Where a worker puts its lines: appended on the event loop, written in groups by one thread, in the file within 50 ms."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from servery.host.clock import Clock
from servery.store.fold import Fold
from servery.store.inflight import InFlight
from servery.store.writer import SEGMENT_NS, Writer
from servery.terms.record import AnyLine, Record, Uptime
from servery.terms.server import Records

log = logging.getLogger("servery.spool")

GROUP_S = 0.010  # a group is written this long after its first line; with the write itself well below 50 ms
AGAIN_S = SEGMENT_NS / 1e9
PENDING_LINES = 100_000
UPTIME_NS = 1_000_000_000
HEARTBEAT_S = 1.0
BEATS = 10  # an idle worker's uptime goes into a segment only every so many heartbeats: that wakes the disk


class Spool:
    """A Service, owned by one worker's event loop; all methods are called there.

    `folder` is the data folder's spool, `run` a name that no other worker ever had. `uptimes(now_ns)` gives a line
    for each Version that is ready; it is asked about once a second, so that a killed worker's bill is known to its end.
    `slots` is the in-flight table of the run.
    """

    name = "spool"

    def __init__(
        self,
        folder: Path,
        run: str,
        settings: Records,
        clock: Clock,
        uptimes: Callable[[int], list[Uptime]],
        region: str = "",
    ) -> None:
        self.slots = InFlight(region)
        self._writer = Writer(folder, run, settings, clock, self.slots)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._clock = clock
        self._uptimes = uptimes
        self._refuses = settings.when_full == "refuse"
        self._pending: list[AnyLine] = []
        self._open: list[int] = []  # the slots of those lines' Requests
        self._spilled = Fold(f"{run}/spilled")
        self._scheduled = False  # a group is about to be written, or being written
        self._began = 0.0
        self._uptime_ns = 0
        self._again: asyncio.TimerHandle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._beats = 0  # since uptime went into a segment

    @property
    def unready(self) -> str:
        return "the spool is full and records.when_full is refuse" if self.full else ""

    @property
    def full(self) -> bool:
        """New Requests are to be refused: there is no room, and `records.when_full` is refuse."""
        return self._refuses and not self.room

    @property
    def room(self) -> bool:
        """Whether lines are stored as they are. Without room Records are folded; Feedback is to be refused."""
        return self._writer.room and len(self._pending) < PENDING_LINES

    def append(self, line: AnyLine, slot: int = 0) -> None:
        """Remember `line`. What is appended 50 ms before the process is killed is in the file, or in the reserve.

        A process that is killed before has the Request's `slot` still: it is let go when the line is stored.
        """
        self._pending.append(line)
        if slot:
            self._open.append(slot)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(GROUP_S, self._flush)
        elif len(self._pending) > PENDING_LINES and isinstance(line, Record):
            self._pending.pop()
            self._spilled.add(line)  # the disk stands still

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._writer.start)
        self._heartbeat = loop.call_later(HEARTBEAT_S, self._beat)
        if self._pending:  # of requests that came before
            self._flush_unless_scheduled()

    async def drain(self) -> None:
        """Write what is pending, close the segment and end the run. Nothing may be appended from here on."""
        if self._heartbeat is None:
            return
        self._heartbeat.cancel()
        self._heartbeat = None
        if self._again is not None:
            self._again.cancel()
        self._scheduled = True  # a group that is being written is followed by none
        loop = asyncio.get_running_loop()
        now = self._clock.wall_ns()
        lines = [*self._pending, *self._spilled.lines(), *self._uptimes(now)]
        self._pending = []
        await loop.run_in_executor(self._thread, self._writer.write, lines)
        self.slots.release(self._open)
        await loop.run_in_executor(self._thread, self._writer.close)
        self._thread.shutdown(wait=True)

    def _flush(self) -> None:
        if self._heartbeat is None:
            self._scheduled = False
            return  # not yet started, or drained meanwhile
        lines, self._pending = self._pending, []
        slots, self._open = self._open, []
        if len(self._spilled):
            lines.extend(self._spilled.lines())
            self._spilled.clear()
        now = self._clock.wall_ns()
        if lines and now - self._uptime_ns >= UPTIME_NS:
            self._uptime_ns, self._beats = now, 0
            lines.extend(self._uptimes(now))
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        job = self._thread.submit(self._writer.write, lines)
        job.add_done_callback(lambda job: loop.call_soon_threadsafe(self._written, job, slots))

    def _written(self, job: Future[None], slots: list[int]) -> None:
        self.slots.release(slots)
        if (error := job.exception()) is not None:
            log.error("a group of lines was lost by an error of ours", exc_info=error)
        if self._heartbeat is None:
            return
        loop = asyncio.get_running_loop()
        if self._pending or len(self._spilled):
            loop.call_at(max(loop.time(), self._began + GROUP_S), self._flush)
            return
        self._scheduled = False
        if self._writer.waiting and self._again is None:
            self._again = loop.call_later(AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        """Close a segment that came of age, or see whether there is room again."""
        self._again = None
        self._flush_unless_scheduled()

    def _beat(self) -> None:
        self._heartbeat = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)
        now = self._clock.wall_ns()
        if self._scheduled or now - self._uptime_ns < UPTIME_NS or not (uptimes := self._uptimes(now)):
            return
        self._beats += 1
        if self._beats < BEATS:
            self._thread.submit(self._writer.note, uptimes)
            return
        self._uptime_ns, self._beats = now, 0
        self._pending.extend(uptimes)
        self._flush_unless_scheduled()

    def _flush_unless_scheduled(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._flush()

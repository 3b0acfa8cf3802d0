"""A Version that runs in this process, its calls, and when this process has to end for its sake."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from msgspec.structs import replace

from servery.host.asgi import Gone
from servery.host.clock import Clock
from servery.terms.change import Version
from servery.terms.reasons import Reason
from servery.terms.request import Call, Called
from servery.terms.statistics import VersionStatistics
from servery.wire.replica import State

log = logging.getLogger("servery.replica")

_FOREVER_NS = 2**62
_REPLACED = Called({}, 0, Reason.WARMING.word, "its Replica is being replaced")
_LOOKS = 8  # in the time that a call may take
_LAST_CALLS_S = 5.0  # for the calls that are in a Replica that takes too much memory
_IDLE_LOOK_S = 0.02


class Job(Protocol):
    @property
    def future(self) -> asyncio.Future[Called]: ...
    @property
    def started_ns(self) -> int:
        """When it began to run, in steady ns; 0 until then."""
        ...


class Loaded(Protocol):
    """What this needs of a Version in this process."""

    @property
    def version(self) -> Version: ...
    @property
    def unready(self) -> str: ...
    @property
    def refusal(self) -> Reason | None: ...
    @property
    def since_ns(self) -> int: ...
    def statistics(self) -> tuple[VersionStatistics, ...]: ...
    def submit(self, call: Call) -> Any: ...
    def give_up(self, job: Any) -> Called: ...


class Process(Protocol):
    """The process that all of this is in."""

    def part(self) -> None:
        """Let callers see at once that no more calls are taken here."""
        ...

    def end(self) -> None:
        """End, once what is answered has been sent."""
        ...


class Running:
    """The calls of one Version. When one runs longer than `call_limit_s`, all are answered and the process ends:
    what hangs in a thread can't be ended in another way.
    """

    name = "calls"
    unready = ""

    def __init__(self, loaded: Loaded, run: str, call_limit_s: float, process: Process, clock: Clock) -> None:
        self.version = loaded.version
        self.draining = False
        self._loaded = loaded
        self._run = run
        self._limit_s = call_limit_s
        self._process = process
        self._clock = clock
        self._jobs: set[Job] = set()
        self._cuts: dict[Job, Called] = {}  # what calls are answered that were here when this process had to end
        self._ending = False
        self._look: asyncio.TimerHandle | None = None
        self._retired = ""  # why it takes no more calls

    @property
    def state(self) -> State:
        refusal = self._loaded.refusal
        since_ns = self._loaded.since_ns
        if self._retired:
            return State(False, self._run, Reason.WARMING.word, f"{self._retired}; it is replaced", since_ns)
        if self.draining:
            return State(False, self._run, Reason.DRAINING.word, "it is stopping", since_ns)
        if refusal is not None:
            return State(False, self._run, refusal.word, self._loaded.unready, since_ns)
        [counted] = self._loaded.statistics()
        return State(True, self._run, since_ns=since_ns, statistics=replace(counted, source=self._run))

    def deadline_ns(self, timeout_ns: int) -> int:
        return self._clock.steady_ns() + (timeout_ns or _FOREVER_NS)

    async def start(self) -> None:
        self._watch()

    async def drain(self) -> None:
        if self._look is not None:
            self._look.cancel()

    async def run(self, call: Call, gone: Gone) -> Called | None:
        """What the call gave; None when its caller has left."""
        loaded = self._loaded
        refusal = loaded.refusal
        if refusal is not None:
            return Called({}, 0, refusal.word, loaded.unready)
        if self._retired:
            return _REPLACED
        job: Job | None = loaded.submit(call)
        if job is None:
            return Called({}, 0, Reason.NO_ROOM.word, "its queue is full")
        self._jobs.add(job)
        left = asyncio.ensure_future(gone())
        try:
            await asyncio.wait((job.future, left), return_when=asyncio.FIRST_COMPLETED)
            if not job.future.done():
                loaded.give_up(job)
                return None
            return self._cuts.pop(job, None) or job.future.result()
        except asyncio.CancelledError:
            loaded.give_up(job)
            raise
        finally:
            self._jobs.discard(job)
            left.cancel()

    def retire(self, why: str) -> None:
        """Take no more calls, and end this process when those that are here have their answer, or have had their time."""
        if self._retire(why):
            self._when_idle(asyncio.get_running_loop().time() + _LAST_CALLS_S)

    def _retire(self, why: str) -> bool:
        """Take no more calls; whether that is news."""
        if self._retired:
            return False
        self._retired = why
        self._process.part()
        log.error("%s: %s; this Replica is replaced", self.version.model, why)
        return True

    def _when_idle(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        if self._jobs and loop.time() < until:
            loop.call_later(_IDLE_LOOK_S, self._when_idle, until)
        else:
            self._end()

    def _end(self) -> None:
        if self._ending:
            return
        self._ending = True
        for job in self._jobs:
            if not job.future.done():
                self._cuts[job] = self._cut(job, self._loaded.give_up(job))
        self._process.end()

    def _cut(self, job: Job, called: Called) -> Called:
        """What a call is answered when its Replica ends: those that ran failed, and the others may go elsewhere."""
        if not job.started_ns:
            return _REPLACED
        return Called({}, called.busy_ns, Reason.MODEL_FAILED.word, self._retired, called.estimated)

    def _watch(self) -> None:
        now = self._clock.steady_ns()
        hanging = [job for job in self._jobs if job.started_ns and now - job.started_ns > self._limit_s * 1e9]
        if hanging and self._retire(f"one call ran for longer than {self._limit_s:g} s (call_limit_s)"):
            self._end()
            return
        self._look = asyncio.get_running_loop().call_later(self._limit_s / _LOOKS, self._watch)

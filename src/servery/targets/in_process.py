"""A Version that runs inside the worker: inline on the event loop when a call takes microseconds, else in a thread.

One call runs at a time, so that a Version's busy time never exceeds the time that passed, and its bill adds up.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from servery.batching.loop import Batcher, Job, Lane
from servery.batching.queue import limits_of
from servery.host.clock import Clock
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Uptime
from servery.terms.request import Array, Call, Called, Parameters
from servery.terms.statistics import VersionStatistics

# A call expected to take longer would hold up everybody else on the event loop.
INLINE_NS = 250_000
# The expected time follows the median of what is seen: each call moves it by this factor. A mean would follow the
# few calls during which another process had the core, send everybody to the thread, and keep them there.
_STEP = 1.02


class Runtime(Protocol):
    """Runs one Version. `warm` gives the time of a call: (ns fixed, ns per row).

    `run` raises a Refusal for feeds that the caller has to mend, and anything else where the model fails.
    """

    def run(
        self, fetch: Sequence[str], feeds: dict[str, Array], parameters: Parameters = (), /
    ) -> dict[str, Array]: ...
    def warm(self, clock_ns: Callable[[], int]) -> tuple[float, float]: ...


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    UNAVAILABLE = "unavailable"
    GONE = "gone"


class InProcess:
    """The Target of one Version; owned by the worker, so it outlives the Tables that point at it."""

    def __init__(self, model: Model, version: Version, load: Callable[[], Runtime], clock: Clock) -> None:
        self.model = version.model
        self.version = version
        self.pico_per_hour = model.price.pico_per_hour if model.price else 0
        self.state = State.STARTING
        self.problem = ""
        self._load = load
        self._clock = clock
        self._fixed_ns = self._row_ns = self._warm_ns = 0.0
        self._runtime: Runtime | None = None
        self._since_ns = self._until_ns = 0
        self._lane = Lane(f"model-{version.model}")
        self._batcher = Batcher(self._run, limits_of(model, version.signature), clock, self._lane, ran=self._ran)

    @property
    def one_row_ns(self) -> float:
        """What a call of one row took at the warm-up; 0 where that isn't known."""
        return self._warm_ns if math.isfinite(self._warm_ns) else 0.0

    @property
    def name(self) -> str:
        return f"model {self.model}"

    @property
    def unready(self) -> str:
        if self.state is State.READY:
            return ""
        return self.problem or {State.STARTING: "loading and warming up", State.GONE: "stopped"}[self.state]

    @property
    def refusal(self) -> Reason | None:
        """Why a call would be refused now, if it would."""
        if self.state is State.READY:
            return None
        return Reason.WARMING if self.state is State.STARTING else Reason.MODEL_UNAVAILABLE

    async def start(self) -> None:
        """Load and warm up off the event loop. An artifact that can't be run makes only this Version unavailable."""
        try:
            runtime = await self._lane.do(self._load)
            warm = await self._lane.do(lambda: runtime.warm(self._clock.steady_ns))
        except Exception as error:  # whatever the artifact provokes is its own problem, and is shown as its reason
            self.problem = str(error) or type(error).__name__
            self.state = State.UNAVAILABLE
            return
        self._fixed_ns, self._row_ns = warm
        self._warm_ns = sum(warm)
        self._batcher.warmed(*warm)
        self._runtime = runtime
        self._since_ns = self._clock.wall_ns()
        self.state = State.READY

    async def drain(self) -> None:
        """Take no more calls and answer those that wait. One that runs on without a caller isn't waited for."""
        if self.state is State.READY:
            self._until_ns = self._clock.wall_ns()
        self.state = State.GONE
        await self._batcher.drain()
        self._lane.end(self._unload)

    def _unload(self) -> None:
        """Free the artifact's memory now: what points at this Version in circles is found by the collector much later."""
        self._runtime = None

    @property
    def since_ns(self) -> int:
        """Since when (wall) it has been ready; 0 where it never was."""
        return self._since_ns

    def uptimes(self, run: str, now_ns: int) -> list[Uptime]:
        """From when to now, or to its end, this Version was kept ready; nothing where it never was."""
        if not self._since_ns:
            return []
        until_ns = self._until_ns or now_ns
        return [Uptime(run, self.model, self.version.name, self._since_ns, until_ns, self.pico_per_hour)]

    def inline(self, rows: int) -> bool:
        """Whether a call of so many rows may run on the event loop now."""
        return self._batcher.idle and self._fixed_ns + self._row_ns * rows <= INLINE_NS

    def call(self, fetch: Sequence[str], feeds: dict[str, Array], rows: int) -> Called:
        """Run now, in the calling thread."""
        runtime = self._runtime
        if runtime is None:
            return Called({}, 0, (self.refusal or Reason.MODEL_UNAVAILABLE).word, self.unready)
        clock = self._clock.steady_ns
        start = clock()
        try:
            outputs = runtime.run(fetch, feeds)
        except Refusal as refusal:
            return self._failed(clock() - start, refusal.reason, refusal.message)
        except Exception as error:  # a model may raise anything; its caller gets a Reason, the log gets the text
            return self._failed(clock() - start, Reason.MODEL_FAILED, str(error))
        busy = clock() - start
        counts = self._batcher.counts
        counts.last_ns = start
        if rows == 1:
            counts.singles += 1
            counts.singles_ns += busy
        else:
            counts.ran(rows, rows, busy, (0,))
        self._learn(busy, rows)
        return Called(outputs, busy)

    def statistics(self) -> tuple[VersionStatistics, ...]:
        """What has run here since it was made."""
        ahead_ns = self._clock.wall_ns() - self._clock.steady_ns()
        return (self._batcher.counts.statistics(self.model, self.version.number, ahead_ns),)

    def _failed(self, busy_ns: int, reason: Reason, message: str) -> Called:
        counts = self._batcher.counts
        counts.failed += 1
        counts.failed_ns += busy_ns
        return Called({}, busy_ns, reason.word, message)

    def submit(self, call: Call) -> Job | None:
        """Queue a call for the thread, where it may share a batch; None when the queue is full, or it isn't ready."""
        return self._batcher.submit(call) if self.state is State.READY else None

    def give_up(self, job: Job) -> Called:
        """What to book for a call whose caller waits no longer: the time so far, marked as estimated."""
        return self._batcher.give_up(job)

    def _run(self, fetch: Sequence[str], feeds: dict[str, Array], parameters: Parameters) -> dict[str, Array]:
        assert self._runtime is not None, "who submits has looked at `refusal`"
        return self._runtime.run(fetch, feeds, parameters)

    def _ran(self, rows: int, busy_ns: int) -> None:
        self._learn(busy_ns, rows)

    def _learn(self, busy_ns: int, rows: int) -> None:
        if self._row_ns == math.inf:
            self._row_ns = busy_ns / max(rows, 1)
        elif busy_ns > self._fixed_ns + self._row_ns * rows:
            self._row_ns = self._row_ns * _STEP + 1
        else:
            self._row_ns /= _STEP

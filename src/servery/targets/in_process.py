"""A Version that runs inside the worker: inline on the event loop when a call takes microseconds, else in a thread.

One call runs at a time, so that a Version's busy time never exceeds the time that passed, and its bill adds up.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from servery.host.clock import Clock
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.money import from_usd
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Uptime
from servery.terms.request import Array, Call, Called

# A call expected to take longer would hold up everybody else on the event loop.
INLINE_NS = 250_000
# The expected time follows the median of what is seen: each call moves it by this factor. A mean would follow the
# few calls during which another process had the core, send everybody to the thread, and keep them there.
_STEP = 1.02


class Runtime(Protocol):
    """Runs one Version. `warm` gives the time of a call: (ns fixed, ns per row).

    `run` raises a Refusal for feeds that the caller has to mend, and anything else where the model fails.
    """

    def run(self, fetch: Sequence[str], feeds: dict[str, Array]) -> dict[str, Array]: ...
    def warm(self, clock_ns: Callable[[], int]) -> tuple[float, float]: ...


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    UNAVAILABLE = "unavailable"
    GONE = "gone"


class Job:
    """A call that waits for the thread, or runs in it. `started_ns` is 0 until it runs."""

    __slots__ = ("future", "given_up", "started_ns")

    def __init__(self) -> None:
        self.future: asyncio.Future[Called]
        self.given_up = False
        self.started_ns = 0


class InProcess:
    """The Target of one Version; owned by the worker, so it outlives the Tables that point at it."""

    def __init__(self, model: Model, version: Version, load: Callable[[], Runtime], clock: Clock) -> None:
        self.model = version.model
        self.version = version
        self.pico_per_hour = from_usd(model.price.usd_per_hour) if model.price else 0
        self.state = State.STARTING
        self.problem = ""
        self._load = load
        self._clock = clock
        self._queue = model.queue
        self._waiting = 0
        self._fixed_ns = self._row_ns = 0.0
        self._runtime: Runtime | None = None
        self._since_ns = self._until_ns = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"model-{version.model}")

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
            runtime = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
            warm = await asyncio.get_running_loop().run_in_executor(self._thread, runtime.warm, self._clock.steady_ns)
        except Exception as error:  # whatever the artifact provokes is its own problem, and is shown as its reason
            self.problem = str(error) or type(error).__name__
            self.state = State.UNAVAILABLE
            return
        self._fixed_ns, self._row_ns = warm
        self._runtime = runtime
        self._since_ns = self._clock.wall_ns()
        self.state = State.READY

    async def drain(self) -> None:
        """Take no more calls. One that runs on without a caller can't be interrupted, and isn't waited for."""
        if self.state is State.READY:
            self._until_ns = self._clock.wall_ns()
        self.state = State.GONE
        self._thread.shutdown(wait=False, cancel_futures=True)

    def uptime(self, run: str, now_ns: int) -> Uptime | None:
        """From when to now, or to its end, this Version was kept ready; None where it never was."""
        if not self._since_ns:
            return None
        until_ns = self._until_ns or now_ns
        return Uptime(run, self.model, self.version.name, self._since_ns, until_ns, self.pico_per_hour)

    def inline(self, rows: int) -> bool:
        """Whether a call of so many rows may run on the event loop now."""
        return self._waiting == 0 and self._fixed_ns + self._row_ns * rows <= INLINE_NS

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
            return Called({}, clock() - start, refusal.reason.word, refusal.message)
        except Exception as error:  # a model may raise anything; its caller gets a Reason, the log gets the text
            return Called({}, clock() - start, Reason.MODEL_FAILED.word, str(error))
        busy = clock() - start
        self._learn(busy, rows)
        return Called(outputs, busy)

    def submit(self, call: Call) -> Job | None:
        """Queue a call for the thread; None when the queue is full."""
        if self._waiting > self._queue:
            return None
        job = Job()

        def work() -> Called:
            if job.given_up:
                return Called({}, 0, Reason.DEADLINE_EXCEEDED.word)
            job.started_ns = self._clock.steady_ns()
            return self.call(call.fetch, call.feeds, call.rows)

        self._waiting += 1
        job.future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        job.future.add_done_callback(self._done)
        return job

    def give_up(self, job: Job) -> Called:
        """What to book for a call whose caller waits no longer: the time so far, marked as estimated."""
        job.given_up = True
        busy = self._clock.steady_ns() - job.started_ns if job.started_ns else 0
        return Called({}, busy, Reason.DEADLINE_EXCEEDED.word, estimated=busy > 0)

    def _done(self, _: asyncio.Future[Called]) -> None:
        self._waiting -= 1

    def _learn(self, busy_ns: int, rows: int) -> None:
        if self._row_ns == math.inf:
            self._row_ns = busy_ns / max(rows, 1)
        elif busy_ns > self._fixed_ns + self._row_ns * rows:
            self._row_ns = self._row_ns * _STEP + 1
        else:
            self._row_ns /= _STEP

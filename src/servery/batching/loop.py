"""Runs the calls of one Version, together where they may be, one batch at a time in one thread.

    lane = Lane("model-digits")                       # the thread
    runtime = await lane.do(load)                     # load there too, if you like
    batcher = Batcher(runtime.run, limits_of(model, version.signature), clock, lane)
    job = batcher.submit(call)                        # None: the queue is full (NO_ROOM)
    called = await job.future                         # never raises; a call that can't make its deadline ends at once
    called = batcher.give_up(job)                     # the caller waits no longer: what to book for it
    await batcher.drain()                             # takes no more; returns when those who wait have their answer
    lane.end(forget)

All of it is called on the event loop; only `run(fetch, feeds, parameters)` runs in the thread. It may raise a Refusal for feeds that the
caller has to mend, and anything else where the model fails. It must give arrays that it never writes to again: callers
get views of them while the next batch runs. A batch that fails, or whose outputs don't have exactly one row for each row
sent, is run again call by call. `counts` says what ran.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar, cast

import msgspec

from servery.batching.batch import join, shares, split
from servery.batching.cost import Cost
from servery.batching.queue import Entered, Limits, Queue, Ticket
from servery.host.clock import Clock
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Array, Call, Called, Parameters
from servery.terms.statistics import Spent, VersionStatistics

log = logging.getLogger("servery.batching")

Run = Callable[[Sequence[str], dict[str, Array], Parameters], dict[str, Array]]
T = TypeVar("T")

# So many batches in a row that failed though each of their calls was sound: the model can't take a batch.
_GIVES_UP_AFTER = 3


class Lane:
    """One thread that does one piece of work after the other. It starts with the first, and never holds up an exit."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def post(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do `work`, which must not raise, in the thread, and `then` with what it gave on the running event loop."""
        loop = asyncio.get_running_loop()

        def do() -> None:
            given = work()
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits for it
                loop.call_soon_threadsafe(then, given)

        if self._thread is None:
            self._thread = threading.Thread(target=self._live, name=self._name, daemon=True)
            self._thread.start()
        self._work.put(do)

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` gave, or the error it raised."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def attempt() -> tuple[T | None, BaseException | None]:
            try:
                return work(), None
            except BaseException as error:  # also an exit that foreign code asks for: it ends only itself
                return None, error

        def tell(made: tuple[T | None, BaseException | None]) -> None:
            given, error = made
            if future.done():
                return
            if error is None:
                future.set_result(cast("T", given))
            else:
                future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

        self.post(attempt, tell)
        return await future

    def end(self, last: Callable[[], None]) -> None:
        """Do no more; what is being done ends by itself, and then `last` is done, in the thread if there is one."""
        if self._thread is None:
            last()
            return
        self._work.put(last)
        self._work.put(None)

    def _live(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # and with it the arrays it holds, before the next comes


class Job(Ticket):
    """A call under way. `since_ns` is when it came; `started_ns` when its batch was started, 0 while it waits."""

    __slots__ = ("future", "given_up", "group", "spent_ns", "started_ns", "together")

    def __init__(self, call: Call, future: asyncio.Future[Called]) -> None:
        super().__init__(call)
        self.future = future
        self.given_up = False
        self.started_ns = 0
        self.spent_ns = 0  # its share of a batch that failed
        self.together = 1  # rows that it shares the running batch's time with
        self.group: Group | None = None


class Group:
    """The calls of a batch that failed, while they run again by themselves."""

    __slots__ = ("left", "sound")

    def __init__(self, left: int) -> None:
        self.left = left
        self.sound = True


class Ran(msgspec.Struct, frozen=True):
    """What running a batch gave: each call's outputs in order, or one failure. Times in ns."""

    busy_ns: int
    outputs: Sequence[dict[str, Array]] = ()
    failure: str = ""  # a Reason's word
    message: str = ""


class Counts:
    """What has run since the start. `by_rows`: batches and ns by size; sizes above the largest batch by powers of two."""

    def __init__(self) -> None:
        self.calls = self.rows = self.executions = self.failed = 0
        self.queue_ns = self.busy_ns = self.failed_ns = 0
        self.singles = self.singles_ns = 0  # runs of one row that nothing waited for, beside all others
        self.last_ns = 0  # steady, when the last run began
        self.by_rows: dict[int, tuple[int, int]] = {}

    def statistics(self, model: str, number: str, ago_ns: int) -> VersionStatistics:
        """All of it in one value. `ago_ns` is what wall time is ahead of the steady clock."""
        batches = {rows: Spent(*ran) for rows, ran in sorted(self.by_rows.items())}
        if self.singles:
            batches[1] = batches.get(1, Spent()) + Spent(self.singles, self.singles_ns)
        calls, busy_ns = self.calls + self.singles, self.busy_ns + self.singles_ns
        return VersionStatistics(
            model,
            number,
            "",
            self.last_ns + ago_ns if self.last_ns else 0,
            self.rows + self.singles,
            self.executions + self.singles,
            Spent(calls, self.queue_ns + busy_ns),
            Spent(self.failed, self.failed_ns),
            Spent(calls, self.queue_ns),
            Spent(calls, busy_ns),
            batches,
        )

    def ran(self, rows: int, most: int, busy_ns: int, queue_ns: Sequence[int]) -> None:
        """A batch of so many rows ran well, whose calls had waited so long."""
        self.executions += 1
        self.calls += len(queue_ns)
        self.rows += rows
        self.busy_ns += busy_ns
        self.queue_ns += sum(queue_ns)
        size = rows if rows <= most else 1 << (rows - 1).bit_length()
        batches, ns = self.by_rows.get(size, (0, 0))
        self.by_rows[size] = batches + 1, ns + busy_ns


class Batcher:
    """The queue of one Version, and what runs of it; see above. `ran` is told rows and ns of each batch that ran well."""

    def __init__(
        self,
        run: Run,
        limits: Limits,
        clock: Clock,
        lane: Lane,
        cost: Cost | None = None,
        ran: Callable[[int, int], None] | None = None,
    ) -> None:
        self.counts = Counts()
        self._run = run
        self._clock = clock
        self._lane = lane
        self._ran = ran
        self._queue = Queue(limits, cost or Cost())
        self._running: tuple[Job, ...] = ()
        self._waiting: dict[Job, None] = {}
        self._spoilt = 0
        self._closed = False

    @property
    def idle(self) -> bool:
        return not self._running and not self._waiting

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return len(self._waiting)

    def warmed(self, fixed_ns: float, row_ns: float) -> None:
        """What a warm-up found a call to take, before any has run."""
        self._queue.cost = Cost(fixed_ns, row_ns)

    def submit(self, call: Call) -> Job | None:
        """Queue a call and start it if nothing runs; None when the queue is full, or drained."""
        if self._closed:
            return None
        job = Job(call, asyncio.get_running_loop().create_future())
        entered = self._queue.submit(job, self._clock.steady_ns())
        if entered is Entered.FULL:
            return None
        if entered is Entered.LATE:
            self._late(job)
            return job
        self._waiting[job] = None
        self._start()
        return job

    def give_up(self, job: Job) -> Called:
        """What to book for a call whose caller waits no longer: the time so far, marked as estimated where it runs."""
        job.given_up = True
        busy_ns, estimated = job.spent_ns, False
        if self._queue.give_up(job):
            del self._waiting[job]
        elif job.started_ns:
            elapsed_ns = self._clock.steady_ns() - job.started_ns
            busy_ns += elapsed_ns * max(job.call.rows, 1) // job.together
            estimated = True
        called = Called({}, busy_ns, Reason.DEADLINE_EXCEEDED.word, "its caller waits no longer", estimated)
        self._ended(job, called)
        return called

    async def drain(self) -> None:
        """Take no more calls; returns when no caller waits. A call without a caller may still run in the thread."""
        self._closed = True
        while live := [job.future for job in (*self._waiting, *self._running) if not job.future.done()]:
            await asyncio.wait(live)

    def _start(self) -> None:
        """Run what is queued, if nothing runs."""
        if self._running:
            return
        now = self._clock.steady_ns()
        chosen = self._queue.next(now)
        for job in cast("tuple[Job, ...]", chosen.late):
            del self._waiting[job]
            self._late(job)
        if not chosen.batch:
            self._queue.rest()
            return
        jobs = cast("tuple[Job, ...]", chosen.batch)
        together = sum(max(job.call.rows, 1) for job in jobs)
        for job in jobs:
            del self._waiting[job]
            job.started_ns = now
            job.together = together
        self._running = jobs
        self._lane.post(lambda: self._work(jobs), self._done)

    def _work(self, jobs: Sequence[Job]) -> Ran:
        """In the thread: run a batch. A model may raise anything; its callers get a Reason, the log gets the text."""
        clock = self._clock.steady_ns
        start = clock()
        try:
            calls = [job.call for job in jobs]
            first = calls[0]
            if len(calls) == 1:
                outputs = [self._run(first.fetch, first.feeds, first.parameters)]
            else:
                outputs = split(calls, self._run(first.fetch, join(calls), first.parameters))
        except Refusal as refusal:
            return Ran(clock() - start, (), refusal.reason.word, refusal.message)
        except BaseException as error:  # also an exit that a user's code asks for: it ends only this call
            return Ran(clock() - start, (), Reason.MODEL_FAILED.word, str(error) or type(error).__name__)
        return Ran(clock() - start, outputs)

    def _done(self, ran: Ran) -> None:
        jobs, self._running = self._running, ()
        now = self._clock.steady_ns()
        self._queue.ended(jobs, now, ran.busy_ns, not ran.failure)
        spent = shares([job.call.rows for job in jobs], ran.busy_ns)
        if ran.failure and len(jobs) > 1:
            self._again(jobs, spent, ran)
            self._start()
            return
        self._count(jobs, ran)
        self._start()  # before the answers are looked at: the runtime need not wait for that
        for at, job in enumerate(jobs):
            self._settle(job, not ran.failure)
            outputs = {} if ran.failure else ran.outputs[at]
            self._ended(job, Called(outputs, job.spent_ns + spent[at], ran.failure, ran.message))

    def _again(self, jobs: Sequence[Job], spent: Sequence[int], ran: Ran) -> None:
        """Run the calls of a failed batch one by one, so that whoever spoilt it fails alone."""
        group = Group(len(jobs))
        log.debug("a batch of %d calls failed, they run again by themselves: %s", len(jobs), ran.message)
        for job, share in zip(jobs, spent, strict=True):
            job.spent_ns += share
            job.started_ns = 0
            job.group = group
            if job.given_up:
                self._settle(job, sound=False)
            else:
                self._queue.again(job)
                self._waiting[job] = None

    def _settle(self, job: Job, sound: bool) -> None:
        """Note how a call of a failed batch fared by itself; when all were sound, it was the batch that the model can't take."""
        group, job.group = job.group, None
        if group is None:
            return
        group.left -= 1
        group.sound &= sound
        if group.left == 0 and group.sound:
            self._spoilt += 1
            if self._spoilt == _GIVES_UP_AFTER:
                limits = self._queue.limits
                log.warning("%d batches failed whose calls were sound one by one: no more batches", self._spoilt)
                self._queue.limits = msgspec.structs.replace(limits, max_rows=1)

    def _count(self, jobs: Sequence[Job], ran: Ran) -> None:
        self.counts.last_ns = jobs[0].started_ns
        if ran.failure:
            self.counts.failed += 1
            self.counts.failed_ns += ran.busy_ns
            return
        if len(jobs) > 1:
            self._spoilt = 0
        rows = sum(job.call.rows for job in jobs)
        waited = [job.started_ns - job.since_ns for job in jobs]
        self.counts.ran(rows, self._queue.limits.max_rows, ran.busy_ns, waited)
        if self._ran is not None:
            self._ran(rows, ran.busy_ns)

    def _late(self, job: Job) -> None:
        job.given_up = True
        self._settle(job, sound=False)
        message = "it would not have been done by its deadline"
        self._ended(job, Called({}, job.spent_ns, Reason.DEADLINE_EXCEEDED.word, message))

    @staticmethod
    def _ended(job: Job, called: Called) -> None:
        if not job.future.done():
            job.future.set_result(called)

"""Threads that yield to everything else on the machine, and that are hurried where that is not enough."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from servery.host.clock import Clock

NICE = 10  # more than the process's own
_POLL_S = 0.1
Result = TypeVar("Result")


class Calm:
    """Two threads: one runs when no other wants the core, one gets a small share of it. Used by one thread.

    What the first one does for longer than `patience_ns` is hurried. A process can't take back what it once yielded, so
    it is threads that do: what the process has to begin or to end in time it does itself.
    """

    def __init__(self, clock: Clock, patience_ns: int) -> None:
        self._clock = clock
        self._patience_ns = patience_ns
        self._idle = ThreadPoolExecutor(1, "idle")
        self._nice = ThreadPoolExecutor(1, "nice", lambda: os.nice(NICE))  # Linux: of the thread that asks for it
        self._thread = 0

    def idly(self, work: Callable[[], Result], stop: threading.Event, hurry: Callable[[], object]) -> Result:
        """What `work` gives or raises. Once `stop` is set, or patience is at an end, `hurry` is called: the work should end where it may.

        Where the system allows it (to root, for instance) its thread also gets its share of the core from then on.
        """
        done = self._idle.submit(self._be_idle, work)
        if not self._waited(done, stop, self._clock.steady_ns() + self._patience_ns):
            hurry()
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self._thread, os.SCHED_OTHER, os.sched_param(0))
        return done.result()

    def nicely(self, work: Callable[[], Result], stop: threading.Event, hurry: Callable[[], object]) -> Result:
        """The same with a small share of the core, and without an end of patience."""
        done = self._nice.submit(work)
        if not self._waited(done, stop):
            hurry()
        return done.result()

    def close(self) -> None:
        self._idle.shutdown()
        self._nice.shutdown()

    def _be_idle(self, work: Callable[[], Result]) -> Result:
        self._thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return work()

    def _waited(self, done: Future[Result], stop: threading.Event, until_ns: int | None = None) -> bool:
        while not stop.is_set() and (until_ns is None or self._clock.steady_ns() < until_ns):
            if wait((done,), timeout=_POLL_S).done:
                return True
        return done.done()

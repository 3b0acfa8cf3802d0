"""A thread that runs only when no other wants the core, and that is hurried where that is not enough."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from servery.host.clock import Clock

_POLL_S = 0.1
Result = TypeVar("Result")


class Calm:
    """What takes longer than `patience_ns` is hurried. Used by one thread."""

    def __init__(self, clock: Clock, patience_ns: int) -> None:
        self._clock = clock
        self._patience_ns = patience_ns
        self._threads = ThreadPoolExecutor(1, "calm")
        self._thread = 0

    def do(self, work: Callable[[], Result], stop: threading.Event, hurry: Callable[[], object]) -> Result:
        """What `work` gives or raises. Once `stop` is set, or patience is at an end, `hurry` is called: the work should end where it may.

        Where the system allows it (to root, for instance) its thread also gets its share of the core from then on.
        """
        done = self._threads.submit(self._begin, work)
        if not self._waited(done, stop):
            hurry()
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self._thread, os.SCHED_OTHER, os.sched_param(0))
        return done.result()

    def close(self) -> None:
        self._threads.shutdown()

    def _begin(self, work: Callable[[], Result]) -> Result:
        self._thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return work()

    def _waited(self, done: Future[Result], stop: threading.Event) -> bool:
        until_ns = self._clock.steady_ns() + self._patience_ns
        while not stop.is_set() and self._clock.steady_ns() < until_ns:
            if wait((done,), timeout=_POLL_S).done:
                return True
        return done.done()

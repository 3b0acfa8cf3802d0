"""The way from a worker to the counters that others share: in a thread of its own, and left alone for a while when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from servery.host.clock import Clock
from servery.quota.sharing import Seen, Store

log = logging.getLogger("servery.worker")

T = TypeVar("T")

# A store that didn't answer is looked for so often. Nobody waits for that: meanwhile it is `lost`.
_LOST_S = 1.0


class _LeftAlone(OSError):
    """It wasn't tried."""


class Reach:
    """A Service. `lost`: the store can't be reached; then what needs it is refused if `refuses`, or goes on by its own share.

    `workers` share it, and their time is `ahead_ns` of this machine's steady one. A store with a clock of its own is looked at
    every `every_s` seconds, and lost until it has been seen; other ones only when they are lost.
    """

    name = "counters"
    unready = ""

    def __init__(self, store: Store, workers: int, refuses: bool, clock: Clock, every_s: float = 0.0) -> None:
        self.refuses = refuses
        self.workers = workers
        self.ahead_ns = 0
        self.lost = every_s > 0
        self._least = workers  # of this machine
        self._store = store
        self._clock = clock
        self._every_s = every_s
        self._calendar: Callable[[], int] = clock.wall_ns
        self._forgotten: Callable[[], None] = lambda: None
        self._told = False  # the log knows that it is lost
        self._shut = self.lost  # as the thread sees it
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="counters")
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def calendar_ns(self) -> int:
        """The time of day that all who share the store go by."""
        return self._calendar()

    def when_forgotten(self, act: Callable[[], None]) -> None:
        """Call `act` when the store has lost what it was told."""
        self._forgotten = act

    async def ask(self, act: Callable[[], T], last: bool = False) -> T:
        """Do `act` where the store may be used. OSError when it can't be reached, and at once while it is lost, but for
        the `last` word.
        """
        if self._closed:
            raise OSError("the way to the counters is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, act, last)
        except OSError as error:
            if not (self.lost and isinstance(error, _LeftAlone)):
                self._lose(error)
            raise

    async def start(self) -> None:
        """Look whether the store is there, where it is looked at."""
        if self._every_s:
            await self._look()

    async def drain(self) -> None:
        """Let the store go. Who used it has drained by now."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            await asyncio.wait((self._looking,))
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown(wait=True)

    def _do(self, act: Callable[[], T], last: bool) -> T:
        """In the thread: what waited there when the store was lost isn't tried one after the other."""
        if self._shut and not last:
            raise _LeftAlone("the counters are out of reach")
        try:
            return act()
        except OSError:
            self._shut = True
            raise

    async def _look(self) -> None:
        try:
            seen = await asyncio.get_running_loop().run_in_executor(self._thread, self._store.look)
        except OSError as error:
            self._lose(error)
            self._later()
        else:
            self._found(seen)
            if self._every_s:
                self._later()

    def _lose(self, error: OSError) -> None:
        if not self._told:
            doing = (
                "what needs it is refused" if self.refuses else "this worker goes on by its own share of what it limits"
            )
            log.error("%s; %s", error, doing)
            self._told = True
        if not self.lost:
            self.lost = True
            self._later()

    def _found(self, seen: Seen) -> None:
        if self._told:
            log.warning("limits and budgets are counted together again")
        self.lost = self._shut = self._told = False
        self.workers = max(seen.workers, self._least)
        if seen.ahead_ns is not None:
            self.ahead_ns = seen.ahead_ns
            self._calendar = self._shared_ns
        if seen.forgot:
            log.warning("the counters don't know this worker any more: it tells them again what it has spent")
            self._forgotten()

    def _shared_ns(self) -> int:
        return self._clock.steady_ns() + self.ahead_ns

    def _later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = _LOST_S if self.lost else self._every_s
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look_again)

    def _look_again(self) -> None:
        self._looking = asyncio.get_running_loop().create_task(self._look())

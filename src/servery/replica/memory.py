"""A Replica that takes more memory than it may is replaced: a model that leaks would take what others need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOK_S = 0.25


class Bound:
    """Looks at the memory of this process, and calls `over` once when it is above `most_mb`."""

    name = "memory"
    unready = ""

    def __init__(self, most_mb: int, resident: Callable[[], int], over: Callable[[str], None]) -> None:
        self._most_mb = most_mb
        self._resident = resident
        self._over = over
        self._look: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._again()

    async def drain(self) -> None:
        if self._look is not None:
            self._look.cancel()

    def _again(self) -> None:
        taken_mb = self._resident() >> 20
        if taken_mb > self._most_mb:
            self._over(f"it takes {taken_mb} MiB, more than its {self._most_mb} (memory_mb)")
        else:
            self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._again)

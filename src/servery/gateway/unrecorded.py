"""What fails before its Caller is known leaves no Record: it is counted, and the counts go to the log."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

log = logging.getLogger("servery.gateway")

_EVERY_S = 60.0


class Unrecorded:
    """A Service that logs, once a minute and at the end, what was counted since the last time; nothing if nothing was."""

    name = "unrecorded"
    unready = ""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def count(self, what: str) -> None:
        """One more request ended in this way; `what` is a Reason's word, or `left`."""
        self._counts[what] += 1

    async def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._tell_and_go_on)

    async def drain(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._tell()

    def _tell_and_go_on(self) -> None:
        self._tell()
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._tell_and_go_on)

    def _tell(self) -> None:
        if self._counts:
            told = ", ".join(f"{what} {count}" for what, count in sorted(self._counts.items()))
            log.warning("requests that ended before their caller was known: %s", told)
            self._counts.clear()

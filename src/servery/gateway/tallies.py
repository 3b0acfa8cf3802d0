"""What is counted and told in the log once a minute: what leaves no Record, and what limits that only observe would refuse."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

log = logging.getLogger("servery.gateway")

_EVERY_S = 60.0
# Kinds that are told in one line; the rest is told as a number.
_MOST = 100


class Tally:
    """A Service that logs, once a minute and at the end, what was counted since the last time; nothing if nothing was.

    `title` is what the line begins with.
    """

    unready = ""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self._title = title
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def count(self, what: str) -> None:
        """One more of this kind."""
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
            most = self._counts.most_common(_MOST)
            told = ", ".join(f"{what} {count}" for what, count in sorted(most))
            others = self._counts.total() - sum(count for _, count in most)
            log.warning("%s: %s%s", self._title, told, f", others {others}" if others else "")
            self._counts.clear()


def unrecorded() -> Tally:
    """What fails before its Caller is known leaves no Record: it is counted by its Reason's word, or as `left`."""
    return Tally("unrecorded", "requests that ended before their caller was known")


def observed() -> Tally:
    """What limits and budgets would have refused whose mode is `observe`."""
    return Tally("observed", "limits that are only observed would have refused")

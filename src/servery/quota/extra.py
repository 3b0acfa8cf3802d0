"""How many calls a model may get beside those that are needed: retries and hedges help until everything is slow, and then
they make it worse. Pure; owned by one event loop.

Retries: a budget that calls pay into, as Finagle's RetryBudget: https://twitter.github.io/finagle/guide/Clients.html
Hedges: a share of what is spent anyway (Dean & Barroso, The Tail at Scale, 2013).
"""

from __future__ import annotations

_A_CALL = 0.2  # of a retry is earned by each call
_MOST = 10.0  # retries that may be saved up; so many there are at first


class Extra:
    """One model's."""

    __slots__ = ("_hedged", "_retries", "_spent")

    def __init__(self) -> None:
        self._retries = _MOST
        self._spent = self._hedged = 0

    def called(self, pico_usd: int) -> None:
        """A call that is needed anyway, and what it may cost."""
        self._retries = min(self._retries + _A_CALL, _MOST)
        self._spent += max(pico_usd, 1)

    @property
    def may_retry(self) -> bool:
        return self._retries >= 1

    def retried(self) -> None:
        self._retries -= 1

    def may_hedge(self, pico_usd: int, share: float) -> bool:
        """Whether a second call for so much keeps hedges within this share of what is spent."""
        return self._hedged + max(pico_usd, 1) <= share * self._spent

    def hedged(self, pico_usd: int) -> None:
        self._hedged += max(pico_usd, 1)

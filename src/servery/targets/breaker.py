"""Whether an endpoint is asked at all: not while it wants to be left alone, nor while everything fails there.

A circuit breaker (Nygard, Release It!, 2007): after some failures in a row it opens; when its pause has passed, one call
may try, and its end decides. Owned by one event loop; times are steady ns.
"""

from __future__ import annotations

NS = 1_000_000_000
FAILURES = 5
FIRST_PAUSE_NS = NS
LONGEST_PAUSE_NS = 30 * NS
MOST_ASKED_NS = 300 * NS  # what an endpoint may ask for itself with Retry-After


class Breaker:
    """One endpoint's."""

    __slots__ = ("_failures", "_pause_ns", "_probing", "_until_ns")

    def __init__(self) -> None:
        self._failures = 0
        self._pause_ns = FIRST_PAUSE_NS
        self._until_ns = 0
        self._probing = False

    def wait_ns(self, now_ns: int) -> int:
        """How long no call should be made; 0: one may be."""
        if now_ns < self._until_ns:
            return self._until_ns - now_ns
        return FIRST_PAUSE_NS if self._failures >= FAILURES and self._probing else 0

    def begins(self) -> None:
        """A call is made."""
        self._probing = self._failures >= FAILURES

    def answered(self) -> None:
        """It was answered, if only with a refusal that is the prompt's fault."""
        self._failures, self._pause_ns, self._probing = 0, FIRST_PAUSE_NS, False

    def failed(self, now_ns: int) -> None:
        """It was not, or wrongly."""
        self._failures += 1
        self._probing = False
        if self._failures >= FAILURES:
            self._until_ns = now_ns + self._pause_ns
            self._pause_ns = min(2 * self._pause_ns, LONGEST_PAUSE_NS)

    def given_up(self) -> None:
        """Its caller left: nothing was learned."""
        self._probing = False

    def asked_to_wait(self, wait_ns: int, now_ns: int) -> None:
        """The endpoint itself says for how long it takes no more."""
        self._probing = False
        self._until_ns = max(self._until_ns, now_ns + min(wait_ns, MOST_ASKED_NS))

"""Which of a model's endpoints is asked: the less loaded of two that are drawn, where load is time as it was lately at its
worst, times the calls under way. Owned by one event loop; times are steady ns.

Power of two choices: Mitzenmacher, 2001. Peak EWMA: Finagle's load balancer,
https://twitter.github.io/finagle/guide/Clients.html#power-of-two-choices-p2c-least-loaded
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

from servery.targets.breaker import FIRST_PAUSE_NS, LONGEST_PAUSE_NS, Breaker

_HALF_NS = 10_000_000_000  # a peak is half forgotten after so long


class Endpoint:
    """One address, with what is known of it. `secret` is sent as its key."""

    __slots__ = ("_at_ns", "_failures", "_shunned_ns", "_took_ns", "breaker", "secret", "under_way", "url")

    def __init__(self, url: str, secret: str) -> None:
        self.url = url.rstrip("/")
        self.secret = secret
        self.breaker = Breaker()
        self.under_way = 0
        self._took_ns = 0.0
        self._at_ns = self._shunned_ns = self._failures = 0

    def begins(self) -> None:
        self.breaker.begins()
        self.under_way += 1

    def ended(self) -> None:
        self.under_way -= 1

    def failed(self, now_ns: int) -> None:
        """A call has failed: others are asked for a while, where there are any."""
        self.breaker.failed(now_ns)
        self._shunned_ns = now_ns + min(FIRST_PAUSE_NS << min(self._failures, 16), LONGEST_PAUSE_NS)
        self._failures += 1

    def answered(self) -> None:
        self.breaker.answered()
        self._failures = self._shunned_ns = 0

    def shunned(self, now_ns: int) -> bool:
        return now_ns < self._shunned_ns

    def took(self, took_ns: int, now_ns: int) -> None:
        """How long it took to begin an answer: a longer time counts at once, a shorter one slowly."""
        if took_ns >= self._took_ns:
            self._took_ns = float(took_ns)
        else:
            weight = math.exp2((self._at_ns - now_ns) / _HALF_NS)
            self._took_ns = self._took_ns * weight + took_ns * (1 - weight)
        self._at_ns = now_ns

    @property
    def load(self) -> float:
        """What one more call would meet. One that nothing is known of is tried."""
        return self._took_ns * (self.under_way + 1)


def pick(endpoints: Sequence[Endpoint], now_ns: int, draw: int, avoid: Container[Endpoint] = ()) -> Endpoint | None:
    """Who is asked, by 16 random bits or more; None where all of them rest.

    Those in `avoid`, and those that failed lately, are for want of others only.
    """
    if len(endpoints) == 1:
        return None if endpoints[0].breaker.wait_ns(now_ns) else endpoints[0]
    awake = [one for one in endpoints if not one.breaker.wait_ns(now_ns)]
    sound = [one for one in awake if not one.shunned(now_ns)] or awake
    able = [one for one in sound if one not in avoid] or sound
    if len(able) < 2:
        return able[0] if able else None
    first = draw % len(able)
    second = (first + 1 + (draw >> 8) % (len(able) - 1)) % len(able)
    return min(able[first], able[second], key=lambda one: one.load)


def rest_ns(endpoints: Sequence[Endpoint], now_ns: int) -> int:
    """How long no endpoint takes a call; 0: one does."""
    return min(one.breaker.wait_ns(now_ns) for one in endpoints)

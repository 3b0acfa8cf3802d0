"""A Redis that the workers of several machines count in: the connection, its clock, and who else is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from servery.quota.sharing import Seen
from servery.terms.limits import Counters

# A caller whose worker has to ask waits no longer than this to connect, and again to be answered.
LIMIT_S = 0.5
# Who isn't heard of for so long doesn't count as one that shares.
_GONE_US = 60_000_000
# KEYS: the workers. ARGV: this one, and when one is gone (us). Whether it was known, how many there are, and the time (us).
_LOOK = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000))
return {known and 1 or 0, redis.call('ZCARD', KEYS[1]), string.format('%.0f', now)}
"""


class RedisServer:
    """A Store. `worker` is what this one is called there, and `steady_ns` its own clock.

    Nothing is sent twice by itself: who asks knows best what to do when an answer is lost.
    """

    def __init__(self, counters: Counters, password: str, worker: str, steady_ns: Callable[[], int]) -> None:
        self._client: Redis = cast(Any, Redis).from_url(
            counters.redis,
            username=counters.username or None,
            password=password or None,
            socket_timeout=LIMIT_S,
            socket_connect_timeout=LIMIT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=True,
        )
        self._prefix = counters.prefix
        self._password = password
        self._worker = worker
        self._steady_ns = steady_ns
        self._seen_ns: int | None = None
        self._look = self.script(_LOOK)

    def script(self, text: str) -> Callable[[str, Sequence[str | int]], list[Any]]:
        """A script that runs at once or not at all: of the name of its key, and of its arguments. OSError."""
        script = self._client.register_script(text)

        def run(name: str, arguments: Sequence[str | int]) -> list[Any]:
            try:
                return cast(list[Any], script([f"{self._prefix}:{name}"], arguments))
            except (RedisError, OSError) as error:
                self.close()  # what stands at the other end may be another one by now
                raise OSError(f"the Redis of limits and budgets can't be used: {self._told(error)}") from None

        return run

    def look(self) -> Seen:
        """As of Store."""
        before_ns = self._steady_ns()
        known, workers, now_us = self._look("workers", (self._worker, _GONE_US))
        forgot = not known and self._seen_ns is not None
        self._seen_ns = before_ns
        # It was asked after `before_ns`: the time told here is never behind its own, so no slice is spent too late.
        return Seen(int(now_us) * 1_000 - before_ns, int(workers), forgot)

    def close(self) -> None:
        """As of Store; what is asked next opens it again."""
        self._client.connection_pool.disconnect()

    def _told(self, error: Exception) -> str:
        text = str(error) or type(error).__name__
        return text.replace(self._password, "…") if self._password else text

"""How a worker counts requests and money."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from servery.host.clock import Clock
from servery.host.service import Service
from servery.host.settings import DataFolder
from servery.terms.change import Snapshot

if TYPE_CHECKING:
    from servery.gateway.budgets import Budgets
    from servery.gateway.minutes import Minutes

# A worker tells a Redis so often that it is there, and hears which time it is and who else is.
_LOOK_S = 10.0


class Counting(NamedTuple):
    """How a worker counts requests and money, and the Services that this takes, in their order."""

    minutes: Minutes
    budgets: Budgets
    services: list[Service]


def counting(folder: DataFolder, snapshot: Snapshot, worker: str, clock: Clock) -> Counting:
    """In files that the workers of this machine share, or in a Redis. `worker` is what nobody else is called."""
    from servery.gateway.budgets import Budgets
    from servery.gateway.minutes import OwnMinutes, SharedMinutes
    from servery.gateway.reach import Reach
    from servery.quota.accounts import SqliteAccounts
    from servery.quota.counters import SqliteCounter

    counters, workers = snapshot.manifest.counters, snapshot.workers
    refuses, secret = counters.on_unavailable == "refuse", counters.credentials
    if counters.redis:
        from servery.quota.redis_counters import RedisAccounts, RedisCounter  # 7 MB
        from servery.quota.redis_server import RedisServer

        server = RedisServer(counters, os.environ.get(secret.env, "") if secret else "", worker, clock.steady_ns)
        reach = Reach(server, workers, refuses, clock, every_s=_LOOK_S)
        minutes = SharedMinutes(RedisCounter(server), reach, clock)
        budgets = Budgets(RedisAccounts(server), worker, reach, clock)
        return Counting(minutes, budgets, [reach, minutes, budgets])
    accounts, counter = SqliteAccounts(folder.budgets), SqliteCounter(folder.limits)
    reach, reach_counter = (Reach(store, workers, refuses, clock) for store in (accounts, counter))
    minutes = OwnMinutes() if workers == 1 else SharedMinutes(counter, reach_counter, clock)
    budgets = Budgets(accounts, worker, reach, clock)
    return Counting(minutes, budgets, [reach, reach_counter, minutes, budgets])

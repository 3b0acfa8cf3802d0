"""Limits and budgets over eight workers, with bursts, callers who leave, workers that die and counters that are away: the design's
bounds hold, and nothing leaks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from own_redis import OwnRedis, connected
from servery.quota.accounts import MemoryAccounts
from servery.quota.budgets import LIFE_NS, NS, Account, Ledger, Report
from servery.quota.counters import MemoryCounter
from servery.quota.redis_counters import RedisAccounts, RedisCounter
from worlds.limits import DEAREST, MONEY, RATES, WORKERS, World

DAY = "2023-11-14"  # the world's


def check_rates(world: World, most: float = 1.0) -> None:
    """In any 60 seconds, over all workers."""
    for account, by_second in world.passed.items():
        for first in by_second:
            used = sum(count for second, count in by_second.items() if 0 <= second - first < 60)
            assert used <= most * RATES[account], account


def check_money(world: World) -> None:
    """Never more than there is, but for what calls cost beyond what was put aside, and for what dies."""
    for account, millions in MONEY.items():
        limit = millions * 10**6
        slice_ = int(limit * 0.05) // WORKERS + DEAREST
        assert world.spent[account] <= limit + world.overspent + world.deaths * slice_ + world.lost, account


def left(world: World, account: str) -> int:
    """What the account says is left when all that nobody renews has come back."""
    limit = round(MONEY[account] * 10**6)
    later = world.loop.clock.wall_ns() + LIFE_NS + NS
    name = f"{account}/usd/day/{DAY}"
    return world.accounts.renew(Account(name, limit, later + NS), Report("looking", 0, 0, 0), WORKERS, later).left


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from((0.0, 0.3)))
def test_limits_hold_nobody_is_refused_early_and_nothing_leaks(seed: int, leaving: float) -> None:
    accounts = MemoryAccounts()
    world = World(seed, MemoryCounter(), accounts, 0.0, leaving, 0.0)
    world.run()
    check_rates(world)
    check_money(world)
    assert world.early == []
    assert not +world.held
    assert not any(one.held for holders in accounts.holders.values() for one in holders.values())
    for account, millions in MONEY.items():
        assert left(world, account) == round(millions * 10**6) - world.spent[account]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**9))
def test_workers_that_die_cost_a_slice_each(seed: int) -> None:
    world = World(seed, MemoryCounter(), MemoryAccounts(), 0.05, 0.1, 0.0)
    world.run()
    check_rates(world)
    check_money(world)
    for account, millions in MONEY.items():
        assert left(world, account) >= round(millions * 10**6) - world.spent[account]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**9))
def test_without_the_counters_each_goes_on_by_its_share(seed: int) -> None:
    world = World(seed, MemoryCounter(), MemoryAccounts(), 0.0, 0.1, 0.1)
    world.run()
    check_rates(world, 2.0)
    for account, millions in MONEY.items():
        assert world.spent[account] <= 2 * millions * 10**6 + world.overspent
        assert left(world, account) == round(millions * 10**6) - world.spent[account]  # all of it is booked


@pytest.mark.proof
def test_the_same_in_redis(tmp_path: Path) -> None:
    with OwnRedis(tmp_path) as redis:
        for seed in range(6):
            server = connected(redis.url, f"s{seed}")
            accounts: Ledger = RedisAccounts(server)
            dying = (0.0, 0.05)[seed % 2]
            world = World(seed, RedisCounter(server), accounts, dying, 0.2, 0.0)
            world.run()
            check_rates(world)
            check_money(world)
            if not dying:
                assert world.early == []
                assert not +world.held
                for account, millions in MONEY.items():
                    assert left(world, account) == round(millions * 10**6) - world.spent[account]
            server.close()

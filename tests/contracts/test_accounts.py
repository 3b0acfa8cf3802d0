"""The accounts of budgets: one suite wherever they are kept."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from own_redis import OwnRedis, connected
from servery.quota.accounts import KEPT_NS, KNOWN_NS, MemoryAccounts, SqliteAccounts
from servery.quota.budgets import LIFE_NS, NS, Account, Ledger, Report
from servery.quota.redis_counters import RedisAccounts

LIMIT = 1_000_000
NOW = 10**18
ACCOUNT = Account("acme/usd/day/2026-11-24", LIMIT, 9 * NOW)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    with OwnRedis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(params=["memory", "sqlite", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Ledger]:
    """Another holder of the same accounts."""
    if request.param == "memory":
        one = MemoryAccounts()
        return lambda: one
    if request.param == "sqlite":
        return lambda: SqliteAccounts(tmp_path / "budgets.db")
    url = request.getfixturevalue("redis").url
    return lambda: RedisAccounts(connected(url, tmp_path.name))


def test_a_slice_is_lent_and_what_was_spent_is_booked(make: Callable[[], Ledger]) -> None:
    ledger = make()
    first = ledger.renew(ACCOUNT, Report("a", 0, 0, 10), 2, NOW)
    assert (first.amount, first.left) == (LIMIT // 40, LIMIT)
    other = ledger.renew(ACCOUNT, Report("b", 0, 0, LIMIT), 2, NOW)
    assert (other.amount, other.left) == (0, LIMIT - first.amount)
    # It spent some, and still holds the rest.
    held = first.amount - 100
    assert ledger.renew(ACCOUNT, Report("a", 100, held, 0), 2, NOW).left == LIMIT - first.amount
    # It isn't heard of again: what it held comes back, what it spent doesn't.
    later = NOW + LIFE_NS + NS
    assert ledger.renew(ACCOUNT, Report("b", 0, 0, 0), 2, later).left == LIMIT - 100
    next_day = msgspec.structs.replace(ACCOUNT, name="acme/usd/day/2026-11-25")
    assert ledger.renew(next_day, Report("b", 0, 0, 0), 2, later).left == LIMIT
    assert make().renew(ACCOUNT, Report("c", 0, 0, 0), 2, later).left == LIMIT - 100


def test_a_report_that_comes_twice_is_booked_once(make: Callable[[], Ledger]) -> None:
    """The answer may have been lost on its way."""
    ledger = make()
    for _ in range(3):
        assert ledger.renew(ACCOUNT, Report("a", 700, 0, 0), 1, NOW).left == LIMIT - 700
    assert ledger.renew(ACCOUNT, Report("a", 500, 0, 0), 1, NOW).left == LIMIT - 700
    assert ledger.renew(ACCOUNT, Report("a", 900, 0, 0), 1, NOW).left == LIMIT - 900
    assert ledger.renew(ACCOUNT, Report("b", 900, 0, 0), 1, NOW).left == LIMIT - 1800


def test_who_comes_back_after_long_is_still_known(make: Callable[[], Ledger]) -> None:
    ledger = make()
    ledger.renew(ACCOUNT, Report("a", 700, 50, 0), 1, NOW)
    later = NOW + LIFE_NS + KNOWN_NS - NS
    assert ledger.renew(ACCOUNT, Report("b", 0, 0, 0), 1, later).left == LIMIT - 700
    assert ledger.renew(ACCOUNT, Report("a", 710, 0, 0), 1, later).left == LIMIT - 710


def test_money_is_counted_to_the_last_pico_dollar(make: Callable[[], Ledger]) -> None:
    """Four million dollars are more than 2^53 of them."""
    limit = 4 * 10**18
    account = Account("large", limit, 9 * NOW)
    ledger = make()
    spent, held = 3 * 10**18 + 1, 10**17 + 3
    assert ledger.renew(account, Report("a", spent, held, 0), 2, NOW).left == limit - spent - held
    left = limit - spent - held
    assert ledger.renew(account, Report("b", 0, 7, left - 6), 2, NOW) == ledger.renew(
        account, Report("b", 0, 7, left - 6), 2, NOW
    )
    assert ledger.renew(account, Report("b", 0, 7, left - 6), 2, NOW).amount == 0
    assert ledger.renew(account, Report("b", 0, 7, left - 7), 2, NOW).amount == left - 7
    assert ledger.renew(account, Report("c", 0, 0, 1), 2, NOW) == ledger.renew(account, Report("d", 0, 0, 1), 2, NOW)
    assert ledger.renew(account, Report("c", 0, 0, 1), 2, NOW).left == 0


def test_an_overspent_account_lends_nothing(make: Callable[[], Ledger]) -> None:
    ledger = make()
    given = ledger.renew(ACCOUNT, Report("a", LIMIT + 5, 0, 1), 1, NOW)
    assert (given.amount, given.left) == (0, -5)


def test_what_is_decided_is_the_same_wherever_it_is_kept(make: Callable[[], Ledger]) -> None:
    """Histories by chance, beside the one in memory."""
    ledger, model = make(), MemoryAccounts()
    for seed in range(60):
        draw, now = random.Random(seed), NOW
        limit = draw.choice((1, 1_000, 10**9, 2**51))
        account, spent = Account(f"account {seed}", limit, 9 * NOW), dict.fromkeys("abcd", 0)
        for _ in range(12):
            now += draw.choice((0, NS, 20 * NS, LIFE_NS + NS))
            who = draw.choice("abcd")
            spent[who] += draw.randrange(limit // 20 + 2)
            need = draw.choice((0, 1, draw.randrange(limit) + 1))
            told = (
                account,
                Report(who, spent[who], draw.randrange(limit // 20 + 2), need),
                draw.choice((1, 2, 8)),
                now,
            )
            assert ledger.renew(*told) == model.renew(*told), (seed, told)


SQLITE = "SqliteAccounts(Path(sys.argv[1]))"
REDIS = "RedisAccounts(RedisServer(Counters(redis=sys.argv[1]), '', 'w', lambda: 0))"
SPENDS = """
import os, sys
from pathlib import Path
from servery.quota.accounts import SqliteAccounts
from servery.quota.budgets import Account, Report
from servery.quota.redis_counters import RedisAccounts
from servery.quota.redis_server import RedisServer
from servery.terms.limits import Counters
ledger, spent = {}, 0
while given := ledger.renew(Account("a", 100_000, 9 * 10**18), Report(str(os.getpid()), spent, 0, 7), 4, 10**18).amount:
    spent += given
print(spent)
"""


@pytest.mark.parametrize("kept", ["sqlite", "redis"])
def test_processes_at_once_spend_no_more_than_there_is(kept: str, tmp_path: Path, redis: OwnRedis) -> None:
    made, where = (SQLITE, str(tmp_path / "budgets.db")) if kept == "sqlite" else (REDIS, redis.url)
    command = [sys.executable, "-c", SPENDS.format(made), where]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    spent = sum(int(process.communicate(timeout=100)[0]) for process in running)
    assert 100_000 - 7 < spent <= 100_000


def test_accounts_that_are_over_are_forgotten(tmp_path: Path) -> None:
    ledger = SqliteAccounts(tmp_path / "budgets.db")
    old = Account("old", LIMIT, NOW + NS)
    ledger.renew(old, Report("a", 10, 0, 0), 1, NOW)
    ledger.renew(ACCOUNT, Report("a", 0, 0, 0), 1, NOW + NS + KEPT_NS + 1)
    assert ledger.renew(old, Report("b", 0, 0, 0), 1, NOW).left == LIMIT
    ledger.close()


def test_a_file_that_cant_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "budgets.db").mkdir()
    with pytest.raises(OSError, match="budgets"):
        SqliteAccounts(tmp_path / "budgets.db").renew(ACCOUNT, Report("a", 0, 0, 1), 1, NOW)

"""Windows are what the Records say, however they came to be stored."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from lines import DIGEST, attempt, record, rows
from servery.store.ledger import Cursor, Ledger
from servery.store.windows import KEPT_S, MINUTE, Key, Sums, fold
from servery.terms.record import Assigned, Attempt, Outcome, Record
from servery.terms.rollouts import AGAIN

NS = 10**9
NOW_S = 1_760_000_000 // 60 * 60
ARMS = ("r1/0/incumbent", "r1/0/candidate")


def some(draw: random.Random, number: int) -> list[Record]:
    made: list[Record] = []
    for _ in range(number):
        arm = draw.choice(ARMS)
        tried = [
            msgspec.structs.replace(
                attempt(tier, answered, draw.randrange(10**6), rows=3),
                took_ns=draw.randrange(1, 10**10), arm=arm, outcome=draw.choice(list(Outcome)),
            )
            for tier, answered in (("cheap", 1), ("mid", 2))[: draw.randint(1, 2)]
        ]  # fmt: skip
        at_ns = (NOW_S + draw.randrange(180)) * NS + draw.randrange(NS)
        one = record(*tried, at_ns=at_ns, rows=3, duration_ns=draw.randrange(5 * NS))
        made.append(msgspec.structs.replace(one, arms=(Assigned("r1", arm[5:], 0.5, "aa"),)))
    return made


def close(one: Sums, other: Sums) -> bool:
    """Equal, but for the order in which floats were added."""
    whole = ("n", "rows", "ns", "pico_usd", "times", "prices")
    return all(getattr(one, field) == getattr(other, field) for field in whole) and all(
        getattr(one, field) == pytest.approx(getattr(other, field)) for field in ("ns_squared", "pico_usd_squared")
    )


def stored(ledger: Ledger) -> dict[Key, Sums]:
    return {key: sums for key, sums, _ in ledger.windows((*ARMS, *(f"{arm}/{AGAIN}" for arm in ARMS)))}


def test_what_was_stored_in_parts_and_twice_is_the_fold_of_all_records(tmp_path: Path) -> None:
    draw = random.Random(5)
    records = some(draw, 400)
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    shuffled = draw.sample(records, len(records))
    for at in range(0, 400, 37):
        ledger.write(shuffled[at : at + 37], "run", Cursor(), NOW_S * NS)
        ledger.write(shuffled[max(at - 5, 0) : at + 3], "run", Cursor(), NOW_S * NS)  # some of them once more
    rebuilt = {
        key: sums
        for key, sums in fold(one for chunk in ledger.read(0, 2**62) for one in chunk.records).attempts.items()
        if key[0] == MINUTE
    }
    found = stored(ledger)
    assert found.keys() == rebuilt.keys()
    assert all(close(found[key], sums) for key, sums in rebuilt.items())
    assert sum(sums.n for sums in found.values()) == sum(len(one.attempts) for one in records)
    ledger.close()


def test_a_window_is_told_apart_by_what_a_guard_asks_for(tmp_path: Path) -> None:
    good = msgspec.structs.replace(attempt(), arm=ARMS[1], took_ns=2_000_000)
    bad = msgspec.structs.replace(good, outcome=Outcome.FAILED, reason="model_failed")
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, create=True)
    ledger.write([record(good, at_ns=NOW_S * NS), record(bad, good, at_ns=NOW_S * NS)], "run", Cursor(), NOW_S * NS)
    ledger.close()
    asked = "SELECT model, version, role, reason, arm, outcome, n, ns FROM attempt_windows WHERE seconds = 1 ORDER BY n"
    assert rows(path, asked) == [
        ("digits-cheap", DIGEST, "serve", "model_failed", ARMS[1], "failed", 1, 2_000_000),
        ("digits-cheap", DIGEST, "serve", "", ARMS[1], "served", 2, 4_000_000),
    ]
    asked = "SELECT route, tier, tenant, outcome, n, rows, ns FROM request_windows WHERE seconds = 60"
    assert rows(path, asked) == [("digits", "cheap", "acme", "served", 2, 2, 800_000)]


def test_only_what_has_changed_since_is_read_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    first, second = (msgspec.structs.replace(attempt(), arm=arm, took_ns=1) for arm in ARMS)
    ledger.write([record(first, at_ns=NOW_S * NS)], "run", Cursor(), NOW_S * NS)
    ((_, _, stamp),) = ledger.windows(ARMS)
    assert ledger.windows(ARMS, stamp) == []
    ledger.write([record(second, at_ns=NOW_S * NS)], "run", Cursor(), NOW_S * NS)
    ((key, sums, later),) = ledger.windows(ARMS, stamp)
    assert (key[-2], sums.n) == (ARMS[1], 1)
    assert later > stamp
    assert ledger.windows(("r2/candidate",)) == []
    ledger.close()


def test_names_that_callers_make_up_make_no_windows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, create=True)
    wrong = [
        msgspec.structs.replace(
            record(at_ns=NOW_S * NS, route=f"made-up-{number}", outcome=Outcome.REFUSED), reason="not_found"
        )
        for number in range(50)
    ]
    ledger.write(wrong, "run", Cursor(), NOW_S * NS)
    ledger.close()
    assert rows(path, "SELECT route, n FROM request_windows WHERE seconds = 60") == [("", 50)]


def test_seconds_go_after_two_hours_and_minutes_with_their_records(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, create=True)
    day = 86_400
    for ago in (0, KEPT_S - 60, KEPT_S + 60, 3 * day):
        ledger.write([record(attempt(), at_ns=(NOW_S - ago) * NS)], "run", Cursor(), NOW_S * NS)
    ledger.retain(NOW_S * NS, 2)
    ledger.close()
    kept: Counter[object] = Counter(seconds for (seconds,) in rows(path, "SELECT seconds FROM attempt_windows"))
    assert kept == {1: 2, 60: 3}


def test_an_attempt_without_an_arm_keeps_no_prices() -> None:
    plain: Attempt = attempt()
    (key, sums), *_ = fold([record(plain, at_ns=NOW_S * NS)]).attempts.items()
    assert (key[-2], sums.prices.count, sums.times.count) == ("", 0, 1)

"""Folding loses detail, never a count or a pico-dollar; nor does the reserve that keeps the fold."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from lines import record
from servery.store.fold import MINUTE_NS, OTHER, Fold
from servery.store.reserve import Reserve, read
from servery.terms.money import busy_price, share_out
from servery.terms.record import Attempt, Outcome, Record, Role, Summary

names = st.text(max_size=12)
outcomes = st.sampled_from(Outcome)
amounts = st.integers(0, 10**12)


@st.composite
def attempts(draw: st.DrawFn) -> Attempt:
    return Attempt(
        Role.SERVE, draw(names), draw(names), draw(names), draw(st.integers(0, 50)), draw(st.integers(0, 50)),
        draw(amounts), draw(amounts),
    )  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> Record:
    tries = draw(st.lists(attempts(), max_size=3))
    return record(
        *tries, at_ns=draw(st.integers(1, 10**5)) * MINUTE_NS // 7, tenant=draw(names), route=draw(names),
        outcome=draw(outcomes), rows=draw(st.integers(0, 50)),
    )  # fmt: skip


def sums(lines: list[Summary]) -> tuple[Counter[Outcome], list[int]]:
    requests: Counter[Outcome] = Counter()
    totals = [0, 0, 0]
    for line in lines:
        requests[line.outcome] += line.requests
        totals = [totals[0] + line.answered, totals[1] + line.busy_ns, totals[2] + line.pico_usd]
    return requests, totals


@settings(deadline=None)
@given(st.lists(records(), max_size=40), st.integers(0, 20_000))
def test_counts_and_money_survive_folding_merging_and_the_reserve(lines: list[Record], limit: int) -> None:
    first, second = Fold("a", limit), Fold("b", limit)
    for index, line in enumerate(lines):
        (first if index % 2 else second).add(line)
    for line in second.lines():
        first.merge(line)
    requests, totals = sums(first.lines())
    assert +requests == Counter(line.outcome for line in lines)
    assert totals == [
        sum(a.answered for line in lines for a in line.attempts),
        sum(a.busy_ns for line in lines for a in line.attempts),
        sum(line.pico_usd for line in lines),
    ]
    ids = [line.id for line in first.lines()]
    assert len(set(ids)) == len(ids)

    content = msgspec.msgpack.encode(first.lines())
    assert len(content) <= limit + 1_024  # but for the last resort
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "reserve"
        reserve = Reserve(path, sync=False)
        reserve.write(content)
        reserve.close()
        assert msgspec.msgpack.decode(read(path), type=list[Summary]) == first.lines()


def test_a_request_counts_where_it_was_answered_and_dollars_where_they_were_spent() -> None:
    cheap = Attempt(Role.SERVE, "cheap", "small", "v", 3, 2, 10, 100)
    mid = Attempt(Role.SERVE, "mid", "large", "v", 1, 1, 20, 200)
    fold = Fold("a")
    fold.add(record(cheap, mid, at_ns=3 * MINUTE_NS + 1, rows=3))
    fold.add(record(at_ns=3 * MINUTE_NS, outcome=Outcome.REFUSED))
    found = {line.tier: (line.requests, line.rows, line.answered, line.busy_ns, line.pico_usd) for line in fold.lines()}
    assert found == {"cheap": (1, 3, 2, 10, 100), "mid": (0, 1, 1, 20, 200), "": (1, 1, 0, 0, 0)}
    assert {line.minute_ns for line in fold.lines()} == {3 * MINUTE_NS}


def test_a_group_keeps_its_id_until_the_fold_is_cleared() -> None:
    fold = Fold("a")
    fold.add(record(at_ns=1))
    before = fold.lines()[0].id
    fold.add(record(at_ns=1))
    assert fold.lines()[0].id == before
    fold.clear()
    fold.add(record(at_ns=1))
    assert fold.lines()[0].id != before


def test_the_tail_goes_to_other() -> None:
    fold = Fold("a", 2_000)
    for number in range(100):
        fold.add(record(at_ns=1, route=f"route-{number}"))
    lines = fold.lines()
    assert 5 < len(lines) < 20
    assert sum(line.requests for line in lines) == 100
    assert any(line.route == OTHER for line in lines)


@given(st.integers(0, 10**18), st.integers(1, 1_000))
def test_a_share_out_adds_up_and_is_even(total: int, parts: int) -> None:
    shares = share_out(total, parts)
    assert len(shares) == parts
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_busy_price_is_the_nearest(busy_ns: int, pico_per_hour: int) -> None:
    exact = busy_ns * pico_per_hour
    assert abs(busy_price(busy_ns, pico_per_hour) * 3_600 * 10**9 - exact) * 2 <= 3_600 * 10**9

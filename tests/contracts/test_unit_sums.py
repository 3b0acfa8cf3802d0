"""Unit sums are what the Records and the last Feedback say, however they came to be stored."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lines import attempt, feedback, record
from servery.stats.asymptotic import UnitSums
from servery.stats.sketch import index_of
from servery.stats.unit_quantiles import Tallied, bin_of
from servery.store.ledger import Cursor, Ledger
from servery.store.unit_sums import KEPT_S, Counts, fold
from servery.terms.experiments import BEFORE, EXCLUDED, Metric
from servery.terms.reasons import Reason
from servery.terms.record import AnyLine, Assigned, Feedback, Outcome, Record

NS = 10**9
NOW = 1_760_000_000 * NS
TRIED = "x0123456789ab"
ERRORS = Metric("errors", 0.01)
COST = Metric("cost", 0.1)
P90 = Metric("latency", 0.1, quantile=0.9)
LABEL = Metric("feedback", 0.1, name="label")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", create=True)
    yield opened
    opened.close()


def tried(unit: str, arm: str = "new", at_ns: int = NOW, experiment: str = TRIED, **changed: Any) -> Record:
    segment = changed.pop("segment", "")
    one = record(attempt(pico_usd=changed.pop("pico_usd", 700)), at_ns=at_ns, predictions=("7",))
    return msgspec.structs.replace(one, arms=(Assigned(experiment, arm, 0.5, unit, segment=segment),), **changed)


def write(ledger: Ledger, *lines: AnyLine, now_ns: int = NOW) -> None:
    ledger.write(lines, "run", Cursor(), now_ns)


def sums(ledger: Ledger, metric: Metric, arm: str = "new", until_ns: int = NOW * 2) -> UnitSums:
    (found,) = ledger.unit_sums(TRIED, (metric,), until_ns)
    return found.get(arm, UnitSums())


def test_a_unit_that_comes_often_is_one_observation(ledger: Ledger) -> None:
    write(ledger, *[tried("a") for _ in range(3)], tried("a", outcome=Outcome.FAILED, reason="model_failed"))
    write(ledger, tried("b"), tried("c", "old"))
    assert sums(ledger, ERRORS) == UnitSums(2, x=1, y=5, xx=1, yy=17, xy=4)
    assert ledger.units(TRIED) == {"new": Counts(2, 5), "old": Counts(1, 1)}


def test_what_says_nothing_about_an_arm_is_not_counted(ledger: Ledger) -> None:
    """Those of another experiment and of rollouts; those that a caller's own doing ended. What an arm can't do counts."""
    refused = [tried("a", outcome=Outcome.REFUSED, reason=one.word) for one in (Reason.RATE_LIMITED, Reason.DRAINING)]
    write(ledger, *refused, tried("a", experiment="0123456789ab"), tried("a", experiment="x999999999999"))
    assert ledger.units(TRIED) == {}
    write(ledger, tried("a", outcome=Outcome.REFUSED, reason=Reason.NOT_CAPABLE.word))
    assert sums(ledger, ERRORS) == UnitSums(1, x=1, y=1, xx=1, yy=1, xy=1)


def test_requests_without_a_unit_are_counted_and_never_compared(ledger: Ledger) -> None:
    write(ledger, tried("", EXCLUDED), tried("", EXCLUDED), tried("a"))
    assert ledger.units(TRIED) == {EXCLUDED: Counts(0, 2), "new": Counts(1, 1)}
    assert sums(ledger, ERRORS, EXCLUDED) == UnitSums()


def test_a_unit_counts_from_its_age_on(ledger: Ledger) -> None:
    write(ledger, tried("a", at_ns=NOW), tried("b", at_ns=NOW + 100 * NS), tried("a", at_ns=NOW + 200 * NS))
    assert [sums(ledger, ERRORS, until_ns=NOW + after * NS).n for after in (-1, 0, 99, 100)] == [0, 1, 1, 2]


def test_feedback_joins_its_unit_late_and_corrected(ledger: Ledger) -> None:
    one, other = tried("a"), tried("b")
    write(ledger, one, other, tried("c"))
    write(ledger, feedback(one, 2.0), feedback(other, 7.0))
    assert sums(ledger, LABEL) == UnitSums(3, x=9, y=2, xx=53, yy=2, xy=9)
    write(ledger, feedback(one, 7.0, at_ns=NOW + 1))
    same = msgspec.structs.replace(LABEL, better="equal")
    assert sums(ledger, same) == UnitSums(3, x=2, y=2, xx=2, yy=2, xy=2)
    each = msgspec.structs.replace(LABEL, per="unit")
    assert sums(ledger, each) == UnitSums(3, x=14, xx=98)


def test_stored_in_parts_and_twice_and_out_of_order_they_are_what_a_rebuild_gives(ledger: Ledger) -> None:
    draw = random.Random(7)
    units = [f"u{number}" for number in range(40)]
    arm_of = {unit: draw.choice(("old", "new")) for unit in units}
    records = [
        tried(
            unit := draw.choice(units), arm_of[unit], NOW + draw.randrange(10**6) * 1000, pico_usd=draw.randrange(10**9),
            outcome=draw.choice([Outcome.SERVED] * 4 + [Outcome.FAILED]), duration_ns=draw.randrange(10**9),
        )
        for _ in range(400)
    ]  # fmt: skip
    facts = [
        feedback(one, float(draw.randrange(4)), at_ns=NOW + draw.randrange(10**6))
        for one in records[::2]
        for _ in range(2)
    ]
    lines: list[AnyLine] = draw.sample([*records, *facts, *records[::5], *facts[::5]], 400 + 400 + 80 + 80)
    for at in range(0, len(lines), 37):
        write(ledger, *lines[at : at + 37])

    rebuilt = fold(records)
    last: dict[bytes, Feedback] = {}
    for fact in sorted(facts, key=lambda fact: (fact.at_ns, fact.id)):
        last[fact.record_id] = fact
    told: dict[str, list[float]] = {unit: [] for unit in units}
    for one in records:
        if one.id in last:
            told[one.arms[0].unit].append(float(last[one.id].value))
    for arm in ("old", "new"):
        mine = {key[1]: seen for key, seen in rebuilt.items() if key[2] == arm}
        pairs = [
            (ERRORS, [(seen.errors, seen.requests) for seen in mine.values()]),
            (COST, [(seen.pico_usd / 1e12, seen.rows) for seen in mine.values()]),
            (LABEL, [(sum(told[unit]), len(told[unit])) for unit in mine]),
        ]
        for metric, values in pairs:
            x, y = np.array(values, float).T
            wanted = [len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y]
            found = sums(ledger, metric, arm)
            assert [found.n, found.x, found.y, found.xx, found.yy, found.xy] == pytest.approx(wanted)


def test_how_long_answers_took_is_counted_by_unit_whatever_comes_when(ledger: Ledger) -> None:
    """The sums are what the Records give by themselves; failures took no time, and a unit without an answer is a unit."""
    draw = random.Random(3)
    records = [
        tried(
            f"u{number % 30}", "new" if number % 30 < 15 else "old", NOW + number,
            duration_ns=round(10**7 * draw.lognormvariate(0, 1)), outcome=draw.choice([Outcome.SERVED] * 3 + [Outcome.FAILED]),
        )
        for number in range(600)
    ]  # fmt: skip
    silent = [tried("never", at_ns=NOW, outcome=Outcome.FAILED, reason="bug"), tried("b", BEFORE), tried("", EXCLUDED)]
    lines = draw.sample([*records, *silent, *records[::4]], 600 + 3 + 150)
    for at in range(0, len(lines), 50):
        write(ledger, *lines[at : at + 50])
    (found,) = ledger.unit_sums(TRIED, (P90,), NOW * 2)
    assert set(found) == {"old", "new"}
    for arm, of in found.items():
        assert isinstance(of, Tallied)
        mine = [one for one in records if one.arms[0].arm == arm and one.outcome is Outcome.SERVED]
        bins = Counter(index_of(one.duration_ns) for one in mine)
        assert of.bins == tuple(sorted(bins.items()))
        start = bin_of(of.bins, 0.9)
        slow = Counter(one.arms[0].unit for one in mine if index_of(one.duration_ns) >= start)
        each = Counter(one.arms[0].unit for one in mine)
        y = np.array([*each.values(), *([0] if arm == "new" else [])], float)
        x = np.array([*(slow[unit] for unit in each), *([0] if arm == "new" else [])], float)
        assert (of.n, of.x, of.y, of.xx, of.yy, of.xy) == (len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y)
    (early,) = ledger.unit_sums(TRIED, (P90,), NOW + 19)
    assert early["new"].n == 16
    assert early["old"].n == 5


def test_a_unit_is_in_the_segment_that_its_first_request_said(ledger: Ledger) -> None:
    """In whatever order they come, and however they are stored."""
    came = [tried("a", at_ns=NOW + at, segment=said) for at, said in ((1, "pro"), (0, "free"), (2, "other"))]
    came += [tried("b", at_ns=NOW + at, segment=said) for at, said in ((3, "pro"), (3, "other"), (5, "free"))]
    write(ledger, *came[:1], came[4])
    write(ledger, *came[1:4], came[5], tried("c", segment="pro", outcome=Outcome.FAILED, reason="bug"))
    assert {key[1]: seen.segment for key, seen in fold(came).items()} == {"a": "free", "b": "other"}
    for metric in (ERRORS, P90):
        parts = [
            ledger.unit_sums(TRIED, (metric,), NOW * 2, name)[0].get("new", UnitSums())
            for name in ("free", "pro", "other")
        ]
        assert [(one.n, one.y) for one in parts] == (
            [(1, 3), (1, 1), (1, 3)] if metric is ERRORS else [(1, 3), (0, 0), (1, 3)]
        )
    assert sums(ledger, ERRORS).n == 3


def test_units_are_forgotten_long_after_they_last_came(ledger: Ledger) -> None:
    gone, stays = tried("a"), tried("b", at_ns=NOW + 100 * NS)
    write(ledger, gone, stays, feedback(gone, 1.0), feedback(stays, 1.0))
    ledger.retain(NOW + (KEPT_S + 50) * NS, 10_000)
    assert ledger.units(TRIED) == {"new": Counts(1, 1)}
    assert sums(ledger, LABEL) == UnitSums(1, x=1, y=1, xx=1, yy=1, xy=1)
    write(ledger, tried("a", at_ns=NOW + 200 * NS))
    assert sums(ledger, P90).y == 2  # of the one that was gone nothing had been left


def test_what_units_did_before_comes_beside_what_they_do(ledger: Ledger) -> None:
    """Of a ratio what a unit had beyond what was usual; nothing where a unit is new. Nobody is compared by it."""
    write(ledger, *[tried("a", BEFORE, NOW - 9, outcome=Outcome.FAILED, reason="bug") for _ in range(2)])
    write(ledger, *[tried("b", BEFORE, NOW - 9) for _ in range(2)], tried("gone", BEFORE, NOW - 9))
    write(ledger, tried("a"), tried("b"), tried("c"), tried("b", "old"))
    usual = 2 / 5
    z = np.array([2 - 2 * usual, -2 * usual, 0])
    found = sums(ledger, ERRORS)
    assert (found.n, found.x, found.y) == (3, 0, 3)
    assert [found.z, found.zz, found.yz, found.xz] == pytest.approx([z.sum(), z @ z, z.sum(), 0])
    assert ledger.units(TRIED)["new"] == Counts(3, 3)
    each = sums(ledger, msgspec.structs.replace(ERRORS, per="unit"))
    assert (each.z, each.zz) == (2, 4)

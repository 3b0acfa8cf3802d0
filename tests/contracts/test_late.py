"""Attempts that end after their Request: stored once, joined to their Record, folded by arm, and never lost as money."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lines import attempt, new_id, record, rows
from servery.control.observe import Observer
from servery.store.fold import Fold
from servery.store.ledger import Cursor, Ledger
from servery.store.windows import fold_late
from servery.terms.folds import AGREEMENT
from servery.terms.record import Attempt, Late, Outcome, Record, Role, answering
from servery.terms.rollouts import Guard, RolloutPolicy, RolloutStep

NS = 10**9
NOW_S = 1_760_000_000 // 60 * 60
POLICY = RolloutPolicy("shadow", steps=(RolloutStep(0.4),), guards=(Guard("output", 0.1, name="score"),))
replace = msgspec.structs.replace


def told(arm: str) -> str:
    return f"r1/0/{arm}"


def shadow(**changed: object) -> Attempt:
    return replace(attempt(answered=0), role=Role.SHADOW, arm=told("candidate"), took_ns=3_000_000, **changed)


def late(of: Record, *, rows: int = 4, alike: int = 4, at_s: int = NOW_S + 70, **changed: object) -> Late:
    return Late(new_id(at_s * NS), at_s * NS, of.tenant, of.route, of.id, shadow(**changed), rows, alike)


def mirrored() -> Record:
    return record(replace(attempt(), arm=told("mirrored"), took_ns=1), at_ns=NOW_S * NS)


def test_a_late_line_counts_once_and_is_read_with_its_record(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, create=True)
    one, other = mirrored(), mirrored()
    line = late(one)
    ledger.write([line], "run", Cursor(), NOW_S * NS)  # before its Record
    ledger.write([one, other, line], "run", Cursor(), NOW_S * NS)
    ledger.write([line, late(one, alike=1)], "run", Cursor(), NOW_S * NS)
    records = {found.id: found for chunk in ledger.read(0, 2**62) for found in chunk.records}
    assert records[other.id] == other
    assert [found.role for found in records[one.id].attempts] == [Role.SERVE, Role.SHADOW, Role.SHADOW]
    assert records[one.id].pico_usd == one.pico_usd + 2 * line.attempt.pico_usd
    assert rows(path, "SELECT rows, alike FROM late ORDER BY alike") == [(4, 1), (4, 4)]
    ledger.retain((NOW_S + 10 * 86_400) * NS, 2)
    assert rows(path, "SELECT count(*) FROM late") == [(0,)]
    ledger.close()


def test_who_came_late_answered_nobody() -> None:
    failed = replace(attempt(answered=0), outcome=Outcome.FAILED)
    assert answering((failed, shadow())) == 0
    assert answering((attempt(), shadow(), shadow())) == 0
    assert answering((shadow(),)) == 0
    assert answering(()) == -1


def test_guards_see_who_was_drawn_what_agreed_what_was_measured_and_what_was_dropped(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    mirrors = [mirrored() for _ in range(5)]
    plain = replace(attempt(), arm=told("incumbent"), took_ns=5, measured=(("score", 0.25),))
    others = [record(plain, at_ns=NOW_S * NS) for _ in range(7)]
    dropped = [record(replace(attempt(), arm=told("dropped")), at_ns=NOW_S * NS) for _ in range(2)]
    aside = [record(replace(attempt(), arm=told("aside")), at_ns=NOW_S * NS)]
    lines = [late(one, alike=2, measured=(("score", 0.5),)) for one in mirrors[:3]]
    lines.append(late(mirrors[3], rows=0, alike=0, outcome=Outcome.FAILED, reason="model_failed"))
    ledger.write([*mirrors, *others, *dropped, *aside, *lines], "run", Cursor(), NOW_S * NS)
    observer = Observer("r1", POLICY)
    for _ in range(2):  # a second look finds the same
        (seen,) = observer.look(ledger, NOW_S + 600).values()
        assert (seen.incumbent.requests, seen.candidate.requests, seen.excluded, seen.dropped) == (7, 5, 0, 2)
        assert (seen.incumbent.calls, seen.candidate.calls, seen.candidate.errors) == (7, 4, 1)
        assert seen.candidate.times.count == 3
        agreed = seen.candidate.told[AGREEMENT]
        assert (agreed.n, agreed.total) == (3, pytest.approx(1.5))
        assert (seen.incumbent.measured["score"].total, seen.candidate.measured["score"].total) == (1.75, 1.5)
        assert not seen.incumbent.told
    ledger.close()


def test_the_windows_of_late_lines_are_those_of_their_end() -> None:
    one = mirrored()
    folded = fold_late([late(one), late(one)])
    assert {(key[0], key[1], sums.n) for key, sums in folded.items()} == {(1, NOW_S + 70, 2), (60, NOW_S + 60, 2)}


def test_without_room_its_money_is_kept_and_its_request_is_not_counted_twice() -> None:
    kept = Fold("run")
    one = mirrored()
    kept.add(one)
    kept.add_late(late(one))
    assert sum(line.requests for line in kept.lines()) == 1
    assert sum(line.pico_usd for line in kept.lines()) == one.pico_usd + 700

"""Where each request is a unit, its label counts at one age: what comes, or is corrected, later changes nothing that was compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from lines import attempt, feedback, record, rows
from servery.control.experiments import Evidence, Kept, compared
from servery.control.gathered import Gathered
from servery.routing.arms import draw, draw_of
from servery.routing.assignment import digest_of
from servery.stats.asymptotic import UnitSums
from servery.store.database import engine_of, migrate
from servery.store.ledger import Cursor, Ledger
from servery.terms.experiments import Arm, Design, Experiment, Metric
from servery.terms.record import AnyLine, Record
from servery.terms.rollouts import Unit

NS = 10**9
NOW = 1_760_000_000 * NS
AGE_S = 100
BAD = Metric("feedback", 0.1, name="bad", better="lower")
ALONE = Experiment("x01", "try", Design("r", (Arm("old", 0.5), Arm("new", 0.5)), BAD, age_s=AGE_S), NOW)
BY_USER = msgspec.structs.replace(ALONE, design=msgspec.structs.replace(ALONE.design, unit=Unit(header="x-user")))
ANY_AGE = msgspec.structs.replace(ALONE, design=msgspec.structs.replace(ALONE.design, age_s=0))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", create=True)
    yield opened
    opened.close()


def write(ledger: Ledger, *lines: AnyLine) -> None:
    ledger.write(lines, "run", Cursor(), NOW)


def asked(of: Experiment = ALONE, after_s: float = 0, unit: bytes | None = None) -> Record:
    """A request, as the gateway has it recorded."""
    one = record(attempt(), at_ns=NOW + round(after_s * NS))
    return msgspec.structs.replace(one, arms=(draw(draw_of(of), digest_of(of.id, unit or one.id))[1],))


def asked_in(arm: str, of: Experiment = ALONE, after_s: float = 0) -> Record:
    return next(one for _ in itertools.count() if (one := asked(of, after_s)).arms[0].arm == arm)


def look(ledger: Ledger, after_s: float, of: Experiment = ALONE) -> Evidence:
    """What a look at this time is based on."""
    found = Gathered(ledger.path)(of, NOW + round((after_s - of.design.age_s) * NS))
    assert found is not None
    return found


def told(evidence: Evidence) -> tuple[float, float, int]:
    """Of both arms: the labels' sum, how many there are, and of how many requests."""
    whole = UnitSums()
    for one in evidence.sums[0].values():
        whole = whole.plus(one)
    return whole.x, whole.y, whole.n


def said(of: Record, *pairs: tuple[float, float]) -> Sequence[AnyLine]:
    """Feedback: after so many seconds, this."""
    return [feedback(of, value, name="bad", at_ns=of.at_ns + round(after_s * NS)) for after_s, value in pairs]


def test_a_label_that_comes_later_than_its_age_does_not_count_whenever_one_looks(ledger: Ledger) -> None:
    soon, late = asked(), asked()
    write(ledger, soon, late, *said(soon, (AGE_S, 1.0)), *said(late, (AGE_S + 1, 1.0)))
    assert told(look(ledger, AGE_S - 1)) == (0, 0, 0)
    assert [told(look(ledger, after)) for after in (AGE_S, 10 * AGE_S)] == [(1, 1, 2)] * 2


def test_a_correction_counts_only_where_it_came_within_the_age(ledger: Ledger) -> None:
    one, other = asked(), asked()
    write(ledger, one, other)
    write(ledger, *said(one, (5, 1.0), (50, 0.0)), *said(other, (5, 0.0), (50, 1.0), (99, 1.0)))
    assert told(look(ledger, AGE_S)) == (1, 2, 2)
    write(ledger, *said(one, (AGE_S + 50, 1.0)))
    assert told(look(ledger, 10 * AGE_S)) == (1, 2, 2)


def test_what_was_compared_stays_as_it_was_when_labels_come_late(ledger: Ledger) -> None:
    records = [asked() for _ in range(60)]
    write(ledger, *records, *(line for one in records[:40] for line in said(one, (9, float(one.arms[0].arm == "new")))))
    kept, looks, _ = compared(ALONE.design, look(ledger, AGE_S), Kept())
    write(ledger, *(line for one in records for line in said(one, (2 * AGE_S, float(one.arms[0].arm == "old")))))
    again, after, _ = compared(ALONE.design, look(ledger, 3 * AGE_S), kept)
    assert (again.exact, after) == (kept.exact, looks)


def test_by_users_and_without_an_age_a_label_counts_whenever_it_comes(ledger: Ledger) -> None:
    users = [asked(BY_USER, unit=b"ann"), asked(BY_USER, unit=b"ann")]
    write(ledger, *users, *(line for one in users for line in said(one, (5, 1.0), (2 * AGE_S, 0.0), (3 * AGE_S, 1.0))))
    assert told(look(ledger, AGE_S, BY_USER)) == (2, 2, 1)
    alone = msgspec.structs.replace(ANY_AGE, id="x02")
    one = asked(alone)
    write(ledger, one, *said(one, (5, 1.0), (2 * AGE_S, 0.0)))
    assert told(look(ledger, 0, alone)) == (0, 1, 1)


def test_arms_stay_apart(ledger: Ledger) -> None:
    old, new = asked_in("old"), asked_in("new")
    write(ledger, old, new, *said(old, (1, 0.0)), *said(new, (1, 1.0), (AGE_S + 1, 0.0)))
    found = look(ledger, AGE_S).sums[0]
    assert [(found[arm].x, found[arm].y) for arm in ("old", "new")] == [(0, 1), (1, 1)]


def test_what_an_older_ledger_was_told_of_units_counts_as_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "older.db"
    engine = engine_of(path, writes=True)
    with engine.begin() as connection:
        migrate(connection, "versions", "0007")
        connection.exec_driver_sql("INSERT INTO unit_facts VALUES ('x01', 'u', 'new', 'bad', 3, 2.5, 3, 2)")
    engine.dispose()
    Ledger(path, create=True).close()
    assert rows(path, "SELECT * FROM unit_facts") == [("x01", "u", "new", "bad", 0, 3, 2.5, 3, 2)]
    assert rows(path, "SELECT name FROM sqlite_master WHERE name = 'unit_facts_before'") == []

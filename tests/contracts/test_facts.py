"""Feedback on Requests that met a Rollout is folded by arm, whenever it comes and however often it is corrected."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lines import attempt, feedback, record
from servery.store.database import engine_of, migrate
from servery.store.ledger import Cursor, Ledger
from servery.terms.folds import Told
from servery.terms.record import AnyLine, Assigned, Feedback, Record, same

NS = 10**9
NOW = 1_760_000_000 * NS
ARM = "r1/0/candidate"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", create=True)
    yield opened
    opened.close()


def exposed(at_ns: int = NOW, predictions: tuple[str | None, ...] = ("7",), rows: int = 1) -> Record:
    made = msgspec.structs.replace(attempt(answered=rows, rows=rows), arm=ARM)
    one = record(made, at_ns=at_ns, predictions=predictions, rows=rows)
    return msgspec.structs.replace(one, arms=(Assigned("r1", "candidate", 0.5, "aa"),))


def write(ledger: Ledger, *lines: AnyLine) -> None:
    ledger.write(lines, "run", Cursor(), NOW)


def told(ledger: Ledger, name: str) -> Told:
    total = Told()
    for (_, _, of, _), part, _ in ledger.told((ARM,)):
        if of == name:
            total.merge(part)
    return total


def test_values_are_summed_and_compared_with_predictions(ledger: Ledger) -> None:
    one, other = exposed(), exposed(predictions=("8",))
    write(ledger, one, other, feedback(one, 7.0), feedback(other, 7.0), feedback(one, True, name="liked"))
    assert told(ledger, "label") == Told(2, 14.0, 98.0, 7.0, 7.0, 2, 1)
    assert told(ledger, "liked") == Told(1, 1.0, 1.0, 1.0, 1.0, 1, 0)


def test_what_comes_before_its_record_or_twice_counts_once(ledger: Ledger) -> None:
    one = exposed()
    fact = feedback(one, 0.25, name="score")
    write(ledger, fact)
    assert told(ledger, "score") == Told()
    write(ledger, one)
    write(ledger, fact)
    assert told(ledger, "score").n == 1


def test_a_correction_takes_the_place_of_what_was_said_before_and_an_old_one_changes_nothing(ledger: Ledger) -> None:
    one = exposed()
    write(ledger, one, feedback(one, 8.0, at_ns=NOW + 2))
    write(ledger, feedback(one, 7.0, at_ns=NOW + 3), feedback(one, 1.0, at_ns=NOW + 1))
    found = told(ledger, "label")
    assert (found.n, found.total, found.judged, found.right) == (1, 7.0, 1, 1)


def test_a_request_of_several_rows_tells_once_and_text_is_compared_only(ledger: Ledger) -> None:
    """Its rows were drawn together, so they are no observations of their own."""
    one = exposed(predictions=("cat", "dog", None), rows=3)
    write(ledger, one, feedback(one, "cat", row=1), feedback(one, "cat", row=0), feedback(one, "cat", row=2))
    assert told(ledger, "label") == Told(judged=1, right=1)
    write(ledger, feedback(one, 3.0, name="stars"), feedback(one, 4.0, row=0, name="stars", at_ns=NOW + 1))
    assert told(ledger, "stars") == Told(1, 4.0, 16.0, 4.0, 4.0, 1, 0)


def test_feedback_is_told_apart_by_how_late_it_came(ledger: Ledger) -> None:
    """All that came within an age is what was known of each Request at that age, also where it was corrected later."""
    one, other = exposed(), exposed()
    write(ledger, one, other, feedback(one, 7.0, at_ns=NOW + 50 * NS), feedback(other, 7.0, at_ns=NOW + 4_000 * NS))
    write(ledger, feedback(one, 3.0, at_ns=NOW + 80_000 * NS))
    by_age = {within: part for (_, _, _, within), part, _ in ledger.told((ARM,))}
    assert by_age.keys() == {60, 7_200, 86_400}
    known = Told()
    for age, (n, total, right) in {60: (1, 7, 1), 7_200: (2, 14, 2), 86_400: (2, 10, 1)}.items():
        known.merge(by_age[age])
        assert (known.n, known.total, known.right) == (n, total, right)


def test_requests_without_a_rollout_are_not_folded(ledger: Ledger) -> None:
    plain = record(attempt(), at_ns=NOW)
    write(ledger, plain, feedback(plain, 1.0))
    assert ledger.told(("", ARM)) == []


def test_however_it_comes_it_is_what_the_last_facts_say(ledger: Ledger) -> None:
    draw = random.Random(3)
    records = [exposed(NOW + number * NS, (str(draw.randrange(3)),)) for number in range(60)]
    facts = [
        feedback(one, float(draw.randrange(3)), at_ns=NOW + draw.randrange(10**6)) for one in records for _ in range(3)
    ]
    lines: list[AnyLine] = draw.sample([*records, *facts, *facts[::4]], len(records) + len(facts) + len(facts[::4]))
    for at in range(0, len(lines), 7):
        write(ledger, *lines[at : at + 7])
    last: dict[bytes, Feedback] = {}
    for fact in sorted(facts, key=lambda fact: (fact.at_ns, fact.id)):
        last[fact.record_id] = fact
    values = [float(fact.value) for fact in last.values()]
    right = sum(same(str(one.predictions[0]), last[one.id].value) for one in records)
    found = told(ledger, "label")
    assert (found.n, found.total, found.squares) == (60, sum(values), sum(value * value for value in values))
    assert (found.judged, found.right) == (60, right)


def test_what_an_older_ledger_was_told_is_kept(tmp_path: Path) -> None:
    """It didn't say how late it came."""
    path = tmp_path / "older.db"
    engine = engine_of(path, writes=True)
    with engine.begin() as connection:
        migrate(connection, "versions", "0002")
        row = f"(60, '{ARM}', 'label', 3, 2.0, 2.0, 0.0, 1.0, 3, 2, 7)"
        connection.exec_driver_sql(f"INSERT INTO feedback_windows VALUES {row}")
    engine.dispose()
    ledger = Ledger(path, create=True)
    assert ledger.told((ARM,)) == [((60, ARM, "label", 0), Told(3, 2.0, 2.0, 0.0, 1.0, 3, 2), 7)]
    ledger.close()

"""The ledger keeps what was counted for drift: each line once, found by Model and time, gone with the rest; and what Feedback says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lines import attempt, feedback, new_id, record
from servery.store.ledger import Cursor, Ledger
from servery.terms.drift import Judged
from servery.terms.record import Binned, Feedback, Record, Sketched

DAY_NS = 86_400 * 10**9
NOW = 20_000 * DAY_NS
FEATURES = (Binned("age", True, (-3, 7), (2, 5)), Binned("kind", False, (63,), (7,)))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db", create=True)


def line(at_ns: int, model: str = "m", version: str = "v") -> Sketched:
    return Sketched(new_id(at_ns), at_ns, at_ns + 10, model, version, "acme", FEATURES)


def test_lines_are_kept_once_and_found_by_model_and_time(ledger: Ledger) -> None:
    lines = [line(NOW + at * DAY_NS // 1000) for at in range(1100)]
    other, later = line(NOW, "other"), line(NOW + DAY_NS, version="w")
    ledger.write([*lines, other, later], "r1", Cursor(1), NOW)
    ledger.write([*lines[:3], other], "r1", Cursor(2), NOW)
    first, last = lines[2].until_ns, lines[1000].until_ns
    assert list(ledger.sketches("m", first, last)) == lines[2:1000]
    assert list(ledger.sketches("other", 0, 2**62)) == [other]
    assert ledger.first_sketched("m") == {"v": NOW, "w": NOW + DAY_NS}
    assert ledger.first_sketched("nobody") == {}
    ledger.retain(NOW + 31 * DAY_NS, 30)
    assert ledger.first_sketched("m")["w"] == NOW + DAY_NS
    assert "v" in ledger.first_sketched("m")
    ledger.retain(NOW + 33 * DAY_NS, 30)
    assert ledger.first_sketched("m") == {}
    ledger.close()


def told(one: Record, value: bool | float | str, at: int, row: int = -1) -> Feedback:
    return feedback(one, value, row, name="correct", at_ns=NOW + at)


def test_what_feedback_says_is_found_by_the_model_that_answered(ledger: Ledger) -> None:
    one = record(attempt("cheap"), at_ns=NOW, predictions=("7",))
    two = record(attempt("cheap", 2, rows=2), at_ns=NOW, rows=2, predictions=("1", None))
    other = record(attempt("dear"), at_ns=NOW)
    facts = [
        told(two, 3.0, 5, 1),
        told(one, False, 9),
        told(one, True, 2),  # and then it was changed
        told(two, "1", 4, 0),
        told(other, True, 1),
        feedback(one, True, name="else", at_ns=NOW),
    ]
    ledger.write([one, two, other, *facts], "r1", Cursor(1), NOW)
    version = one.attempts[0].version
    assert ledger.judged("digits-cheap", "correct", NOW + 3) == [
        Judged(NOW + 4, "acme", version, "1", "1"),
        Judged(NOW + 5, "acme", version, 3.0, None),
        Judged(NOW + 9, "acme", version, False, "7"),
    ]
    ledger.close()

"""Where units come again, each is an observation once for each time that its arm was drawn, and the Records say which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lines import attempt, feedback, record, rows
from servery.routing.assignment import Trial, assign, digest_of
from servery.store.ledger import Cursor, Ledger
from servery.store.units import Units
from servery.store.windows import MINUTE, fold
from servery.terms.record import Outcome, Record
from servery.terms.rollouts import AGAIN, Arm, after

NS = 10**9
NOW = 1_760_000_000 // 60 * 60 * NS
SHARES = (0.2, 0.5)
LABELS = tuple(
    arm.told("r1", step, drawn) for step in range(3) for arm in Arm for drawn in ("", AGAIN, after(0), after(1))
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", create=True)
    yield opened
    opened.close()


def asked(user: str, step: int, at_s: int, failed: int = 0) -> Record:
    """A Request of this user; of its Attempts so many fail first."""
    arm, told = assign(Trial("r1", SHARES[step], step, "x-user"), digest_of("r1", user.encode()))
    good = msgspec.structs.replace(attempt(), arm=arm.told("r1", step), took_ns=1_000)
    bad = msgspec.structs.replace(good, outcome=Outcome.FAILED, reason="model_failed")
    one = record(*(bad for _ in range(failed)), good, at_ns=NOW + at_s * NS)
    return msgspec.structs.replace(one, arms=(told,))


def write(ledger: Ledger, *records: Record) -> None:
    ledger.write(records, "run", Cursor(), NOW)


def counted(ledger: Ledger) -> Counter[str]:
    found: Counter[str] = Counter()
    for key, sums, _ in ledger.windows(LABELS):
        found[key[-2].removeprefix("r1/")] += sums.n
    return found


def test_a_unit_counts_when_it_first_comes(ledger: Ledger) -> None:
    users = [f"u{number}" for number in range(40)]
    arms = {user: assign(Trial("r1", 0.2), digest_of("r1", user.encode()))[0] for user in users}
    for at in range(5):
        write(ledger, *(asked(user, 0, at) for user in users))
    found, given = counted(ledger), Counter(arms.values())
    assert found["0/candidate"] == given[Arm.CANDIDATE] > 2
    assert found["0/incumbent"] == given[Arm.INCUMBENT]
    assert found["0/candidate/again"] == 4 * given[Arm.CANDIDATE]
    assert found["0/incumbent/again"] == 4 * given[Arm.INCUMBENT]


def test_with_the_next_step_those_that_had_the_incumbent_are_drawn_anew(ledger: Ledger) -> None:
    users = [f"u{number}" for number in range(60)]
    write(ledger, *(asked(user, 0, 0) for user in users[:40]))
    write(ledger, *(asked(user, 1, at) for at in (60, 120) for user in users))
    write(ledger, asked("u0", 0, 180))  # a worker that hasn't heard of the step yet
    before = Counter(assign(Trial("r1", 0.2), digest_of("r1", user.encode()))[0] for user in users[:40])
    now = {user: assign(Trial("r1", 0.5), digest_of("r1", user.encode()))[0] for user in users}
    found = counted(ledger)
    fresh = Counter(now[user] for user in users[40:])
    assert (found["1/incumbent"], found["1/candidate"]) == (fresh[Arm.INCUMBENT], fresh[Arm.CANDIDATE])
    drawn = found["1/candidate/after/0"] + found["1/incumbent/after/0"]
    assert drawn == before[Arm.INCUMBENT]
    assert (
        found["1/candidate/after/0"] == sum(now[user] is Arm.CANDIDATE for user in users[:40]) - before[Arm.CANDIDATE]
    )
    assert sum(found.values()) == 40 + 120 + 1


def test_a_request_without_its_unit_is_not_compared_and_one_by_itself_always_is(ledger: Ledger) -> None:
    for at in range(3):
        arm, told = assign(Trial("r1", 0.5, 0, "x-user"), None)
        nobody = record(msgspec.structs.replace(attempt(), arm=arm.told("r1", 0)), at_ns=NOW + at * NS)
        write(ledger, msgspec.structs.replace(nobody, arms=(told,)))
        arm, told = assign(Trial("r1", 0.5), b"a request")
        alone = record(msgspec.structs.replace(attempt(), arm=Arm.CANDIDATE.told("r1", 0)), at_ns=NOW + at * NS)
        write(ledger, msgspec.structs.replace(alone, arms=(told,)))
    assert counted(ledger) == {"0/excluded": 3, "0/candidate": 3}


def test_of_one_request_the_first_attempt_counts(ledger: Ledger) -> None:
    write(ledger, asked("u1", 0, 0, failed=2), asked("u2", 0, 0))
    by_outcome = {(key[-2].split("/", 2)[2], key[-1]): sums.n for key, sums, _ in ledger.windows(LABELS)}
    assert {key: n for key, n in by_outcome.items() if key[0] == "incumbent"} == {
        ("incumbent", "failed"): 1,
        ("incumbent", "served"): 1,
    }
    assert by_outcome["incumbent/again", "failed"] == by_outcome["incumbent/again", "served"] == 1


def test_folded_again_the_records_give_the_same_windows_and_what_comes_twice_counts_once(ledger: Ledger) -> None:
    records = [asked(f"u{number % 17}", number // 60, number, failed=number % 3 == 0) for number in range(110)]
    for at in range(0, 110, 7):
        write(ledger, *records[at : at + 7], records[max(at - 2, 0)], records[at])
    stored = [one for chunk in ledger.read(0, 2**62) for one in chunk.records]
    rebuilt: Counter[str] = Counter()
    for key, sums in fold(stored).attempts.items():
        if key[0] == MINUTE:
            rebuilt[key[-2].removeprefix("r1/")] += sums.n
    assert counted(ledger) == rebuilt
    assert sum(n for label, n in rebuilt.items() if AGAIN not in label and "after" not in label) == 17


def test_feedback_counts_where_its_request_does(ledger: Ledger) -> None:
    first, second = asked("u1", 0, 0), asked("u1", 0, 60)
    write(ledger, first, second)
    ledger.write([feedback(first, 1.0), feedback(second, 0.0)], "run", Cursor(), NOW)
    (found,) = [part for (_, arm, _, _), part, _ in ledger.told(LABELS) if AGAIN not in arm]
    assert (found.n, found.total) == (1, 1.0)


def test_no_more_units_are_compared_than_can_be_remembered(ledger: Ledger) -> None:
    ledger._units = Units(ledger._connection, most=10)
    write(ledger, *(asked(f"u{number}", 0, 0) for number in range(8)))
    write(ledger, *(asked(f"u{number}", 0, 1) for number in range(15)))
    found = counted(ledger)
    assert sum(n for label, n in found.items() if AGAIN not in label) == 10
    assert sum(found.values()) == 23


def test_units_are_forgotten_when_their_rollout_is_long_over(ledger: Ledger) -> None:
    write(ledger, asked("u1", 0, 0), asked("u2", 0, 0))
    ledger.retain(NOW + 20 * 86_400 * NS, 400)
    assert len(rows(ledger.path, "SELECT * FROM units")) == 2
    ledger.retain(NOW + 40 * 86_400 * NS, 400)
    assert rows(ledger.path, "SELECT * FROM units") == []

"""The in-flight table as the one who finds it reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from servery.store.inflight import InFlight, lost
from servery.terms.record import Outcome, Role

CALLER = ("acme", "main")
CHEAP = ("serve", "cheap", "small", "1", 3_600 * 10**12, "r1/candidate")  # a dollar a second
DEAR = ("fallback", "dear", "large", "2", 7_200 * 10**12, "")
SECOND = 10**9
AT = 1_700_000_000 * SECOND


def number(at: int) -> bytes:
    return at.to_bytes(26, "big")


@pytest.fixture
def table(tmp_path: Path) -> InFlight:
    table = InFlight("eu")
    table.open(tmp_path / "inflight")
    return table


def test_what_is_open_is_found_with_all_that_is_known(table: InFlight, tmp_path: Path) -> None:
    slot = table.begin(number(1), AT, CALLER, "digits", "order-ü" * 20)
    table.tries(slot, 0, CHEAP, 5, AT + SECOND, None)
    table.tries(slot, 1, DEAR, 2, AT + 3 * SECOND, (2 * SECOND, "model_failed", 5), 7)
    (found,) = lost(tmp_path / "inflight", AT + 7 * SECOND)
    assert (found.id, found.at_ns, found.tenant, found.key, found.route) == (number(1), AT, "acme", "main", "digits")
    assert (found.outcome, found.reason, found.rows, found.region) == (Outcome.FAILED, "worker_lost", 5, "eu")
    assert found.duration_ns == 7 * SECOND
    assert "order-ü" * 7 in found.request_id
    first, second = found.attempts
    assert (first.role, first.tier, first.model, first.version) == (Role.SERVE, "cheap", "small", "1")
    assert (first.arm, second.arm) == ("r1/candidate", "")
    assert (first.busy_ns, first.reason, first.estimated, first.pico_usd) == (
        2 * SECOND,
        "model_failed",
        False,
        2 * 10**12 + 5,
    )
    assert (second.busy_ns, second.reason, second.estimated, second.rows) == (4 * SECOND, "worker_lost", True, 2)
    assert second.pico_usd == 8 * 10**12 + 7
    assert found.pico_usd == 10 * 10**12 + 12


def test_what_was_released_is_closed_and_its_slot_is_clean_for_the_next(table: InFlight, tmp_path: Path) -> None:
    slot = table.begin(number(1), AT, CALLER, "digits", "told")
    table.tries(slot, 0, CHEAP, 5, AT, None)
    table.release([slot])
    assert lost(tmp_path / "inflight", AT) == []
    assert table.begin(number(2), AT, CALLER, "digits", "") == slot
    (found,) = lost(tmp_path / "inflight", AT)
    assert (found.id, found.attempts, found.request_id, found.rows) == (number(2), (), "", 0)


def test_of_many_attempts_the_last_one_is_among_those_kept(table: InFlight, tmp_path: Path) -> None:
    slot = table.begin(number(1), AT, CALLER, "digits", "")
    for at in range(7):
        table.tries(slot, at, CHEAP if at < 6 else DEAR, 1, AT, (1, "", 0) if at else None)
    (found,) = lost(tmp_path / "inflight", AT)
    assert [attempt.tier for attempt in found.attempts] == ["cheap", "cheap", "cheap", "dear"]


def test_it_is_full_before_it_grows(table: InFlight, tmp_path: Path) -> None:
    slots = [table.begin(at.to_bytes(26, "big"), AT, CALLER, "digits", "") for at in range(5_000)]
    used = [slot for slot in slots if slot]
    assert len(set(used)) == len(used) == 4096
    table.tries(slots[-1], 0, CHEAP, 1, AT, None)  # nowhere
    assert len(lost(tmp_path / "inflight", AT)) == 4096
    table.release(used)
    assert table.begin(number(1), AT, CALLER, "digits", "")


def test_names_are_bounded_too(table: InFlight, tmp_path: Path) -> None:
    slots = [table.begin(number(at), AT, (f"{at}" * 100, "k"), "digits", "") for at in range(3_000)]
    assert not slots[-1]
    assert len(lost(tmp_path / "inflight", AT)) == sum(slot > 0 for slot in slots)


def test_before_it_is_open_nothing_is_kept(tmp_path: Path) -> None:
    table = InFlight()
    slot = table.begin(number(1), AT, CALLER, "digits", "")
    table.tries(slot, 0, CHEAP, 5, AT, None)
    assert slot == 0
    with pytest.raises(FileNotFoundError):
        lost(tmp_path / "inflight", AT)
    (tmp_path / "inflight").write_bytes(b"")
    assert lost(tmp_path / "inflight", AT) == []

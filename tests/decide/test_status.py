"""Each Reason has its place: a status, a documented meaning, and a time to come back where that helps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from servery.gateway.record import outcome_of
from servery.terms.reasons import Again, Fault, Reason, Refusal
from servery.terms.record import Outcome
from servery.wire.status import GRPC_STATUS, HTTP_STATUS, RETRY_AFTER_S

PAGE = (Path(__file__).parents[2] / "docs" / "reasons.md").read_text("utf-8")


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_documented_with_its_status_and_meaning(reason: Reason) -> None:
    (row,) = re.findall(rf"^\| `{reason.word}` \|(.*)\|$", PAGE, re.MULTILINE)
    cells = [cell.strip() for cell in row.split("|")]
    statuses = [str(HTTP_STATUS[reason]), GRPC_STATUS[reason]]
    assert cells == [*statuses, reason.fault.value, reason.again.value, reason.meaning]


@pytest.mark.parametrize("reason", Reason)
def test_whose_fault_it_is_agrees_with_the_status(reason: Reason) -> None:
    status = HTTP_STATUS[reason]
    if reason.fault is Fault.CALLER:
        assert 400 <= status < 500
    if status in (500, 503, 504):
        assert reason.fault is Fault.PLATFORM
    assert (status == 502) == (reason.fault is Fault.UPSTREAM)
    assert (status == 500) == (reason is Reason.BUG)
    assert (status == 429) == (reason in (Reason.RATE_LIMITED, Reason.BUDGET_SPENT))
    if status in (429, 503):
        assert reason.again is not Again.NO


@pytest.mark.parametrize("reason", Reason)
def test_both_protocols_say_the_same(reason: Reason) -> None:
    code, status = GRPC_STATUS[reason], HTTP_STATUS[reason]
    assert (code == "INTERNAL") == (status == 500)
    assert (code == "UNAVAILABLE") == (status == 503)
    assert (code == "UNAUTHENTICATED") == (status == 401)
    assert (code == "PERMISSION_DENIED") == (status == 403)
    assert (code == "NOT_FOUND") == (status == 404)
    assert (code == "UNKNOWN") == (status == 502)
    assert (code == "RESOURCE_EXHAUSTED") == (status in (413, 429))
    assert (code == "DEADLINE_EXCEEDED") == (status in (408, 504))


def test_too_many_and_no_room_say_when_to_come_back() -> None:
    assert set(RETRY_AFTER_S) == {429, 503}
    assert all(seconds >= 1 for seconds in RETRY_AFTER_S.values())


@pytest.mark.parametrize("reason", Reason)
def test_an_end_is_refused_or_failed(reason: Reason) -> None:
    outcome = outcome_of(reason)
    assert outcome in (Outcome.REFUSED, Outcome.FAILED)
    if reason.fault is Fault.CALLER:
        assert outcome is Outcome.REFUSED
    if reason.fault is Fault.UPSTREAM or reason in (Reason.BUG, Reason.WORKER_LOST, Reason.DEADLINE_EXCEEDED):
        assert outcome is Outcome.FAILED


def test_words_are_plain_and_their_own() -> None:
    words = [reason.word for reason in Reason]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", word) for word in words)


def test_a_refusal_says_its_message() -> None:
    refusal = Refusal(Reason.NO_ROOM, "full", 2.5)
    assert (str(refusal), refusal.reason, refusal.retry_after_s) == ("full", Reason.NO_ROOM, 2.5)

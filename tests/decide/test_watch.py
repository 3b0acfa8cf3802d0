"""Which Requests count as led by the thresholds alone, and which only as what they came to."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from lines import record
from servery.gateway.watch import Watch, watch
from servery.routing.next import Tried
from servery.routing.pace import Layout, pace_of
from servery.terms.reasons import Reason
from servery.terms.record import Attempt, Candidate, Choice, Outcome, Record, Role
from servery.terms.routes import Accept, Policy, Route, Tier

ROUTE = Route((Tier("a", "a", Accept(0.6, (0.2, 0.9), "logprob"), (0, 0.5)), Tier("b", "b")), Policy("cascade"))
CHOICE = Choice(1.0, (Candidate("a", "", 10), Candidate("b", "", 90)))
SURE = Tried(0, None, confidences=(0.7,))


def attempt(tier: str, answered: int, pico: int, choice: Choice | None = None) -> Attempt:
    return replace(Attempt(Role.SERVE, tier, tier, "", 1, answered, 0, pico), choice=choice)


ONE = record(attempt("a", 1, 12, CHOICE))
EXPLORED = replace(ONE, attempts=(attempt("a", 1, 12, replace(CHOICE, explored=True)),))
NOBODY = replace(ONE, outcome=Outcome.FAILED, attempts=(attempt("a", 0, 12, CHOICE),))


@pytest.mark.parametrize(
    ("ended", "tried", "all_open", "led", "answered"),
    [
        (ONE, [SURE], True, True, 1),
        (ONE, [SURE], False, False, 1),  # a tier was closed to it
        (ONE, [replace(SURE, failure=Reason.UPSTREAM_CUT), SURE], True, False, 1),
        (EXPLORED, [SURE], True, False, 1),
        (replace(ONE, degraded="upstream_cut"), [SURE], True, False, 1),
        (NOBODY, [SURE], True, False, 0),
        (replace(ONE, attempts=()), [], True, False, 0),
    ],
)
def test_only_what_thresholds_led_tells_of_other_thresholds(
    ended: Record, tried: list[Tried], all_open: bool, led: bool, answered: int
) -> None:
    pace = pace_of(ROUTE, True)
    assert pace is not None
    by, layout = Watch(pace), Layout(pace)
    watch((by, tried, all_open), ended)
    counts = by.take()
    spent = sum(one.pico_usd for one in ended.attempts)
    assert (counts.get(Layout.ROWS, 0), counts.get(Layout.PICO, 0)) == (answered, spent)
    assert counts.get(Layout.REQUESTS, 0) == answered
    assert counts.get(layout.entered, 0) == led
    assert counts.get(Layout.OTHER_PICO, 0) == (0 if led else spent)
    assert counts.get(layout.other, 0) == (0 if led else answered)
    assert (layout.at_confidence(0, 0.7) in counts) is led
    assert by.take() == {}

"""Who is given which Version: the same for a unit everywhere and for ever, and in the shares that are declared."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from servery.routing.assignment import Trial, assign, place_of, trial_of
from servery.terms.change import Candidate, Served
from servery.terms.manifest import Model
from servery.terms.rollouts import Arm, Unit

shares = st.floats(0.001, 0.999)
units = st.binary(max_size=40)


@given(units, shares, shares)
def test_whoever_has_the_candidate_keeps_it_as_its_share_grows(unit: bytes, one: float, other: float) -> None:
    low, high = sorted((one, other))
    before, now = (assign(Trial("r1", share), unit) for share in (low, high))
    if before[0] is Arm.CANDIDATE:
        assert now[0] is Arm.CANDIDATE
    assert before[1].unit == now[1].unit == place_of("r1", unit)[1]


@given(units, shares)
def test_the_propensity_is_that_of_the_arm(unit: bytes, share: float) -> None:
    arm, told = assign(Trial("r1", share), unit)
    assert told.arm == arm.word
    assert told.propensity == (share if arm is Arm.CANDIDATE else 1 - share)


def test_who_has_no_unit_has_the_incumbent_and_is_not_compared() -> None:
    arm, told = assign(Trial("r1", 0.999), None)
    assert (arm, told.unit, told.propensity) == (Arm.EXCLUDED, "", 1.0)


def test_shares_are_kept_and_rollouts_are_independent() -> None:
    units = [f"user-{number}".encode() for number in range(20_000)]
    first = [assign(Trial("r1", 0.1), unit)[0] for unit in units]
    second = [assign(Trial("r2", 0.1), unit)[0] for unit in units]
    assert abs(Counter(first)[Arm.CANDIDATE] / len(units) - 0.1) < 0.01
    both = sum(one is other is Arm.CANDIDATE for one, other in zip(first, second, strict=True))
    assert abs(both / len(units) - 0.01) < 0.004


def test_a_places_value_is_what_it_has_always_been() -> None:
    """Another hash would give users in the middle of a rollout another arm."""
    place, unit = place_of("0123456789ab", b"user-7")
    assert (round(place, 6), unit) == (0.009183, "397f79e3daae4fc4")


def test_a_unit_is_named_by_a_header_a_parameter_or_the_request() -> None:
    model, served = Model("onnx"), Served(())
    named = [Candidate("r1", model, served, 0.1, unit, 2) for unit in (Unit("X-User"), Unit("", "user"), None)]
    assert [trial_of(one) for one in named] == [
        Trial("r1", 0.1, 2, "x-user"),
        Trial("r1", 0.1, 2, "", "user"),
        Trial("r1", 0.1, 2),
    ]

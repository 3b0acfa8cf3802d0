"""Who is given which Version: the same for a unit everywhere and for ever, and in the shares that are declared."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.routing.assignment import Trial, carried, digest_of, place_of, token_of, trial_of
from servery.routing.assignment import assign as assign_digest
from servery.terms.change import Candidate, Served
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Assigned
from servery.terms.rollouts import Arm, RolloutPolicy, Unit


def assign(trial: Trial, unit: bytes | None, room: bool = True) -> tuple[Arm, Assigned]:
    return assign_digest(trial, None if unit is None else digest_of(trial.rollout, unit), room)


shares = st.floats(0.001, 0.999)
units = st.binary(max_size=40)


@given(units, shares, shares)
def test_whoever_has_the_candidate_keeps_it_as_its_share_grows(unit: bytes, one: float, other: float) -> None:
    low, high = sorted((one, other))
    before, now = (assign(Trial("r1", share), unit) for share in (low, high))
    if before[0] is Arm.CANDIDATE:
        assert now[0] is Arm.CANDIDATE
    assert before[1].unit == now[1].unit == digest_of("r1", unit)[8:].hex()


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
    digest = digest_of("0123456789ab", b"user-7")
    assert (round(place_of(digest), 6), digest[8:].hex()) == (0.009183, "397f79e3daae4fc4")


def test_a_unit_is_named_by_a_header_a_parameter_or_the_request() -> None:
    model, served = Model("onnx"), Served(())
    named = [Candidate("r1", model, served, 0.1, unit, 2) for unit in (Unit("X-User"), Unit("", "user"), None)]
    assert [trial_of(one) for one in named] == [
        Trial("r1", 0.1, 2, "x-user"),
        Trial("r1", 0.1, 2, "", "user"),
        Trial("r1", 0.1, 2),
    ]


@given(units, shares)
def test_who_is_mirrored_is_drawn_and_without_room_nobody_is_compared(unit: bytes, share: float) -> None:
    trial = Trial("r1", share, mirrors=True)
    with_room, without = (assign(trial, unit, room) for room in (True, False))
    assert (with_room[0], without[0]) in ((Arm.MIRRORED, Arm.DROPPED), (Arm.INCUMBENT, Arm.ASIDE))
    assert with_room[1].propensity == without[1].propensity == (share if with_room[0] is Arm.MIRRORED else 1 - share)
    assert assign(Trial("r1", share), unit)[0] is (Arm.CANDIDATE if with_room[0] is Arm.MIRRORED else Arm.INCUMBENT)
    assert {with_room[0], without[0]} <= set(trial.arms)


def test_a_switch_is_for_everybody_also_at_the_last_place() -> None:
    assert assign_digest(Trial("r1", 1.0), b"\xff" * 16)[0] is Arm.CANDIDATE
    assert assign_digest(Trial("r1", 0.0), b"\x00" * 16)[0] is Arm.INCUMBENT


def test_a_rollout_that_shadows_mirrors() -> None:
    shadow = Candidate("r1", Model("onnx", rollout=RolloutPolicy("shadow")), Served(()), 0.1)
    assert trial_of(shadow) == Trial("r1", 0.1, mirrors=True)


@given(units, st.binary(min_size=1, max_size=64))
def test_a_token_carries_a_place_and_no_other(unit: bytes, secret: bytes) -> None:
    digest = digest_of("r1", unit)
    token = token_of(secret, "r1", digest)
    assert carried(secret, f"{token_of(secret, 'r2', digest)}, {token}") == {"r1": digest, "r2": digest}
    for forged in (
        token.replace("r1.", "r2."),
        token_of(secret + b"x", "r1", digest),
        token[:-1] + ("0" if token[-1] != "0" else "1"),
        f"r1.{digest_of('r1', unit + b'x').hex()}.{token[-32:]}",
        "",
        "r1",
        token + "\n",
        "é" * 40,
    ):
        if forged.strip() != token:
            with pytest.raises(Refusal) as refused:
                carried(secret, forged)
            assert refused.value.reason is Reason.INVALID_REQUEST

"""Arms of an experiment: who gets which, in the declared shares, and what a Route is in each."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.gateway.arms import Arms
from servery.gateway.trials import Given, Said
from servery.routing.arms import Draw, draw, draw_of, segment_of
from servery.routing.assignment import digest_of
from servery.terms.experiments import (
    BEFORE,
    EXCLUDED,
    Arm,
    Design,
    Experiment,
    Metric,
    Segments,
    Stage,
    experiment_id,
    is_experiment,
    route_of,
)
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Assigned
from servery.terms.rollouts import Unit
from servery.terms.routes import Accept, Policy, Route, Tier

ROUTE = Route((Tier("cheap", "small", Accept(0.9), version="3"), Tier("dear", "large")), Policy("cascade"))
ARMS = (Arm("control", 0.2), Arm("bold", 0.5, accept={"cheap": 0.8}), Arm("other", 0.3, models={"cheap": "tiny"}))


def drawn(identity: str = "x01", unit: Unit | None = None) -> Draw:
    return draw_of(Experiment(identity, "try", Design("r", ARMS, Metric("errors", 0.01), unit=unit), 0))


def drawn_for(of: Draw, unit: bytes) -> tuple[int, Assigned]:
    return draw(of, digest_of(of.experiment, unit))


def test_units_are_shared_out_as_declared_and_keep_their_arm() -> None:
    of = drawn()
    given_ = [drawn_for(of, str(number).encode())[0] for number in range(10_000)]
    for at, arm in enumerate(ARMS):
        assert abs(given_.count(at) / 10_000 - arm.share) < 0.02
    assert given_ == [drawn_for(drawn(), str(number).encode())[0] for number in range(10_000)]
    others = [drawn_for(drawn("x02"), str(number).encode())[0] for number in range(10_000)]
    assert 0.3 < sum(one == other for one, other in zip(given_, others, strict=True)) / 10_000 < 0.46


@given(st.binary())
def test_what_is_recorded_is_the_arm_with_its_chance(unit: bytes) -> None:
    at, one = drawn_for(drawn(), unit)
    assert (one.rollout, one.arm, one.propensity) == ("x01", ARMS[at].name, ARMS[at].share)
    assert len(one.unit) == 16


def test_who_is_not_known_has_the_control_and_is_not_compared() -> None:
    assert draw(drawn(unit=Unit(header="X-User")), None) == (0, Assigned("x01", EXCLUDED, 1.0, ""))
    assert (drawn(unit=Unit(header="X-User")).header, drawn(unit=Unit(parameter="user")).parameter) == (
        "x-user",
        "user",
    )


def test_before_it_compares_everybody_has_the_control_and_is_known_by_the_same_name() -> None:
    experiment = Experiment("x01", "try", Design("r", ARMS, Metric("errors", 0.01)), 0, Stage.BEFORE)
    at, one = drawn_for(draw_of(experiment), b"ann")
    assert (at, one.arm, one.propensity) == (0, BEFORE, 1.0)
    assert one.unit == drawn_for(drawn(), b"ann")[1].unit


def asked(arms: Arms, **headers: str) -> Given:
    """What a Request is given that has these headers (`_` is written for `-`)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return arms.assigned(b"record", Said(named.get, {}.get))


def arms_of(identity: str = "x01", header: str = "x-user", secret: bytes = b"s" * 32) -> Arms:
    unit = Unit(header=header) if header else None
    return Arms(drawn(identity, unit), tuple(arm.name for arm in ARMS), secret)


def test_a_token_carries_a_units_arm_to_who_does_not_know_the_unit_and_the_units_own_name_goes_before_it() -> None:
    arms = arms_of()
    for user in map(str, range(50)):
        known = asked(arms, x_user=user)
        assert asked(arms, servery_arm=known.tokens) == known
        other = asked(arms, x_user=f"other {user}")
        assert asked(arms, x_user=f"other {user}", servery_arm=known.tokens) == other
    assert asked(arms).tokens == ""
    assert asked(arms).arms[0].arm == EXCLUDED


def test_a_token_of_another_experiment_is_ignored_and_one_that_nobody_gave_is_refused() -> None:
    arms, another = arms_of(), asked(arms_of("x02"), x_user="ann").tokens
    assert asked(arms, servery_arm=another).arms[0].arm == EXCLUDED
    own = asked(arms, x_user="ann").tokens
    assert asked(arms, servery_arm=f"{another},{own}") == asked(arms, x_user="ann")
    for forged in (asked(arms_of(secret=b"t" * 32), x_user="ann").tokens, own[:-32] + "0" * 32, "bold", ""):
        with pytest.raises(Refusal) as refused:
            asked(arms, servery_arm=forged)
        assert refused.value.reason is Reason.INVALID_REQUEST


def test_a_request_that_is_its_own_unit_is_given_no_token_and_needs_none() -> None:
    alone = arms_of(header="")
    assert asked(alone).tokens == ""
    assert asked(alone, servery_arm="whatever") == asked(alone)


def test_an_id_is_told_from_that_of_a_rollout() -> None:
    assert is_experiment(experiment_id("0123456789ab"))
    assert not is_experiment("0123456789ab")


def test_an_arm_is_the_route_but_for_what_it_says() -> None:
    assert route_of(ROUTE, ARMS[0]) == ROUTE
    bold, other = (route_of(ROUTE, arm) for arm in ARMS[1:])
    assert bold.tiers[0] == Tier("cheap", "small", Accept(0.8), version="3")
    assert other.tiers == (Tier("cheap", "tiny", Accept(0.9)), ROUTE.tiers[1])
    fixed = route_of(ROUTE, Arm("x", 0.1, policy=Policy("fixed"), tiers=(Tier("only", "large"),)))
    assert fixed == msgspec.structs.replace(ROUTE, policy=Policy("fixed"), tiers=(Tier("only", "large"),))
    scored = msgspec.structs.replace(ROUTE, policy=Policy("complexity", thresholds=(0.5,)))
    assert route_of(scored, Arm("x", 0.1, thresholds=(0.2,))).policy.thresholds == (0.2,)


def test_a_segment_is_what_the_request_says_and_other_where_it_says_anything_else() -> None:
    segments = Segments("X-Plan", ("free", "pro"))
    of = draw_of(Experiment("x1", "try", Design("r", ARMS, Metric("errors", 0.01), segments=segments), 0))
    assert of.segment == "x-plan"
    assert [segment_of(of, said) for said in ("pro", "Pro", "", None, "other")] == ["pro", *["other"] * 4]
    plain = draw_of(Experiment("x1", "try", Design("r", ARMS, Metric("errors", 0.01)), 0))
    assert segment_of(plain, "pro") == ""


def test_records_from_before_there_were_segments_are_read() -> None:
    old = msgspec.msgpack.encode(["x1", "new", 0.5, "unit", False, ""])
    assert msgspec.msgpack.decode(old, type=Assigned) == Assigned("x1", "new", 0.5, "unit")

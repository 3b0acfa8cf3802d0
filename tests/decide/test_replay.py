"""Which Records tell what another policy would have been worth, and which don't; and where it would go on otherwise."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lines import attempt, feedback, record
from servery.learning.recorded import COMPARED
from servery.learning.replay import Another, Measure, Replayed, replay
from servery.learning.ways import otherwise, unlike
from servery.routing.next import Kind, Plan, Step
from servery.terms.manifest import Manifest
from servery.terms.record import Assigned, Candidate, Choice, Feedback, Outcome, Record
from servery.terms.routes import Route

MODELS = {"cheap": "digits-cheap", "dear": "digits-dear"}
BOTH = (Candidate("cheap"), Candidate("dear"))
FIXED = Another(Plan(Kind.FIXED, (Step("cheap"), Step("dear"))), MODELS, MODELS)
BY_SCORE = Another(Plan(Kind.COMPLEXITY, FIXED.plan.steps), MODELS, MODELS, 0.0, (0.5,), lambda _: 0.7)


class Chunk(msgspec.Struct, frozen=True):
    records: list[Record]
    feedback: list[Feedback]


def told(first: str = "cheap", propensity: float = 0.5, candidates: Any = BOTH, **more: Any) -> Record:
    one = msgspec.structs.replace(attempt(first), choice=Choice(propensity, candidates))
    return record(one, route="chat", **more)


def found(another: Another, *records: Record, measure: Measure = Measure.COST, said: Any = None) -> Replayed:
    given = [] if said is None else [feedback(one, said, name="good") for one in records]
    return replay([Chunk(list(records), given)], another, measure, "good")


def test_by_hand() -> None:
    """`fixed` begins with cheap: a dear Record counts nothing, a cheap one twice."""
    value = found(FIXED, told(), told("dear"), told("dear"), told()).value
    assert value is not None
    assert value.ips.value == value.self_normalised.value == pytest.approx(700 / 1e6)
    value = found(
        BY_SCORE, told(), told("dear"), told("dear"), told(outcome=Outcome.FAILED), measure=Measure.ERRORS
    ).value
    assert value is not None
    assert (value.recorded.value, value.ips.value) == (0.25, 0)


LEFT_OUT = [
    (record(route="chat"), None, "had no choice between tiers"),
    (record(attempt("cheap"), route="chat"), None, "had no choice between tiers"),
    (told(candidates=(BOTH[0], Candidate("dear", "limit"))), None, "were over a limit, which narrows the choice"),
    (
        msgspec.structs.replace(told(), arms=(Assigned("r1", "candidate", 0.5, "u"),)),
        None,
        "were given the new version in a rollout",
    ),
    (told(), None, "have no such Feedback"),
    (told(), "maybe", "have Feedback that is no number, true or false"),
    (told(), float("inf"), "have Feedback that is no number, true or false"),
]


@pytest.mark.parametrize(("one", "said", "why"), LEFT_OUT)
def test_what_tells_nothing_is_left_out_and_counted(one: Record, said: Any, why: str) -> None:
    seen = found(FIXED, one, measure=Measure.FEEDBACK, said=said)
    assert (seen.usable, seen.left_out) == (0, {why: 1})
    assert seen.refusal == "no Record tells anything"


def test_another_model_under_the_tiers_name_is_another_choice() -> None:
    moved = msgspec.structs.replace(FIXED, before={**MODELS, "cheap": "older"})
    assert found(moved, told()).left_out == {"began at a model that the tier doesn't have now": 1}
    fresh = msgspec.structs.replace(FIXED, models={**MODELS, "cheap": "newer"})
    assert found(fresh, told(), told("dear")).unsupported == 2


def test_what_was_certain_supports_itself_alone() -> None:
    certain, drawn = told("cheap", 1.0), [told(), told("dear"), told("dear")]
    seen = found(BY_SCORE, certain, *drawn)  # it would ask the dear one
    assert (seen.usable, seen.unsupported) == (4, 1)
    seen = found(FIXED, certain, *drawn)
    assert (seen.usable, seen.unsupported) == (4, 0)
    assert "every choice was certain" in found(FIXED, certain, told("cheap", 1.0)).refusal
    assert "chooses nothing that was tried" in found(BY_SCORE, certain).refusal


def test_a_tier_that_could_not_be_asked_is_not_asked() -> None:
    """Of two tiers one is unfit: the choice was certain, and both policies make it."""
    narrow = told("cheap", 1.0, (BOTH[0], Candidate("dear", "context")))
    assert found(BY_SCORE, narrow, told(), told("dear")).unsupported == 0
    slow = told("dear", 0.5, (Candidate("cheap", "slow"), Candidate("dear", "slow")))
    assert found(BY_SCORE, slow, told()).unsupported == 0


def test_an_unknown_score_leaves_a_record_out() -> None:
    def unknown(_: Record) -> float | None:
        return None

    blind = msgspec.structs.replace(BY_SCORE, score=unknown)
    assert found(blind, told()).left_out == {"have no score by this policy, and no Content to compute it from": 1}


def test_a_static_policy_goes_by_the_tenant() -> None:
    picks = msgspec.structs.replace(FIXED, plan=Plan(Kind.STATIC, FIXED.plan.steps), picks={"acme": 1})
    value = found(picks, told(), told("dear"), told("dear", tenant="other"), told(tenant="other")).value
    assert value is not None
    assert value.effective == 2


def manifest(policy: Any = None, first: Any = None, **route: Any) -> Manifest:
    tiers = [{"name": "cheap", "model": "small", **(first or {})}, {"name": "dear", "model": "big"}]
    models = {name: {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": name}]} for name in ("small", "big")}
    declared = {"policy": policy or {"kind": "fixed"}, "tiers": tiers, **route}
    return msgspec.convert({"servery": 1, "models": models, "routes": {"chat": declared}}, Manifest)


def chat(**given: Any) -> Route:
    return manifest(**given).routes["chat"]


ACCEPT = {"accept": {"check": "logprob", "confidence": 0.8}}
WIDER = {"accept": {"check": "logprob", "confidence": 0.8, "range": [0.5, 0.9]}}
CASCADE = {"kind": "cascade"}


def test_other_checks_after_a_tier_are_another_way() -> None:
    assert list(otherwise(chat(), chat(first=ACCEPT))) == []  # `fixed` weighs no answers
    assert list(otherwise(chat(), chat(policy={"kind": "complexity", "thresholds": [0.5]}))) == []
    (said,) = otherwise(chat(), chat(policy=CASCADE, first=ACCEPT))
    assert "`logprob` at 0.8, then `dear`, where Records are of an answer that always stands" in said
    assert list(otherwise(chat(policy=CASCADE, first=ACCEPT), chat(policy=CASCADE, first=WIDER))) == []


def test_what_is_not_weighed_is_said() -> None:
    assert list(unlike(manifest(), manifest(), "chat")) == []
    retrying = manifest({"kind": "fixed", "retries": 3}, deadline_ms=500)
    assert [said.split(" is declared")[0] for said in unlike(manifest(), retrying, "chat")] == [
        "`retries`",
        "`deadline_ms`",
    ]
    (said,) = unlike(manifest(CASCADE), manifest(CASCADE, WIDER), "chat")
    assert "as they are declared" in said


def test_arms_of_experiments_are_other_policies_but_for_the_control() -> None:
    plain, other, earlier = (
        msgspec.structs.replace(told(), arms=(Assigned("x0123456789ab", arm, 0.5, "u"),))
        for arm in ("old", "new", "before")
    )
    controlled = msgspec.structs.replace(FIXED, controls=frozenset({("x0123456789ab", "old")}))
    seen = found(controlled, plain, other, earlier, told("dear"))
    assert (seen.usable, seen.left_out) == (3, {COMPARED: 1})
    assert found(FIXED, plain, told("dear")).usable == 1

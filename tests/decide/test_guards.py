"""Rollouts that could never be judged are refused, each with what to write instead."""

from __future__ import annotations

import pytest

from servery.control.guards import check_rollout
from servery.control.places import Places
from servery.terms.manifest import Model
from servery.terms.rollouts import Guard, RolloutPolicy, RolloutStep, Unit

STEPS = (RolloutStep(0.1), RolloutStep(0.5))
ERRORS = Guard("errors", 0.01)


def problems(policy: RolloutPolicy) -> list[str]:
    told = check_rollout("m", Model("onnx", rollout=policy), Places("servery.yaml"))
    return [f"{one.where}: {one.message}; {one.fix}" for one in told]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (RolloutPolicy("at-once", guards=()), "write `kind: canary`"),
        (RolloutPolicy("canary", guards=()), "nothing would ever stop"),
        (RolloutPolicy("canary", steps=STEPS[::-1]), "shares grow"),
        (RolloutPolicy("canary", steps=(RolloutStep(0.1, 0, 900, 300),)), "allow more, or bake for less"),
        (RolloutPolicy("canary", guards=(Guard("errors", 1.0),)), "tolerates a version that always fails"),
        (RolloutPolicy("canary", guards=(Guard("cost", 0.1),)), "most_usd"),
        (RolloutPolicy("canary", guards=(Guard("feedback", 0.1),)), "needs the `name`"),
        (RolloutPolicy("canary", guards=(Guard("feedback", 0.1, name="a", bounds=(1, 1)),)), "hold nothing"),
        (RolloutPolicy("canary", guards=(Guard("feedback", 0.1, name="a", within_s=1_000),)), "`within_s: 900`"),
        (RolloutPolicy("canary", guards=(Guard("feedback", 0.1, name="a", within_s=3_600),)), "`max_duration_s`"),
        (RolloutPolicy("canary", guards=(ERRORS, ERRORS)), "guards 0 and 1 watch the same"),
        (RolloutPolicy("canary", Unit("x", "y")), "a header or by a parameter"),
        (RolloutPolicy("canary", false_rollbacks=0.0), "can't be kept"),
    ],
)
def test_what_cannot_hold(policy: RolloutPolicy, said: str) -> None:
    (problem,) = problems(policy)
    assert said in problem


def test_what_can() -> None:
    label = Guard("feedback", 0.1, name="a", within_s=1_800)
    assert problems(RolloutPolicy("canary", Unit("x"), STEPS, (ERRORS, label))) == []
    assert problems(RolloutPolicy()) == []

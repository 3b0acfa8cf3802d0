"""The kinds of Rollouts: what each may declare, the steps that it has, what opens the next one, and what guards say of one Version alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from servery.control.absolute import Absolute
from servery.control.arrange import stepped
from servery.control.checks import Unfit, alike, prepared, problem
from servery.control.declare import declare
from servery.control.evidence import Draw, Seen, Totals
from servery.control.promote import moved
from servery.control.validate import validate
from servery.terms.change import Problem, Served, Version
from servery.terms.request import Called
from servery.terms.rollouts import Check, Guard, Looked, Phase, Rollout, RolloutPolicy, Verdict
from servery.terms.tensors import Signature, TensorSpec
from servery.terms.text import TokenPrice

NS = 10**9
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("word", "BYTES", (-1,))), (TensorSpec("y", "FP32", (-1,)),)
)
replace = msgspec.structs.replace


def problems_of(tmp_path: Path, rollout: str, declared: str = "") -> tuple[Problem, ...]:
    path = tmp_path / "servery.yaml"
    onnx = f"runtime: onnx\n    artifact: m.onnx\n    rollout: {rollout}"
    path.write_text(f"servery: 1\nmodels:\n  m:\n    {declared or onnx}\n")
    read = declare(path)
    if read.sound is None:
        return read.problems
    version = Version("m", "1", "d", "/a", signature=SIGNATURE, price=TokenPrice(1, 1))
    models = {name: Served((version,)) for name in read.sound.models}
    return (*read.problems, *validate(read.sound, models, read.places))


@pytest.mark.parametrize(
    "rollout",
    [
        "{kind: blue-green}",
        "{kind: canary, guards: [{metric: output, name: y, margin: 0.1, bounds: [-1, 1]}]}",
        "{kind: rolling}\n    replicas: 3",
        "{kind: shadow, guards: [{metric: agreement, margin: 0.1}, {metric: cost, margin: 0.1, most_usd: 1}]}",
        "{kind: shadow, mirror: {concurrency: 2, usd_per_hour: 0.5}, alike: {outputs: [y], within: 0.1}}",
        "{kind: blue-green, bake_s: 60, guards: [{metric: latency, margin: 1, most_ms: 50}]}",
        "{kind: blue-green, checks: [{inputs: {x: [[1, 2]], word: [a]}, outputs: {y: [3.5]}, within: 0.1}]}",
        "{kind: blue-green, checks: [{inputs: {x: [[1, 2, 3]], word: [a]}, refused: true}]}",
        "{kind: canary, checks: [{inputs: {x: [[1, 2]], word: [a]}, outputs: {y: [3.5]}}]}",
    ],
)
def test_what_holds_has_no_problems(tmp_path: Path, rollout: str) -> None:
    assert problems_of(tmp_path, rollout) == ()


@pytest.mark.parametrize(
    ("rollout", "where", "message"),
    [
        ("{kind: blue-gren}", "kind", "did you mean `blue-green`"),
        ("{kind: canary, bake_s: 5}", "bake_s", "does nothing where the kind is `canary`"),
        ("{kind: blue-green, steps: [{share: 0.1}]}", "steps", "it is for canary"),
        ("{kind: blue-green, unit: {header: x}}", "unit", "does nothing"),
        ("{kind: rolling}", "kind", "fewer than two"),
        ("{kind: shadow, unit: {header: x}}", "unit", "it is for canary and rolling"),
        ("{kind: canary, guards: [{metric: output, margin: 0.1}]}", "guards[0]", "needs its `name`"),
        ("{kind: canary, guards: [{metric: output, name: z, margin: 0.1}]}", "guards[0].name", "one of y"),
        ("{kind: canary, guards: [{metric: output, name: y, margin: 0.1, better: equal}]}", "guards[0].better", "`higher`"),
        ("{kind: blue-green, guards: [{metric: output, name: y, margin: 0.1}]}", "guards[0]", "can't be compared"),
        ("{kind: canary, share: 0.2}", "share", "it is for shadow"),
        ("{kind: shadow, guards: [{metric: feedback, margin: 0.1, name: label}]}", "guards[0]", "no caller gets"),
        ("{kind: canary, guards: [{metric: agreement, margin: 0.1}]}", "guards[0]", "write `kind: shadow`"),
        ("{kind: shadow, guards: [{metric: agreement, margin: 1}]}", "guards[0].margin", "never agree"),
        ("{kind: shadow, alike: {outputs: [z]}}", "alike.outputs[0]", "no output 'z'"),
        ("{kind: blue-green, bake_s: 60, max_duration_s: 5}", "max_duration_s", "can't be decided within 5 s"),
        ("{kind: blue-green, guards: [{metric: latency, margin: 1}]}", "guards[0]", "without `most_ms`"),
        ("{kind: blue-green, guards: [{metric: cost, margin: 1, most_usd: 1}]}", "guards[0]", "can't be compared"),
        ("{kind: canary, steps: [{share: 0}]}", "steps[0].share", "compares nothing"),
        ("{kind: canary, steps: [{share: 1}]}", "steps[0].share", "compares nothing"),
        ("{kind: blue-green, checks: [{inputs: {x: [[1, 2]], word: [a]}}]}", "checks[0]", "passes always"),
        ("{kind: blue-green, checks: [{inputs: {x: [[1, 2]]}, outputs: {y: [1]}}]}", "checks[0].inputs", "'word'"),
        ("{kind: blue-green, checks: [{inputs: {x: [[1]], word: [a]}, outputs: {y: [1]}}]}", "checks[0].inputs", "[-1, 2]"),
        ("{kind: blue-green, checks: [{inputs: {x: [[1, 2]], word: [a]}, outputs: {z: [1]}}]}", "checks[0].outputs", "no output 'z'"),
        ("{kind: blue-green, checks: [{inputs: {x: [[1, {}]], word: [a]}, outputs: {y: [1]}}]}", "checks[0].inputs.x[0][1]", "can't be a mapping"),
        ("{kind: blue-green, checks: [{inputs: {x: [[1, a]], word: [a]}, outputs: {y: [1]}}]}", "checks[0].inputs", "Expected `float`"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_told_where_it_stands(tmp_path: Path, rollout: str, where: str, message: str) -> None:
    found = problems_of(tmp_path, rollout)
    assert [one.where for one in found] == [f"models.m.rollout.{where}"], found
    assert message in str(found[0])
    assert found[0].line == 6
    assert found[0].fix


MIRROR = "mirror: {usd_per_hour: 1}"


@pytest.mark.parametrize(
    ("rollout", "where", "message"),
    [
        (f"{{kind: shadow, {MIRROR}}}", "", ""),
        (f"{{kind: shadow, {MIRROR}, guards: [{{metric: agreement, margin: 0.1}}]}}", "", ""),
        ("{kind: shadow}", "", "write such as `mirror: {usd_per_hour: 2}`"),
        (f"{{kind: shadow, {MIRROR}, alike: {{within: 0.1}}}}", ".alike", "is about tensors"),
    ],
)
def test_a_language_model_is_mirrored_for_so_much_an_hour(
    tmp_path: Path, rollout: str, where: str, message: str
) -> None:
    declared = f"runtime: openai\n    endpoint: http://x/v1\n    rollout: {rollout}"
    found = problems_of(tmp_path, rollout, declared=declared)
    assert [(one.where, message in str(one)) for one in found] == (
        [(f"models.m.rollout{where}", True)] if message else []
    )


def begun(policy: RolloutPolicy) -> Rollout:
    return Rollout("r1", "m", "old", "new", "new", stepped(policy), 0)


def look(guard: str, verdict: Verdict) -> Looked:
    return Looked(guard, verdict, 0, 0, 0, 1, 1, f"{guard} {verdict.value}")


READY, NOT_READY = look("capacity", Verdict.NO_DIFFERENCE), look("capacity", Verdict.NOT_YET)
WRONG = look("checks", Verdict.WORSE)
GOOD, OPEN, BROKEN = (look("errors", one) for one in (Verdict.NO_DIFFERENCE, Verdict.NOT_YET, Verdict.WORSE))


def test_blue_green_is_checked_then_switched_then_baked_and_only_then_stays() -> None:
    one = begun(RolloutPolicy("blue-green", bake_s=60, min_requests=10))
    assert (one.share, one.gated) == (0.0, True)
    assert moved(one, (), 0, NS, (NOT_READY,)) == one
    assert moved(one, (), 0, NS, (WRONG, READY)).phase is Phase.ROLLED_BACK
    switched = moved(one, (), 0, NS, (READY,))
    assert (switched.share, switched.gated, switched.phase) == (1.0, False, Phase.RUNNING)
    assert moved(switched, (GOOD,), 10, 60 * NS, (READY,)) == switched  # it bakes
    assert moved(switched, (GOOD,), 9, 62 * NS, (READY,)) == switched  # too few calls
    assert moved(switched, (OPEN,), 10, 62 * NS, (READY,)) == switched  # no data is no pass
    assert moved(switched, (GOOD,), 10, 62 * NS, (NOT_READY,)) == switched  # a part of it has died
    assert moved(switched, (BROKEN,), 10, 2 * NS, (READY,)).phase is Phase.ROLLED_BACK
    assert moved(switched, (GOOD,), 10, 62 * NS, (READY,)).phase is Phase.PROMOTED
    assert moved(switched, (OPEN,), 10, 3_700 * NS, (READY,)).phase is Phase.HELD


def test_a_canary_is_promoted_only_while_all_of_its_copies_are_ready() -> None:
    last = replace(begun(RolloutPolicy("canary")), step=2)
    assert moved(last, (GOOD,), 1_000, 61 * NS, (NOT_READY,)) == last
    assert moved(last, (GOOD,), 1_000, 61 * NS, (READY,)).phase is Phase.PROMOTED


def judged(errors: int, calls: int, ms: float, *guards: Guard) -> list[Verdict]:
    totals = Totals(calls, calls, errors)
    for _ in range(calls - errors):
        totals.times.add(round(ms * 1e6))
    judge = Absolute(RolloutPolicy("blue-green", guards=guards))
    return [one.verdict for one in judge.look({Draw(1): Seen(Totals(), totals)})]


ERRORS, LATENCY = Guard("errors", 0.05), Guard("latency", 1, 0.9, most_ms=50)


@pytest.mark.parametrize(
    ("errors", "calls", "ms", "verdicts"),
    [
        (0, 0, 1, [Verdict.NOT_YET, Verdict.NOT_YET]),  # no data is no good news
        (0, 1_000, 10, [Verdict.NO_DIFFERENCE, Verdict.NO_DIFFERENCE]),
        (200, 1_000, 10, [Verdict.WORSE, Verdict.NO_DIFFERENCE]),
        (0, 1_000, 80, [Verdict.NO_DIFFERENCE, Verdict.WORSE]),
        (1, 20, 10, [Verdict.NOT_YET, Verdict.NOT_YET]),
    ],
)
def test_what_stands_alone_is_held_against_what_is_declared(
    errors: int, calls: int, ms: float, verdicts: list[Verdict]
) -> None:
    assert judged(errors, calls, ms, ERRORS, LATENCY) == verdicts


def test_a_version_at_its_bound_is_seldom_rolled_back_though_it_is_looked_at_again_and_again() -> None:
    draw, alarms = np.random.default_rng(5), 0
    for _ in range(100):
        errors = np.cumsum(draw.random(400) < 0.05)
        judge = Absolute(RolloutPolicy("blue-green", guards=(ERRORS,), false_rollbacks=0.05))
        looks = (judge.look({Draw(1): Seen(Totals(), Totals(n, n, int(errors[n - 1])))})[0] for n in range(40, 401, 40))
        alarms += any(one.verdict is Verdict.WORSE for one in looks)
    assert alarms <= 12  # of 100; at 5 % three in a thousand such trials have more


def answer(**outputs: Any) -> Called:
    return Called({name: np.array(value, np.float32) for name, value in outputs.items()}, 1)


def test_a_check_says_what_is_not_as_it_must_be() -> None:
    check = prepared(Check({"x": [[1, 2]], "word": ["a"]}, {"y": [3.5]}, 0.1), SIGNATURE)
    assert (check.rows, check.feeds["word"].tolist()) == (1, [b"a"])
    assert problem(check, answer(y=[3.55])) == ""
    assert problem(check, answer(y=[3.7])).startswith("y is [3.7")
    assert problem(check, answer(y=[[3.5]])) == "y is [[3.5]], not [3.5] within 0.1"
    assert problem(check, answer()) == "it gave no output 'y'"
    assert problem(check, Called({}, 1, "model_failed", "oh")) == "model_failed: oh"
    refused = replace(check, refused=True)
    assert problem(refused, answer(y=[3.5])) == "it wasn't refused as invalid"
    assert problem(refused, Called({}, 1, "invalid_request", "")) == ""
    with pytest.raises(Unfit, match="different numbers of rows"):
        prepared(Check({"x": [[1, 2]], "word": ["a", "b"]}, {"y": [1]}), SIGNATURE)


def test_outputs_are_alike_in_shape_texts_and_numbers() -> None:
    assert alike(np.array([1.0, np.nan]), np.array([1.05, np.nan]), 0.1)
    assert not alike(np.array([1.0]), np.array([1.2]), 0.1)
    assert not alike(np.array([1.0]), np.array([[1.0]]), 1)
    assert alike(np.array([b"a"], object), np.array([b"a"], object), 0)
    assert not alike(np.array([True]), np.array([False]), 5)


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        # share, whether it only waits, Replicas of the old and of the new
        ((2, 2), [(0, True, 2, 1), (0.5, False, 1, 1), (0.5, True, 1, 2)]),
        (
            (3, 3),
            [(0, True, 3, 1), (1 / 3, False, 2, 1), (1 / 3, True, 2, 2), (2 / 3, False, 1, 2), (2 / 3, True, 1, 3)],
        ),
        ((1, 2), [(0, True, 1, 1), (0.5, False, 1, 1), (0.5, True, 1, 2)]),
        ((4, 2), [(0, True, 4, 1), (0.25, False, 3, 1), (0.25, True, 3, 2)]),
    ],
)
def test_replicas_are_replaced_one_by_one_and_none_goes_before_the_next_is_ready(
    replicas: tuple[int, int], expected: list[tuple[float, bool, int, int]]
) -> None:
    policy = stepped(RolloutPolicy("rolling", min_requests=5, bake_s=9), replicas)
    first = Rollout("r1", "m", "old", "new", "new", policy, 0, replicas=replicas)
    steps = [replace(first, step=step) for step in range(len(policy.steps))]
    assert [(one.share, one.gated, *one.running) for one in steps] == expected
    for one in steps:
        ready = sum(one.running) - (1 if one.gated else 0)  # one that starts isn't ready yet
        assert ready >= min(replicas)
        assert (policy.steps[one.step].min_requests, policy.steps[one.step].bake_s) == ((0, 0) if one.gated else (5, 9))
    assert moved(steps[-1], (), 0, NS, (READY,)).phase is Phase.PROMOTED


def test_a_rolling_version_that_is_worse_goes_at_any_step() -> None:
    policy = stepped(RolloutPolicy("rolling"), (3, 3))
    for step in range(1, 5):
        one = Rollout("r1", "m", "old", "new", "new", policy, 0, step=step, replicas=(3, 3))
        assert moved(one, (BROKEN,), 0, NS, (READY,)).phase is Phase.ROLLED_BACK


def test_what_shadows_waits_for_a_person_where_that_is_declared() -> None:
    one = begun(RolloutPolicy("shadow", min_requests=0, bake_s=0, when_passed="wait"))
    held = moved(one, (GOOD,), 9, NS, (READY,))
    assert (held.phase, held.share) == (Phase.HELD, 0.1)
    assert "promoted by hand" in held.why
    assert moved(held, (GOOD,), 10, 2 * NS, (READY,)) == held
    assert moved(held, (BROKEN,), 10, 2 * NS, (READY,)).phase is Phase.ROLLED_BACK
    assert moved(begun(RolloutPolicy("shadow", min_requests=0, bake_s=0)), (GOOD,), 9, NS).phase is Phase.PROMOTED

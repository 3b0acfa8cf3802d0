"""Where each request is a unit, bounds need no limit: they say something from the first requests on, and keep what they have seen."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from servery.control.exact import Exact, key
from servery.control.experiments import Evidence, Kept, compared
from servery.stats.asymptotic import UnitSums
from servery.terms.experiments import Arm, Design, Looked, Metric
from servery.terms.rollouts import Unit, Verdict

ERRORS = Metric("errors", 0.02)
SCORE = Metric("feedback", 0.5, name="score", bounds=(1.0, 5.0))
ARMS = (Arm("old", 0.5), Arm("new", 0.3), Arm("odd", 0.2))
DESIGN = Design("r", ARMS, ERRORS, guardrails=(SCORE,))


def sums(x: Sequence[float]) -> UnitSums:
    """Of requests that are units: each has one value."""
    values = np.asarray(x, float)
    total = float(values.sum())
    return UnitSums(len(x), total, len(x), 0, float(values @ values), len(x), 0, total)


def evidence(errors: Sequence[Sequence[float]], scores: Sequence[Sequence[float]] = ((), (), ())) -> Evidence:
    of = [{arm.name: sums(x) for arm, x in zip(ARMS, each, strict=True)} for each in (errors, scores)]
    return Evidence({arm.name: (len(x), len(x)) for arm, x in zip(ARMS, errors, strict=True)}, of)


def look(design: Design, looks: Sequence[Evidence]) -> tuple[Kept, dict[tuple[str, str], Looked]]:
    kept, found = Kept(), ()
    for one in looks:
        kept, found, _ = compared(design, one, kept)
    return kept, {(one.arm, one.metric): one for one in found}


def test_an_arm_that_always_fails_is_worse_after_a_few_requests() -> None:
    _, found = look(DESIGN, [evidence(([0] * 50, [1] * 30, [0] * 20))])
    assert found["new", "errors"].verdict is Verdict.WORSE
    assert found["odd", "errors"].verdict is Verdict.NOT_YET
    assert found["new", "feedback score"].verdict is Verdict.NOT_YET
    by_users = msgspec.structs.replace(DESIGN, unit=Unit(header="x-user"))
    assert look(by_users, [evidence(([0] * 50, [1] * 30, [0] * 20))])[1]["new", "errors"].verdict is Verdict.NOT_YET


def test_higher_scores_are_better_and_within_the_margin_a_guardrail_passes() -> None:
    draws = np.random.default_rng(2)
    old, new, odd = (
        (draws.choice(5, 4000, p=p) + 1.0).tolist()
        for p in ([0.2] * 5, [0.1, 0.1, 0.2, 0.3, 0.3], [0.5, 0.2, 0.1, 0.1, 0.1])
    )
    _, found = look(DESIGN, [evidence(([0] * 4000,) * 3, (old, new, odd))])
    assert found["new", "feedback score"].verdict is Verdict.BETTER
    assert found["odd", "feedback score"].verdict is Verdict.WORSE


def test_what_was_seen_counts_once_and_comes_back_after_a_restart() -> None:
    some, more = (
        evidence(([0] * 500, [1] * 20 + [0] * 280, [0] * 200)),
        evidence(([0] * 900, [1] * 35 + [0] * 500, [0] * 350)),
    )
    twice, once = look(DESIGN, [some, some, more, more])[1], look(DESIGN, [some, more])[1]
    assert twice == once
    kept, _ = look(DESIGN, [some])
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=Kept)
    assert compared(DESIGN, more, decoded) == compared(DESIGN, more, kept)


def test_a_correction_waits_for_what_comes_next() -> None:
    before = evidence(([0] * 9, [1] * 9, [0] * 9), ([5.0] * 9, [5.0] * 9, []))
    corrected = evidence(([0] * 9, [1] * 9, [0] * 9), ([5.0] * 9, [1.0] * 9, []))
    kept, _, _ = compared(DESIGN, before, Kept())
    of = key("new", SCORE)
    then, now = (
        msgspec.msgpack.decode(one.exact, type=Exact)[of] for one in (kept, compared(DESIGN, corrected, kept)[0])
    )
    assert then == now


def test_without_a_difference_hardly_anybody_wins_over_many_looks() -> None:
    draws, wrong = np.random.default_rng(3), 0
    for _ in range(20):
        x = draws.random(4000) < 0.05
        arm = draws.choice(3, 4000, p=[arm.share for arm in ARMS])
        looks = [
            evidence([x[:n][arm[:n] == at].astype(float).tolist() for at in range(3)]) for n in range(200, 4001, 200)
        ]
        kept, decided = Kept(), False
        for one in looks:
            kept, found, _ = compared(DESIGN, one, kept)
            decided |= any(each.verdict in (Verdict.WORSE, Verdict.BETTER) for each in found)
        wrong += decided
    assert wrong <= 3

"""What the windows of a Rollout say: each arm by its draw, and Feedback at one age."""

from __future__ import annotations

from servery.control.evidence import Draw, Totals, calls_of
from servery.control.observe import Observer
from servery.store.facts import Key as FactKey
from servery.store.windows import Key, Sums
from servery.terms.folds import Told
from servery.terms.rollouts import AGAIN, Arm, Guard, RolloutPolicy, RolloutStep, Unit, after

LABEL = Guard("feedback", 0.05, name="label", within_s=300)
POLICY = RolloutPolicy("canary", Unit("x-user"), (RolloutStep(0.2), RolloutStep(0.5)), (LABEL,))


class Kept:
    """A ledger that holds these windows."""

    def __init__(self, windows: list[tuple[Key, Sums]], told: list[tuple[FactKey, Told]]) -> None:
        self._windows = [(*one, at) for at, one in enumerate(windows, 1)]
        self._told = [(*one, at) for at, one in enumerate(told, 1)]

    def windows(self, arms: tuple[str, ...], stamp: int = 0) -> list[tuple[Key, Sums, int]]:
        return [one for one in self._windows if one[0][-2] in arms and one[2] > stamp]

    def told(self, arms: tuple[str, ...], stamp: int = 0) -> list[tuple[FactKey, Told, int]]:
        return [one for one in self._told if one[0][1] in arms and one[2] > stamp]

    def before(self, model: str, version: str, since_s: int) -> list[tuple[Key, Sums]]:
        return []


def window(arm: str, n: int, outcome: str = "served", reason: str = "") -> tuple[Key, Sums]:
    return (60, 0, "route", "m", "v", "serve", reason, arm, outcome), Sums(n, n)


def test_arms_are_told_apart_by_how_they_were_drawn() -> None:
    candidate = Arm.CANDIDATE
    windows = [
        window(candidate.told("r", 0), 5),
        window(candidate.told("r", 0), 2, "failed", "model_failed"),
        window(candidate.told("r", 0), 3, "abandoned", "caller_left"),
        window(candidate.told("r", 0, AGAIN), 40),
        window(candidate.told("r", 1), 7),
        window(candidate.told("r", 1, after(0)), 11),
        window(Arm.INCUMBENT.told("r", 1, after(0)), 9),
        window(Arm.INCUMBENT.told("r", 1, AGAIN), 30),
        window(Arm.EXCLUDED.told("r", 1), 4),
        window(candidate.told("another", 0), 99),
    ]
    evidence = Observer("r", POLICY).look(Kept(windows, []), 0)
    assert list(evidence) == [Draw(0), Draw(1), Draw(1, 0)]
    first, second, drawn = evidence.values()
    assert (first.candidate.requests, first.candidate.calls, first.candidate.errors) == (10, 7, 2)
    assert (first.again, second.again, second.excluded) == ((0, 40), (30, 0), 4)
    assert (drawn.incumbent.calls, drawn.candidate.calls) == (9, 11)
    assert calls_of(evidence) == 7 + 40 + 7 + 11
    assert Draw(1).share(POLICY) == 0.5
    assert abs(Draw(1, 0).share(POLICY) - 3 / 8) < 1e-12


def test_feedback_counts_at_one_age() -> None:
    """Of calls that are five minutes old, what was told within five minutes."""
    arm = Arm.CANDIDATE.told("r", 0)
    told = [((start, arm, "label", within), Told(1, 1.0, 1.0, 1.0, 1.0)) for start, within in (
        (0, 60), (0, 300), (0, 900), (0, 0), (600, 60))]  # fmt: skip
    observer = Observer("r", POLICY)

    def seen(now_s: float) -> int:
        evidence = observer.look(Kept([], told), now_s)
        return evidence[Draw(0)].candidate.told["label"].n if evidence else 0

    assert [seen(now) for now in (359, 360, 959, 960, 10_000)] == [0, 2, 2, 3, 3]


def test_without_an_age_all_that_was_told_counts() -> None:
    policy = RolloutPolicy("canary", None, (RolloutStep(0.2),), (Guard("feedback", 0.05, name="label"),))
    arm = Arm.INCUMBENT.told("r", 0)
    told = [((0, arm, "label", within), Told(1, 1.0, 1.0, 1.0, 1.0)) for within in (60, 0)]
    evidence = Observer("r", policy).look(Kept([], told), 1)
    assert evidence[Draw(0)].incumbent.told["label"].n == 2
    assert evidence[Draw(0)].candidate == Totals()

"""Rollouts of known harm on a virtual clock, judged and moved on by the code that does it in production, at every window.

A family is a metric with its guard: how calls turn out in each arm when the candidate does a certain harm. Harms are told in margins:
0 is none, 1 is exactly the guard's margin.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from servery.control.evidence import Draw, Seen, Totals, calls_of
from servery.control.judge import Judge
from servery.control.observe import Observer
from servery.control.promote import moved
from servery.stats.sketch import LIMIT, TOP, Sketch
from servery.store.facts import Key as FactKey
from servery.store.windows import Key, Sums
from servery.terms.folds import Told
from servery.terms.rollouts import Arm, Guard, Phase, Rollout, RolloutPolicy, RolloutStep

NS = 10**9
MINUTE_S = 60
Draws = np.random.Generator
Values = NDArray[np.float64]


class Family(Protocol):
    """A metric. `calls` is how many calls each window has on average."""

    @property
    def name(self) -> str: ...
    @property
    def guard(self) -> Guard: ...
    @property
    def calls(self) -> int: ...
    def call(self, totals: Totals, draws: Draws, harm: float, n: int) -> None:
        """So many calls more, of an arm that does this harm."""
        ...


class Errors(NamedTuple):
    """Calls that fail with a fixed chance."""

    name: str = "errors: 1 %, margin 1 %"
    guard: Guard = Guard("errors", 0.01)
    base: float = 0.01
    calls: int = 400

    def call(self, totals: Totals, draws: Draws, harm: float, n: int) -> None:
        totals.errors += int(draws.binomial(n, self.base + harm * self.guard.margin))


class Latency(NamedTuple):
    """Calls whose times have a Pareto tail, or are lognormal; the candidate's are the incumbent's, stretched."""

    name: str = "latency: p95, Pareto tail 1.5, margin 25 %"
    guard: Guard = Guard("latency", 0.25, 0.95)
    tail: float = 1.5
    calls: int = 400

    def call(self, totals: Totals, draws: Draws, harm: float, n: int) -> None:
        logs = draws.exponential(1 / self.tail, n) if self.tail else draws.normal(0, 1.5, n)
        totals.times.merge(sketch_of(np.exp(17 + logs) * (1 + harm * self.guard.margin)))


class Cost(NamedTuple):
    """Dollars a row, cut off at a cap: small ones, and one in twenty from a Pareto tail of 1.2."""

    name: str = "cost: capped Pareto tail 1.2, margin 25 %"
    guard: Guard = Guard("cost", 0.25, most_usd=0.001)
    calls: int = 600

    def call(self, totals: Totals, draws: Draws, harm: float, n: int) -> None:
        totals.prices.merge(sketch_of(1e9 * self.values(draws, harm, n)))
        totals.priced = None

    def values(self, draws: Draws, harm: float, n: int) -> Values:
        """In parts of the cap. The candidate's mean is 1 + harm · margin times the incumbent's: it has more of the dear ones."""
        mean, small = self._mean(1.0), self._mean(0.0)
        spikes = 0.05 + harm * self.guard.margin * self._mean(0.05) / (mean - small)
        dear = draws.random(n) < spikes
        return np.where(dear, np.minimum(0.1 * draws.random(n) ** (-1 / 1.2), 1.0), 0.02 * draws.random(n))

    def _mean(self, spikes: float) -> float:
        spike = 0.1 + 0.1**1.2 * (1 - 0.1**-0.2) / -0.2
        return spikes * spike + (1 - spikes) * 0.01


class Quality(NamedTuple):
    """Scores from 0 to 1 that scatter little, told at once."""

    name: str = "quality: 0.8 ± 0.1, margin 0.01"
    guard: Guard = Guard("feedback", 0.01, name="score")
    calls: int = 150

    def call(self, totals: Totals, draws: Draws, harm: float, n: int) -> None:
        mean = 0.8 - harm * self.guard.margin
        values = draws.beta(15 * mean, 15 * (1 - mean), n)
        told = Told(n, float(values.sum()), float(values @ values), 0.0, 1.0)
        totals.told.setdefault("score", Told()).merge(told)


class Labels(NamedTuple):
    """Labels come for three in ten calls, those of wrong answers sooner: what counts is what was known after five minutes.

    The harm is that in the share of wrong ones among those that are labelled by then.
    """

    name: str = "late labels: 10 % wrong, margin 3 %, at an age of 5 min"
    guard: Guard = Guard("feedback", 0.03, name="label", better="equal", within_s=300)
    base: float = 0.1
    calls: int = 800
    age_s: int = 300  # at which the harm is what it is declared to be

    def told(self, draws: Draws, harm: float, n: int) -> dict[int, tuple[int, int]]:
        """Of n calls: the labels, right and wrong ones, by the minute after the call in which they come."""
        wrong = int(draws.binomial(n, self._wrong(self.base + harm * self.guard.margin)))
        found: dict[int, tuple[int, int]] = {}
        for place, (size, mean) in enumerate(((n - wrong, 6.0), (wrong, 2.0))):
            minutes = np.ceil(draws.exponential(mean, int(draws.binomial(size, 0.3)))).astype(int)
            for minute, count in zip(*np.unique(minutes, return_counts=True), strict=True):
                both = list(found.get(int(minute), (0, 0)))
                both[place] = int(count)
                found[int(minute)] = (both[0], both[1])
        return found

    def call(self, totals: Totals, draws: Draws, harm: float, n: int) -> None:
        """As it is known in the end."""
        told = [both for minute, both in self.told(draws, harm, n).items() if minute * MINUTE_S <= self.age_s]
        right, wrong = (sum(both[place] for both in told) for place in (0, 1))
        totals.told.setdefault("label", Told()).merge(Told(judged=right + wrong, right=right))

    def _wrong(self, labelled: float) -> float:
        """The share of wrong ones among all, from that among those labelled by the age."""
        late, soon = (1 - math.exp(-self.age_s / MINUTE_S / mean) for mean in (6.0, 2.0))
        return labelled * late / (labelled * late + (1 - labelled) * soon)


FAMILIES: tuple[Family, ...] = (Errors(), Latency(), Cost(), Labels())
AS_THEY_COME = Labels("labels as they come: wrong ones sooner", Guard("feedback", 0.03, name="label", better="equal"))


class Ended(NamedTuple):
    """How a world ended, and after how many windows."""

    phase: Phase
    windows: int


STEPS = (RolloutStep(0.2, 100, 10 * MINUTE_S, 10**7), RolloutStep(0.5, 200, 10 * MINUTE_S, 10**7))


def world(family: Family, harm: float, seed: int, windows: int = 30, steps: tuple[RolloutStep, ...] = STEPS) -> Ended:
    """One Rollout with this family's guard, looked at after each window of a minute, until it is over."""
    draws = np.random.default_rng((seed, round(1000 * harm), len(family.name)))
    policy = RolloutPolicy("canary", None, steps, (family.guard,))
    judge, rollout = Judge(policy), Rollout("r", "m", "old", "new", "new", policy, 0)
    before = Totals(1_000, 1_000)
    family.call(before, draws, 0.0, 1_000)
    judge.learn(before)
    arrives = Arrivals(family, policy) if isinstance(family, Labels) else Folded(family)
    for window in range(1, windows + 1):
        n = int(draws.poisson(family.calls))
        exposed = int(draws.binomial(n, rollout.share))
        evidence = arrives.after(draws, rollout.step, window, harm, n - exposed, exposed)
        rollout = moved(rollout, judge.look(evidence), calls_of(evidence), window * MINUTE_S * NS)
        if rollout.phase.over:
            return Ended(rollout.phase, window)
    return Ended(rollout.phase, windows)


class Folded:
    """Evidence of what is known at once."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._seen: dict[Draw, Seen] = {}

    def after(
        self, draws: Draws, step: int, window: int, harm: float, incumbents: int, candidates: int
    ) -> dict[Draw, Seen]:
        """After one window more."""
        seen = self._seen.setdefault(Draw(step), Seen(Totals(), Totals()))
        for totals, of, n in ((seen.incumbent, 0.0, incumbents), (seen.candidate, harm, candidates)):
            totals.requests += n
            totals.calls += n
            self._family.call(totals, draws, of, n)
        return self._seen


class Arrivals:
    """Evidence of labels that come late, by way of the Observer."""

    def __init__(self, family: Labels, policy: RolloutPolicy) -> None:
        self._family = family
        self._observer = Observer("r", policy)
        self._calls: dict[str, tuple[Key, Sums, int]] = {}
        self._facts: dict[FactKey, tuple[FactKey, Told, int]] = {}
        self._later: dict[int, list[tuple[FactKey, Told]]] = {}
        self._stamp = 0

    def after(
        self, draws: Draws, step: int, window: int, harm: float, incumbents: int, candidates: int
    ) -> dict[Draw, Seen]:
        """After one window more."""
        self._stamp = window
        for arm, of, n in ((Arm.INCUMBENT, 0.0, incumbents), (Arm.CANDIDATE, harm, candidates)):
            told = arm.told("r", step)
            sums = self._calls[told][1] if told in self._calls else Sums()
            self._calls[told] = (
                (60, 0, "", "m", "", "serve", "", told, "served"),
                Sums(sums.n + n, sums.rows + n),
                window,
            )
            for minute, (right, wrong) in self._family.told(draws, of, n).items():
                within = next((age for age in (60, 300, 900) if minute * MINUTE_S <= age), 0)
                fact = ((window * MINUTE_S, told, "label", within), Told(judged=right + wrong, right=right))
                self._later.setdefault(window + minute, []).append(fact)
        for key, told in self._later.pop(window, []):
            if key in self._facts:
                told.merge(self._facts[key][1])
            self._facts[key] = (key, told, window)
        return dict(self._observer.look(self, window * MINUTE_S))

    def windows(self, arms: tuple[str, ...], stamp: int = 0) -> list[tuple[Key, Sums, int]]:
        return [one for one in self._calls.values() if one[2] > stamp]

    def told(self, arms: tuple[str, ...], stamp: int = 0) -> list[tuple[FactKey, Told, int]]:
        return [one for one in self._facts.values() if one[2] > stamp]

    def before(self, model: str, version: str, since_s: int) -> list[tuple[Key, Sums]]:
        return []


_EXACT = math.log(LIMIT) / TOP / math.log(1.01 / 0.99)


def sketch_of(values: Values) -> Sketch:
    """As if each had been added."""
    scaled = np.ceil(np.log(np.clip(values, 1, LIMIT)) * (TOP / math.log(LIMIT)) * _EXACT)
    found, counts = np.unique(scaled.astype(np.int64), return_counts=True)
    sketch = Sketch()
    sketch._bins = dict(zip(found.tolist(), counts.tolist(), strict=True))
    return sketch

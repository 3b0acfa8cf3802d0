"""Streams of two arms whose harm is known, window by window, and what watching them all the time finds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from servery.stats.mean_harm import MeanHarm
from servery.stats.power import Plan, fixed_n, fixed_n_of_share, quantile_variance
from servery.stats.quantile_harm import QuantileHarm
from servery.stats.risk import binomial_cdf
from servery.stats.sketch import LIMIT, TOP, Sketch
from servery.stats.windows import Sums, Window, hits

Draws = np.random.Generator
Values = NDArray[np.float64]
Harm = MeanHarm | QuantileHarm


class Sketches(NamedTuple):
    """A window of a metric that is judged by a quantile."""

    share: float
    incumbent: Sketch
    candidate: Sketch


Drawn = Window | Sketches


class Stream(Protocol):
    """A metric with a margin. `harm` is in the units of the sequence that watches it."""

    @property
    def name(self) -> str: ...
    @property
    def margin(self) -> float: ...
    def begin(self, draws: Draws) -> Harm: ...
    def drawn(self, draws: Draws, harm: float, n: int, share: float) -> Drawn:
        """A window of n observations."""
        ...

    def fixed_n(self, plan: Plan, harm: float) -> float:
        """Observations for one look at the end that finds this harm above or below the margin."""
        ...


class Errors(NamedTuple):
    """Attempts that fail with a fixed chance."""

    base: float
    margin: float

    @property
    def name(self) -> str:
        return f"errors, {100 * self.base:g} %, margin {100 * self.margin:g} %"

    def begin(self, draws: Draws) -> Harm:
        return MeanHarm(self.margin)

    def drawn(self, draws: Draws, harm: float, n: int, share: float) -> Window:
        b = int(draws.binomial(n, share))
        failed = int(draws.binomial(n - b, self.base)), int(draws.binomial(b, self.base + harm))
        return Window(share, hits(failed[0], n - b), hits(failed[1], b))

    def fixed_n(self, plan: Plan, harm: float) -> float:
        return fixed_n_of_share(plan, self.base, harm, self.margin)


class Cost(NamedTuple):
    """Dollars an inference, cut off at a cap of 1: small ones, and one in twenty from a Pareto tail of 1.2."""

    margin: float = 0.006

    @property
    def name(self) -> str:
        return f"capped cost, margin {100 * self.margin / self._mean(0.05):.0f} % of it"

    def begin(self, draws: Draws) -> Harm:
        return MeanHarm(self.margin)

    def values(self, draws: Draws, harm: float, n: int) -> Values:
        spike = draws.random(n) < self._spikes(harm)
        return np.where(spike, np.minimum(0.1 * draws.random(n) ** (-1 / 1.2), 1.0), 0.02 * draws.random(n))

    def drawn(self, draws: Draws, harm: float, n: int, share: float) -> Drawn:
        b = int(draws.binomial(n, share))
        arms = self.values(draws, 0.0, n - b), self.values(draws, harm, b)
        return Window(share, *map(sums_of, arms))

    def fixed_n(self, plan: Plan, harm: float) -> float:
        draws = np.random.default_rng(0)
        first, second = (float(self.values(draws, one, 1_000_000).var()) for one in (0.0, harm))
        return fixed_n(plan, harm - self.margin, first, second)

    def _mean(self, spikes: float) -> float:
        spike = 0.1 + 0.1**1.2 * (1 - 0.1**-0.2) / -0.2
        return spikes * spike + (1 - spikes) * 0.01

    def _spikes(self, harm: float) -> float:
        return 0.05 + harm / (self._mean(1.0) - self._mean(0.0))


class Quality(NamedTuple):
    """Scores from 0 to 1 that scatter little; harm is lost quality, so they come flipped."""

    margin: float = 0.01
    name: str = "quality 0.8 ± 0.1, margin 0.01"

    def begin(self, draws: Draws) -> Harm:
        return MeanHarm(self.margin)

    def drawn(self, draws: Draws, harm: float, n: int, share: float) -> Drawn:
        b = int(draws.binomial(n, share))
        arms = (draws.beta(15 * mean, 15 * (1 - mean), size) for mean, size in ((0.8, n - b), (0.8 - harm, b)))
        return Window(share, *(sums_of(arm).flipped(1.0) for arm in arms))

    def fixed_n(self, plan: Plan, harm: float) -> float:
        first, second = (mean * (1 - mean) / 16 for mean in (0.8, 0.8 - harm))
        return fixed_n(plan, harm - self.margin, first, second)


class Latency(NamedTuple):
    """The 95th of 100 latencies: lognormal, or with a Pareto tail; the candidate's are the incumbent's, stretched."""

    name: str
    sigma: float = 0.0
    tail: float = 0.0
    margin: float = 0.25
    before: int = 1000

    def begin(self, draws: Draws) -> Harm:
        return QuantileHarm(0.95, self.margin).after(0.0, sketch_of(self.values(draws, 0.0, self.before)), Sketch())

    def values(self, draws: Draws, harm: float, n: int) -> Values:
        logs = draws.normal(0, self.sigma, n) if self.sigma else draws.exponential(1 / self.tail, n)
        return np.exp(17 + logs) * (1 + harm)

    def drawn(self, draws: Draws, harm: float, n: int, share: float) -> Drawn:
        b = int(draws.binomial(n, share))
        return Sketches(share, sketch_of(self.values(draws, 0.0, n - b)), sketch_of(self.values(draws, harm, b)))

    def fixed_n(self, plan: Plan, harm: float) -> float:
        # The density of logarithms at the quantile; 1.645 is the normal one's.
        density = math.exp(-(1.644854**2) / 2) / math.sqrt(2 * math.pi) / self.sigma if self.sigma else 0.05 * self.tail
        variance = quantile_variance(0.95, density)
        return fixed_n(plan, math.log((1 + harm) / (1 + self.margin)), variance, variance)


class Labels(NamedTuple):
    """Labels come for three in ten, bad ones sooner; what counts is what was known at an age of five windows.

    The harm is that in the rate of bad ones among those labelled by that age.
    """

    margin: float = 0.03
    base: float = 0.1
    name: str = "late labels, by age, margin 3 %"

    def begin(self, draws: Draws) -> Harm:
        return MeanHarm(self.margin)

    def drawn(self, draws: Draws, harm: float, n: int, share: float) -> Drawn:
        """n is the number of labelled ones to be expected; the arms' parts of it differ as their outcomes do."""
        soon, late = labelled_by(5)
        everyone = round(n / (self.base * soon + (1 - self.base) * late))
        b = int(draws.binomial(everyone, share))
        arms: list[Sums] = []
        for size, rate in ((everyone - b, self.base), (b, self.base + harm)):
            bad = int(draws.binomial(size, true_rate(rate)))
            known = int(draws.binomial(bad, soon)), int(draws.binomial(size - bad, late))
            arms.append(hits(known[0], sum(known)))
        return Window(share, *arms)

    def fixed_n(self, plan: Plan, harm: float) -> float:
        return fixed_n_of_share(plan, self.base, harm, self.margin)


LATENCIES = (
    Latency("p95, lognormal σ 1.5, margin 25 %", sigma=1.5),
    Latency("p95, Pareto tail 1.5, margin 25 %", tail=1.5),
)
ERRORS = (Errors(0.001, 0.002), Errors(0.01, 0.01), Errors(0.2, 0.03))
STREAMS: tuple[Stream, ...] = (*ERRORS, *LATENCIES, Cost(), Labels(), Quality())


def labelled_by(age: float) -> tuple[float, float]:
    """Chances that a bad one, and a good one, is labelled by an age in windows: delays have means of 2 and 6."""
    return 0.3 * (1 - math.exp(-age / 2)), 0.3 * (1 - math.exp(-age / 6))


def true_rate(labelled: float) -> float:
    """The rate of bad ones among all, from that among those labelled by an age of five windows."""
    soon, late = labelled_by(5)
    return labelled * late / (labelled * late + (1 - labelled) * soon)


def arriving(labels: Labels, draws: Draws, harm: float, n: int, looks: int, age: int) -> Iterator[Window]:
    """Labels of n assigned in each window, half of them to the candidate: those known at an age, or each as it comes (0)."""
    waiting = np.zeros((2, 2, looks + 40))  # by arm, by outcome, by the look at which they are told
    for look in range(looks):
        for arm, rate in enumerate((labels.base, labels.base + harm)):
            bad = int(draws.binomial(n // 2, true_rate(rate)))
            for kind, size, mean in ((0, n // 2 - bad, 6), (1, bad, 2)):
                delays = draws.exponential(mean, int(draws.binomial(size, 0.3)))
                told = np.full((delays < age).sum(), age) if age else np.ceil(delays[delays < 40]).astype(int)
                waiting[arm, kind, look:] += np.bincount(told, minlength=looks + 40)[: looks + 40 - look]
        yield Window(0.5, *(hits(waiting[arm, 1, look], waiting[arm, :, look].sum()) for arm in (0, 1)))


def sums_of(values: Values) -> Sums:
    return Sums(len(values), float(values.sum()), float(values @ values))


def sketch_of(values: Values) -> Sketch:
    """As if each had been added."""
    scaled = np.ceil(np.log(np.clip(values, 1, LIMIT)) * (TOP / math.log(LIMIT)) * _EXACT)
    found, counts = np.unique(scaled.astype(np.int64), return_counts=True)
    sketch = Sketch()
    sketch._bins = dict(zip(found.tolist(), counts.tolist(), strict=True))
    return sketch


_EXACT = math.log(LIMIT) / TOP / math.log(1.01 / 0.99)


def after(sequence: Harm, drawn: Drawn) -> Harm:
    if isinstance(sequence, QuantileHarm):
        assert isinstance(drawn, Sketches)
        return sequence.after(*drawn)
    assert isinstance(drawn, Window)
    return sequence.after(drawn)


class Watched(NamedTuple):
    """The observations after which it was first found worse, and passed; None where it never was."""

    worse: int | None
    passed: int | None


def watch(
    stream: Stream, draws: Draws, harm: float, size: int, shares: Sequence[float], alpha: float, stop: int = 0
) -> Watched:
    """Windows of so many observations, looked at after each one. `stop` is the sign of what ends it sooner."""
    sequence, wanted = stream.begin(draws), math.log(1 / alpha)
    found: dict[int, int] = {}
    for look, share in enumerate(shares, 1):
        sequence = after(sequence, stream.drawn(draws, harm, size, share))
        for sign in (1, -1):
            if sign not in found and sequence.evidence(sign) >= wanted:
                found[sign] = look * size
        if len(found) == 2 or stop in found:
            break
    return Watched(found.get(1), found.get(-1))


def surely(count: int, runs: int) -> float:
    """The chance of what happened in `count` of so many runs is above this one, surely to 99.9 % (Clopper and Pearson)."""
    low, high = 0.0, count / runs
    for _ in range(50):
        middle = (low + high) / 2
        at_least = 1 - (binomial_cdf(runs, middle)[count - 1] if count else 0.0)
        low, high = (middle, high) if at_least < 0.001 else (low, middle)
    return low

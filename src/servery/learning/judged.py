"""How well a score chooses between a cheap and a strong model, from prompts that both have answered.

Source of the measures: Ong et al. (2024), RouteLLM, arXiv 2406.18665: the performance gap recovered (PGR) where the
prompts with the highest scores go to the strong model, its mean over all shares of strong calls (APGR), and the least
share that recovers a given part (CPT).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.stats.intervals import Interval

Floats = NDArray[np.float64]


class Judged(msgspec.Struct, frozen=True):
    """How good the answers of both models were, prompt by prompt: two arrays of n numbers from 0 to 1."""

    cheap: Floats
    strong: Floats

    @property
    def rows(self) -> int:
        return len(self.cheap)

    @property
    def gain(self) -> Floats:
        """What the strong model adds, prompt by prompt: from -1 to 1."""
        return self.strong - self.cheap


class Measured(msgspec.Struct, frozen=True):
    """What a score is worth. APGR: 0.5 is what chance gives. CPT: shares of strong calls. `accuracy` is at SHARES."""

    apgr: float
    cpt_50: float
    cpt_80: float
    accuracy: tuple[float, ...]


SHARES = tuple(round(0.1 * step, 1) for step in range(11))


class Ordered(msgspec.Struct, frozen=True):
    """Prompts by falling score. Those with one score are one group, which no threshold parts: `starts` of the groups."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]


def ordered(score: Floats) -> Ordered:
    """The order in which prompts go to the strong model."""
    order = np.argsort(-score, kind="stable")
    sorted_score = score[order]
    first = np.ones(len(score), dtype=bool)
    first[1:] = sorted_score[1:] != sorted_score[:-1]
    return Ordered(order.astype(np.int64), np.flatnonzero(first).astype(np.int64))


def recovered(by: Ordered, judged: Judged, counts: NDArray[np.int64] | None = None) -> tuple[Floats, Floats]:
    """(share of strong calls, what they add to the mean quality), from 0 to everything; a straight line within a group.

    With `counts` a prompt counts so many times, as in a bootstrap's sample.
    """
    return running(by, np.ones(judged.rows), counts), running(by, judged.gain, counts)


def running(by: Ordered, values: Floats, counts: NDArray[np.int64] | None = None) -> Floats:
    """What values (n,) come to from the highest score on, a prompt: from 0 to their mean, with a point after each group."""
    times = np.ones(len(values)) if counts is None else counts[by.order].astype(float)
    added = np.add.reduceat(times * values[by.order], by.starts)
    return np.concatenate(([0.0], np.cumsum(added) / times.sum()))


def measure(by: Ordered, judged: Judged, counts: NDArray[np.int64] | None = None) -> Measured:
    """What a score is worth, whose order is `by`. Needs a strong model that is better on the whole."""
    share, added = recovered(by, judged, counts)
    recovers = added / added[-1]
    cheap = judged.cheap.mean() if counts is None else (counts * judged.cheap).sum() / counts.sum()
    return Measured(
        float(np.trapezoid(recovers, share)),
        _least(share, recovers, 0.5),
        _least(share, recovers, 0.8),
        tuple((cheap + np.interp(SHARES, share, added)).tolist()),
    )


def _least(share: Floats, recovers: Floats, wanted: float) -> float:
    """The least share that recovers so much, on the straight line to the first point that does."""
    at = int(np.argmax(recovers >= wanted))
    if at == 0:
        return 0.0 if recovers[0] >= wanted else 1.0
    low, high = recovers[at - 1], recovers[at]
    return float(share[at - 1] + (share[at] - share[at - 1]) * (wanted - low) / (high - low))


class Spread(msgspec.Struct, frozen=True):
    """95 % intervals of a score's measures, and of how far its APGR is above that of the score it's compared with."""

    apgr: Interval
    cpt_50: Interval
    cpt_80: Interval
    ahead: Interval | None


def bootstrap(
    scores: Sequence[Floats], judged: Judged, draws: int, rng: np.random.Generator, beside: int | None = None
) -> list[Spread]:
    """The percentile bootstrap over prompts, one Spread for each score. All scores see the same samples.

    `beside`: which of the scores the others are compared with, pair by pair. Samples in which the strong model isn't
    better say nothing about a gap and are drawn again.
    """
    orders = [ordered(score) for score in scores]
    found = np.empty((len(scores), draws, 3))
    for draw in range(draws):
        counts = resampled(judged, rng)
        for at, by in enumerate(orders):
            measured = measure(by, judged, counts)
            found[at, draw] = measured.apgr, measured.cpt_50, measured.cpt_80
    spreads: list[Spread] = []
    for at in range(len(scores)):
        ahead = None if beside is None else interval(found[at, :, 0] - found[beside, :, 0])
        apgr, cpt_50, cpt_80 = (interval(found[at, :, part]) for part in range(3))
        spreads.append(Spread(apgr, cpt_50, cpt_80, ahead))
    return spreads


def resampled(judged: Judged, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each prompt is in a bootstrap's sample, in which the strong model is better. ValueError."""
    for _ in range(100):
        counts = np.bincount(rng.integers(0, judged.rows, judged.rows), minlength=judged.rows)
        if (counts * judged.gain).sum() > 0:
            return counts.astype(np.int64)
    raise ValueError("the strong model is hardly better than the cheap one: there is no gap to recover")


def interval(values: Floats) -> Interval:
    """The middle 95 % of what a bootstrap gave."""
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high))

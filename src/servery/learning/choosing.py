"""Scores beside each other and beside what needs none, and the threshold that gives what is wanted."""

from __future__ import annotations

import msgspec
import numpy as np

from servery.learning.judged import Floats, Judged, Measured, Spread, bootstrap, measure, ordered, recovered
from servery.stats.intervals import Interval

DRAWS = 1000


class Choice(msgspec.Struct, frozen=True):
    """What is wanted: a share of strong calls, or a part of the gap. One of them is given."""

    share: float | None = None
    recover: float | None = None


class Line(msgspec.Struct, frozen=True):
    """A way to choose, and what it is worth. `spread` is None where chance plays no part."""

    name: str
    measured: Measured
    spread: Spread | None = None


class Comparison(msgspec.Struct, frozen=True):
    """What each model answers rightly by itself, and what the ways to choose between them are worth."""

    rows: int
    cheap: float
    strong: float
    lines: tuple[Line, ...]
    beside: str  # what `ahead` of the others is measured against


def compare(judged: Judged, scores: dict[str, Floats], seed: int, *, oracle: bool = True) -> Comparison:
    """All scores, between chance and an oracle; the last one is what the others are compared with.

    There is no oracle where how both models answered is estimated: nobody knows it of a single prompt.
    """
    names, given = list(scores), list(scores.values())
    spreads = bootstrap(given, judged, DRAWS, np.random.default_rng(seed), len(given) - 1)
    lines = [
        Line(name, measure(ordered(score), judged), spread)
        for name, score, spread in zip(names, given, spreads, strict=True)
    ]
    chance = Line("chance", measure(ordered(np.zeros(judged.rows)), judged))
    best = (Line("an oracle", measure(ordered(judged.gain), judged)),) if oracle else ()
    cheap, strong = float(judged.cheap.mean()), float(judged.strong.mean())
    return Comparison(judged.rows, cheap, strong, (chance, *reversed(lines), *best), names[-1])


def threshold_for(gain: Floats, judged: Judged, wanted: Choice) -> float:
    """Prompts whose gain is above this go to the strong model. -inf sends all of them, +inf none."""
    share = wanted.share
    if share is None:
        by = ordered(gain)
        shares, added = recovered(by, judged)
        share = float(shares[int(np.argmax(added >= (wanted.recover or 0.0) * added[-1]))])
    return threshold_for_share(gain, share)


def threshold_for_share(score: Floats, share: float) -> float:
    """So large a share of the scores is above this. -inf: all of them; inf: none."""
    calls = round(share * len(score))
    if calls <= 0:
        return float("inf")
    if calls >= len(score):
        return float("-inf")
    falling = np.sort(score)[::-1]
    return float(falling[calls - 1] + falling[calls]) / 2


def accuracy_at(judged: Judged, gain: Floats, threshold: float) -> tuple[float, float, Interval]:
    """(share of strong calls, accuracy, its 95 % interval by the normal approximation)."""
    strong = gain > threshold
    right = np.where(strong, judged.strong, judged.cheap)
    mean, half = float(right.mean()), 1.96 * float(right.std(ddof=1)) / judged.rows**0.5
    return float(strong.mean()), mean, Interval(max(0.0, mean - half), min(1.0, mean + half))

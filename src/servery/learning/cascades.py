"""What it is worth to choose between two models when dollars count: before the cheap one is asked, or by its answer.

A router pays for one model or for the other. A cascade pays for the cheap one always, and for the strong one too where the
answer doesn't stand: the cheap call is wasted then. Both are compared at the same dollars.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.learning.judged import Floats, Judged, Ordered, interval, ordered, resampled, running
from servery.stats.intervals import Interval

DRAWS = 1000
PARTS = (0.5, 0.8, 1.0)  # of the gap
SPENT = (0.25, 0.5, 0.75)  # of what asking the strong model always costs
_GRID = np.linspace(0, 1, 401)  # of the way from the cheap model's cost to the strong one's


class Costs(msgspec.Struct, frozen=True):
    """Dollars of each model's answer, prompt by prompt: two arrays of n numbers."""

    cheap: Floats
    strong: Floats


class Way(msgspec.Struct, frozen=True):
    """A way to choose: the prompts with the highest `score` are the strong model's. `checks`: the cheap one is asked first."""

    name: str
    score: Floats
    checks: bool = False


class Worth(msgspec.Struct, frozen=True):
    """`gap`: the part of the gap between the models that is recovered, on the mean over all costs between theirs; 0.5 is what
    chance gives. `least`: the dollars, as a part of the strong model's, that recover PARTS of it; `right`: the share of right
    answers for SPENT of them, NaN where the cheap model alone costs more.
    """

    gap: float
    least: tuple[float, ...]
    right: tuple[float, ...]


class Ahead(msgspec.Struct, frozen=True):
    """95 % intervals of how far a way is above another one, on the same samples: of the gap, and of right answers at SPENT."""

    gap: Interval
    right: tuple[Interval, ...]


class Line(msgspec.Struct, frozen=True):
    """A way, what it is worth, and how sure that is. None: chance plays no part, or there is nothing beside it."""

    name: str
    worth: Worth
    gap_95: Interval | None = None
    ahead: Ahead | None = None


class Weighed(msgspec.Struct, frozen=True):
    """What each model answers rightly by itself and costs a prompt, and what the ways to choose between them are worth."""

    rows: int
    right: tuple[float, float]
    usd: tuple[float, float]
    lines: tuple[Line, ...]


def curve(
    by: Ordered, checks: bool, judged: Judged, costs: Costs, counts: NDArray[np.int64] | None = None
) -> tuple[Floats, Floats]:
    """(dollars a prompt, the share of right answers), from asking the cheap model only to asking the strong one always."""
    extra = costs.strong if checks else costs.strong - costs.cheap
    usd = _mean(costs.cheap, counts) + running(by, extra, counts)
    return np.maximum.accumulate(usd), _mean(judged.cheap, counts) + running(by, judged.gain, counts)


def worth(way: Way, judged: Judged, costs: Costs) -> Worth:
    """What a way is worth on all prompts."""
    return _worth(ordered(way.score), way.checks, judged, costs, None)


def _worth(by: Ordered, checks: bool, judged: Judged, costs: Costs, counts: NDArray[np.int64] | None) -> Worth:
    usd, right = curve(by, checks, judged, costs, counts)
    low, high = _mean(costs.cheap, counts), _mean(costs.strong, counts)
    base = _mean(judged.cheap, counts)
    recovers = (right - base) / (_mean(judged.strong, counts) - base)
    grid = low + _GRID * (high - low)
    gap = float(np.trapezoid(np.interp(grid, usd, recovers), _GRID))
    spent = [part * high for part in SPENT]
    at = [float(np.interp(one, usd, right)) if one >= low else float("nan") for one in spent]
    return Worth(gap, tuple(_least(usd, recovers, part) / high for part in PARTS), tuple(at))


def _mean(values: Floats, counts: NDArray[np.int64] | None) -> float:
    return float(values.mean() if counts is None else (values * counts).sum() / counts.sum())


def _least(usd: Floats, recovers: Floats, wanted: float) -> float:
    """The least dollars that recover so much, on the straight line to the first point that does; all of them where none does."""
    at = int(np.argmax(recovers >= wanted))
    if recovers[at] < wanted:
        return float(usd[-1])
    if at == 0:
        return float(usd[0])
    low, high = recovers[at - 1], recovers[at]
    return float(usd[at - 1] + (usd[at] - usd[at - 1]) * (wanted - low) / (high - low))


def weigh(judged: Judged, costs: Costs, ways: Sequence[Way], seed: int) -> Weighed:
    """All ways, between chance and oracles; the first is what the others are compared with, pair by pair."""
    rng = np.random.default_rng(seed)
    orders = [ordered(way.score) for way in ways]
    found = np.empty((len(ways), DRAWS, 1 + len(SPENT)))
    for draw in range(DRAWS):
        counts = resampled(judged, rng)
        for at, (way, by) in enumerate(zip(ways, orders, strict=True)):
            one = _worth(by, way.checks, judged, costs, counts)
            found[at, draw] = one.gap, *one.right
    lines = [
        Line(
            way.name, worth(way, judged, costs), interval(found[at, :, 0]), _ahead(found[at] - found[0]) if at else None
        )
        for at, way in enumerate(ways)
    ]
    chance, best = Way("chance", np.zeros(judged.rows)), judged.gain
    bounds = (chance, Way("an oracle that routes", best), Way("an oracle that checks", best, checks=True))
    low, *high = (Line(way.name, worth(way, judged, costs)) for way in bounds)
    right = float(judged.cheap.mean()), float(judged.strong.mean())
    usd = float(costs.cheap.mean()), float(costs.strong.mean())
    return Weighed(judged.rows, right, usd, (low, *lines, *high))


def _ahead(difference: Floats) -> Ahead:
    """Of draws, shape (DRAWS, 1 + SPENT)."""
    return Ahead(interval(difference[:, 0]), tuple(interval(difference[:, 1 + at]) for at in range(len(SPENT))))

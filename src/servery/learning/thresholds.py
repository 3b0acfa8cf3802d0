"""Thresholds of a cascade from a labelled sample, with a bound on the risk that what was wanted doesn't hold. Pure.

The method is Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv 2110.01052) in the form of Pareto
testing (Laufer-Goldshtein, Fisch, Barzilay and Jaakkola 2023, arXiv 2210.07913). One part of the sample draws a path: of
all thresholds on a grid those that nothing beats both in safety and in what is sought, the safest first, and steps
between them. The other part tests along this path, by exact p-values, until the first test fails. Whatever passed may
be chosen: the chance that it doesn't hold what was wanted is at most `risk`, however many thresholds were looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.stats.risk import Counts, Floats, p_at_least, p_at_most, p_mean_at_most, passing

Thresholds = tuple[float, ...]
Range = tuple[float, float]

_LEVELS = 256  # of one tier
_CELLS = 300_000  # of the whole grid
_DIGITS = 4
_PATH_PART = 1 / 3
_STEPS = 1000
_BETWEEN = 8


class Sample(msgspec.Struct, frozen=True):
    """What each tier (first index) said of each row: how sure it was, and whether it was right. Dollars per row by tier."""

    sure: Floats
    right: NDArray[np.bool_]
    usd: tuple[float, ...]

    @property
    def rows(self) -> int:
        return self.right.shape[1]

    @property
    def paid(self) -> tuple[float, ...]:
        """Dollars for a row that this tier answers: it paid those before it too."""
        return tuple(np.cumsum(self.usd).tolist())

    def only(self, rows: NDArray[np.int64]) -> Sample:
        return Sample(self.sure[:, rows], self.right[:, rows], self.usd)


class Share(msgspec.Struct, frozen=True):
    """The band for the share of rows that a tier answers."""

    tier: int
    low: float
    high: float


class Wanted(msgspec.Struct, frozen=True):
    """What has to hold: an accuracy, dollars per row, bands of shares. With an accuracy the cheapest thresholds are sought,
    else the most accurate ones."""

    accuracy: float | None = None
    usd: float | None = None
    shares: tuple[Share, ...] = ()


class Result(msgspec.Struct, frozen=True):
    """What thresholds give on a sample. `answered`: rows by tier; `usd`: mean dollars per row."""

    thresholds: Thresholds
    rows: int
    right: int
    answered: tuple[int, ...]
    usd: float

    @property
    def accuracy(self) -> float:
        return self.right / self.rows


class Found(msgspec.Struct, frozen=True):
    """The thresholds that were chosen, and how many were tested to be sure of them; None where none passed."""

    thresholds: Thresholds | None
    tested: int
    rows: int  # that the tests were made on


class Grid(msgspec.Struct, frozen=True):
    """Every combination of levels, counted on a sample: rows that each tier answers, and rows answered wrongly."""

    levels: tuple[Floats, ...]
    answered: tuple[Counts, ...]
    wrong: Counts
    usd: Floats
    rows: int

    def thresholds(self, at: int) -> Thresholds:
        places = np.unravel_index(at, self.wrong.shape)
        return tuple(float(level[place]) for level, place in zip(self.levels, places, strict=True))


def evaluate(sample: Sample, thresholds: Thresholds) -> Result:
    """What these thresholds of all tiers but the last give: the first tier that is sure enough answers a row."""
    left = np.ones(sample.rows, bool)
    answered: list[int] = []
    right = 0
    for tier, correct in enumerate(sample.right):
        takes = left & (sample.sure[tier] >= thresholds[tier]) if tier < len(thresholds) else left
        answered.append(int(takes.sum()))
        right += int((takes & correct).sum())
        left = left & ~takes
    usd = sum(count * paid for count, paid in zip(answered, sample.paid, strict=True)) / max(sample.rows, 1)
    return Result(thresholds, sample.rows, right, tuple(answered), usd)


def levels_of(sample: Sample, ranges: Sequence[Range]) -> tuple[Floats, ...]:
    """The thresholds to look at, by tier: the ends of its range, and quantiles of its confidence between them.

    So many that the grid stays small enough: a route of ten tiers has few for each. Where they are now plays no part, so
    that calibrating again changes nothing.
    """
    levels: list[Floats] = []
    for tier, most in enumerate(_sizes(len(ranges))):
        low, high = ranges[tier]
        sure = sample.sure[tier][np.isfinite(sample.sure[tier])]
        marks = np.array([high, low][:most])
        if most > 2 and len(sure):
            marks = np.append(marks, np.round(np.quantile(sure, np.linspace(0, 1, most)[1:-1]), _DIGITS))
        levels.append(np.unique(np.clip(marks, low, high)))
    return tuple(levels)


def _sizes(tiers: int) -> list[int]:
    """How many levels each tier gets, by turns."""
    sizes, grown = [1] * tiers, tiers > 0
    while grown:
        grown = False
        for tier, size in enumerate(sizes):
            cells = math.prod(other + 1 for other in sizes) // (size + 1) * (size + 2)
            if size < _LEVELS and cells <= _CELLS:
                sizes[tier], grown = size + 1, True
    return sizes


def count(sample: Sample, levels: tuple[Floats, ...]) -> Grid:
    """All combinations at once: rows are counted by the levels that they pass, and the counts are added up."""
    passed: list[Counts] = []
    for level, sure in zip(levels, sample.sure, strict=False):
        place = np.searchsorted(level, np.where(np.isnan(sure), -np.inf, sure), "right")  # NaN is never sure
        passed.append(place.astype(np.int64))
    sizes = tuple(len(level) for level in levels)
    answered: list[Counts] = []
    wrong = np.zeros(sizes, np.int64)
    for tier in range(len(levels) + 1):
        answered.append(_counted(passed[: tier + 1], sizes, tier, None))
        wrong = wrong + _counted(passed[: tier + 1], sizes, tier, ~sample.right[tier])
    usd = sum((part * paid for part, paid in zip(answered, sample.paid, strict=True)), np.zeros(sizes))
    return Grid(levels, tuple(answered), wrong, usd / max(sample.rows, 1), sample.rows)


def _counted(passed: Sequence[Counts], sizes: tuple[int, ...], tier: int, of: NDArray[np.bool_] | None) -> Counts:
    """By combination the rows that `tier` answers, all or some of them. `passed`: how many levels each row passes.

    A row gets there where it passes none of the earlier tiers' levels, and stays where it passes this tier's one.
    """
    cells = tuple(size + 1 for size in sizes[: tier + 1])
    at = np.zeros(len(passed[0]), np.int64)
    for place, size in zip(passed, cells, strict=True):
        at = at * size + place
    table: Counts = np.bincount(at if of is None else at[of], minlength=math.prod(cells)).reshape(cells)
    for axis in range(len(cells)):
        below = np.cumsum(table, axis=axis)
        if axis == tier:
            below = below.take([-1], axis=axis) - below
        table = below.take(range(cells[axis] - 1), axis=axis)
    return np.broadcast_to(table.reshape(table.shape + (1,) * (len(sizes) - table.ndim)), sizes)


class Split(msgspec.Struct, frozen=True):
    """The grid counted on the part that draws the path, and on the part that tests. `paid` as of a Sample."""

    path: Grid
    test: Grid
    paid: tuple[float, ...]


def parted(sample: Sample, order: NDArray[np.int64]) -> tuple[Sample, Sample]:
    """The part that draws the path and the part that tests. `order`: its rows, in one that the sample didn't choose."""
    first = round(sample.rows * _PATH_PART)
    return sample.only(order[:first]), sample.only(order[first:])


def split(path: Sample, test: Sample, ranges: Sequence[Range]) -> Split:
    """Both parts, counted. The levels come from the first: what the tests are made on must not choose what is tested."""
    levels = levels_of(path, ranges)
    return Split(count(path, levels), count(test, levels), path.paid)


def search(parts: Split, wanted: Wanted, risk: float) -> Found:
    """The best thresholds that pass the tests."""
    path = path_of(parts.path, parts.paid, wanted)
    tested = p_values(parts.test, parts.paid, wanted).ravel()[path]
    passed = path[: passing(tested, risk)]
    if not len(passed):
        return Found(None, 1, parts.test.rows)
    test = parts.test
    keys = (test.wrong, test.usd) if wanted.accuracy is not None else (test.usd, test.wrong)
    best = np.lexsort([key.ravel()[passed] for key in keys])[0]
    return Found(test.thresholds(int(passed[best])), min(len(passed) + 1, len(path)), test.rows)


def path_of(grid: Grid, paid: tuple[float, ...], wanted: Wanted) -> NDArray[np.int64]:
    """The combinations to test, in order: the frontier, and some steps from each of its places to the next.

    For an accuracy it begins before the frontier, at the dearest of what looks safest: with few examples many
    combinations have the same few errors, and the cheapest of those is likely to be so by luck.
    """
    doubt = p_values(grid, paid, wanted).ravel()
    sought = (grid.usd if wanted.accuracy is not None else grid.wrong).ravel()
    path = frontier(doubt, sought)
    if wanted.accuracy is not None:
        path = np.concatenate((np.lexsort((-sought, doubt))[:1], path))
    if not grid.levels:
        return path[:1]
    places = np.stack(np.unravel_index(path, grid.wrong.shape), axis=1).astype(np.float64)
    parts = np.linspace(0, 1, _BETWEEN, endpoint=False)[:, np.newaxis]
    steps = [one + (other - one) * parts for one, other in pairwise(places)]
    walked = np.rint(np.concatenate([*steps, places[-1:]])).astype(np.int64)
    flat: NDArray[np.int64] = walked @ np.array(_strides(grid.wrong.shape))
    new = np.ones(len(flat), bool)
    new[1:] = flat[1:] != flat[:-1]
    return flat[new]


def _strides(shape: tuple[int, ...]) -> list[int]:
    """How far apart two neighbours along each axis are, where the whole is laid out flat."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def p_values(grid: Grid, paid: tuple[float, ...], wanted: Wanted) -> Floats:
    """Of "something that is wanted doesn't hold", for every combination: the largest of all that is wanted."""
    worst = np.zeros(grid.wrong.shape)
    if wanted.accuracy is not None:
        worst = np.maximum(worst, p_at_most(grid.wrong, grid.rows, 1 - wanted.accuracy))
    if wanted.usd is not None:
        spread = paid[-1] - paid[0]
        if spread > 0:
            level = (wanted.usd - paid[0]) / spread
            worst = np.maximum(worst, p_mean_at_most((grid.usd - paid[0]) / spread, grid.rows, level))
        else:
            worst = np.maximum(worst, float(wanted.usd < paid[0]))
    for share in wanted.shares:
        answered = grid.answered[share.tier]
        if share.high < 1:
            worst = np.maximum(worst, p_at_most(answered, grid.rows, share.high))
        if share.low > 0:
            worst = np.maximum(worst, p_at_least(answered, grid.rows, share.low))
    return worst


def frontier(doubt: Floats, sought: Floats | Counts) -> NDArray[np.int64]:
    """The places that nothing beats in both, the least doubtful first; what is sought gets better along it."""
    order = np.lexsort((sought, doubt))
    least = np.minimum.accumulate(sought[order])
    better = np.ones(len(order), bool)
    better[1:] = least[1:] < least[:-1]
    return order[better]


def reachable(parts: Split, wanted: Wanted, risk: float) -> Wanted | None:
    """About the most of what is wanted that could be promised: less accuracy, else more dollars, else wider bands.

    Found by halving; a hint and no promise, as the tests have chosen it. None where nothing of it is in reach.
    """
    enough, short = _STEPS, 0
    if search(parts, _less(wanted, 1.0, parts.paid), risk).thresholds is None:
        return None
    while enough - short > 1:
        middle = (enough + short) // 2
        if search(parts, _less(wanted, middle / _STEPS, parts.paid), risk).thresholds is None:
            short = middle
        else:
            enough = middle
    return _less(wanted, enough / _STEPS, parts.paid)


def _less(wanted: Wanted, by: float, paid: tuple[float, ...]) -> Wanted:
    """What is wanted, less by a part of all that can be taken off."""
    if wanted.accuracy is not None:
        return msgspec.structs.replace(wanted, accuracy=wanted.accuracy * (1 - by))
    if wanted.usd is not None:
        return msgspec.structs.replace(wanted, usd=wanted.usd + max(paid[-1] - wanted.usd, 0) * by)
    wider = tuple(Share(one.tier, max(one.low - by, 0), min(one.high + by, 1)) for one in wanted.shares)
    return msgspec.structs.replace(wanted, shares=wider)


def curve(grid: Grid) -> list[tuple[float, float]]:
    """Dollars per row and accuracy of the combinations that nothing beats in both, the cheapest first."""
    path = frontier(grid.usd.ravel(), grid.wrong.ravel())
    points = [(float(grid.usd.ravel()[at]), 1 - int(grid.wrong.ravel()[at]) / grid.rows) for at in path]
    assert all(one[0] <= other[0] for one, other in pairwise(points))
    return points

"""Evidence about the difference of two arms, from bets that would pay off if a claim about it were false.

Each observation x in [0, 1] is given at random, with the chance p, to the candidate, otherwise to the incumbent. Then

    y = (x - h - m) / p of the candidate's,  y = -(x - h) / (1 - p) of the incumbent's

has, whatever the past was, the mean harm - m, with harm = candidate's mean - incumbent's mean, for every h and p that were
fixed before. So if harm ≤ m, the product of all 1 + λy is a supermartingale for each λ ≥ 0 that keeps the factors positive:
it reaches 1/α at any time at all with a chance of at most α (Ville 1939). This is testing by betting (Waudby-Smith and
Ramdas 2024, Estimating means of bounded random variables by betting, JRSS B 86 (1)). It needs neither many observations
nor stable means, only that whoever is assigned is assigned at random. With h near the incumbent's mean it also needs little
of p: where the candidate gets less than its share, or nothing, that alone is no evidence. For zeros and ones these are the
bets whose logarithms grow fastest (with Turner, Ly and Grünwald 2024, Generic E-variables for exact sequential k-sample
tests, JSPI 230, where the arms' rates are known; here they are learned on the way).

Only sums over windows are known. The logarithm of a factor is bounded from below by the parabola that touches it at one
value and meets it at the end of [0, 1] where it is steepest; a parabola's sum follows from n, Σx, Σx². (Fan, Grama and Liu
2015, Exponential inequalities for martingales with applications, EJP 20, is the case in which it touches at the mean.)
With values of 0 and 1 alone the parabola can meet both, and the evidence is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from servery.stats.windows import Sums

Floats = NDArray[np.float64]

_MOST = 0.98  # of what a bet may lose at once: at 1 one observation could end it


class Segment(msgspec.Struct, frozen=True):
    """Sums of windows in which everything that a bet depends on stayed the same.

    h is `worse_centre` where worse is tested, `passed_centre` where passed is; `spread` is the variance that scales bets,
    `effect` the distance from the claim for which they are sized;
    the tangents are where the parabolas touch: `upward` for logarithms that rise with x, `downward` for those that fall.
    """

    share: float
    worse_centre: float
    passed_centre: float
    spread: float
    upward: float
    downward: float
    effect: float = 0.0
    incumbent: Sums = Sums()
    candidate: Sums = Sums()


class Bets(msgspec.Struct, frozen=True):
    """Sizes of bets, in multiples of the best one for the effect that matters, and the part of the stake on each."""

    sizes: tuple[float, ...]
    parts: tuple[float, ...]


def ladder(smallest: int, greatest: int, likely: int, fading: float) -> Bets:
    """Powers of two, with the stake falling by `fading` with each step away from the likely one."""
    steps = range(smallest, greatest + 1)
    stakes = [fading ** abs(step - likely) for step in steps]
    return Bets(tuple(2.0**step for step in steps), tuple(stake / sum(stakes) for stake in stakes))


# A candidate that has to be stopped may fail always; one that may pass is hardly ever much better than the incumbent.
WORSE = ladder(-3, 6, 1, 0.5)
PASSED = ladder(-3, 3, 0, 0.4)


def table(segments: Sequence[Segment]) -> Floats:
    """A column of numbers for each segment: what `log_evidence` reads, made once for many questions."""
    rows = [(*astuple(one)[:7], *astuple(one.candidate), *astuple(one.incumbent)) for one in segments]
    return np.array(rows, np.float64).reshape(len(rows), 13).T


def log_evidence(segments: Floats, sign: int, harms: Sequence[float] | Floats, reach: Floats | float) -> Floats:
    """For each of `harms` the logarithm of the evidence that the true harm is above it (sign 1), or below it (sign -1).

    Where that is not so, it reaches log(1/α) with a chance of at most α, at whatever time one looks.
    sign·harm must not be above `reach`, which may be another one for each segment.
    """
    share, centre, spread = segments[0], segments[1 if sign > 0 else 2], segments[3]
    upward, downward, effect = segments[4:7, :, None]
    candidate, incumbent = segments[7:].reshape(2, 3, -1, 1)
    rest = 1 - share
    bets = WORSE if sign > 0 else PASSED
    if sign > 0:
        loss = np.maximum((centre + reach) / share, (1 - centre) / rest)
    else:
        loss = np.maximum((1 - centre + reach) / share, centre / rest)
    wanted = effect * (share * rest / spread)[:, None] * np.array(bets.sizes)
    size = sign * np.minimum(wanted, (_MOST / loss)[:, None])
    up, down = size / share[:, None], -size / rest[:, None]
    # The candidate's logarithms rise with x where worse is tested, the incumbent's fall; else the reverse.
    first, second = ((upward, 0.0), (downward, 1.0)) if sign > 0 else ((downward, 1.0), (upward, 0.0))
    h = centre[:, None]
    of_candidate = sum_of_logs(candidate, 1 - up * (h + np.asarray(harms)[:, None, None]), up, *first)
    of_incumbent = sum_of_logs(incumbent, 1 - down * h, down, *second)
    return log_mean((of_candidate + of_incumbent).sum(axis=-2), bets.parts)


def log_mean(logs: Floats, parts: Sequence[float]) -> Floats:
    """Logarithms of the weighted means, over the last axis, of what `logs` are the logarithms of."""
    greatest = logs.max(axis=-1)
    return greatest + np.log(np.exp(logs - greatest[..., None]) @ np.array(parts))


def sum_of_logs(
    sums: Floats,
    start: Floats,
    slope: Floats,
    tangent: Floats | float,
    end: Floats | float,
) -> Floats:
    """A lower bound of the sum of log(start + slope·x) over all x, from their n, Σx and Σx².

    By the parabola that touches at `tangent` and meets at `end`: 0 where the slope is positive, else 1.
    """
    n, total, squares = sums
    at = start + slope * tangent
    height, rise, gap = np.log(at), slope / at, end - tangent
    bend = (np.log(start + slope * end) - height - rise * gap) / (gap * gap)
    straight = rise - 2 * bend * tangent
    constant = height - tangent * (straight + bend * tangent)
    return n * constant + total * straight + squares * bend

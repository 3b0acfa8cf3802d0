"""A confidence sequence for a difference of means: valid at every look, from the first window on.

For values from 0 to a declared cap: errors (0 or 1), dollars cut off at a cap, quality from 0 to 1. How it is made and why
it holds stands in `bets`. What is assumed: each value belongs to something that was assigned by itself, at random, with
the window's share, and was counted once. Where users are assigned, and come again, values of one user belong together:
use unit sums (`asymptotic`).
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from servery.stats.bets import Floats, Segment, log_evidence, table
from servery.stats.windows import Bounds, Sums, Window

_REACH = {1: 4, -1: 2}  # effects from the margin, up and down, within which a harm is told
_STEPS = 200  # to which an effect, or what is further from the margin, is told exactly
_MARKS = 18  # harms that are looked at together
_AWAY = np.array([2.0**step for step in range(-4, 12)])  # effects
_NEAR = 1e-3  # of [0, 1]: as near to an end as a tangent may come


class MeanHarm(msgspec.Struct, frozen=True):
    """Harm = candidate's mean - incumbent's mean, in the metric's own units; what is better when higher comes flipped.

    The sequence is narrowest where a true harm is about `effect` away from `margin` (by default: the margin itself), and valid
    everywhere; with `part` that is this part of the incumbent's mean, as far as it is known at the time. `expected` is the incumbent's mean, where it is known before the first window; windows with share 0 teach it
    too. It is a value: `after` returns the next one, with at most about two segments for each doubling of the data.
    """

    margin: float
    effect: float = 0.0
    cap: float = 1.0
    part: float = 0.0
    expected: float | None = None
    segments: tuple[Segment, ...] = ()
    incumbent: Sums = Sums()
    candidate: Sums = Sums()

    def after(self, window: Window) -> MeanHarm:
        """With what came in since the last look; each value comes once, in whatever window it arrives.

        A ValueError for values above the cap: cut each one off before it is added up.
        """
        incumbent, candidate = (self._capped(sums) for sums in (window.incumbent, window.candidate))
        segments = self.segments
        if 0 < window.share < 1 and incumbent.n + candidate.n > 0:
            place = self._open(window.share)
            segment = segments[place] if place is not None else self._opened(window.share)
            segment = msgspec.structs.replace(
                segment, incumbent=segment.incumbent.plus(incumbent), candidate=segment.candidate.plus(candidate)
            )
            cut = len(segments) if place is None else place
            segments = (*segments[:cut], segment, *segments[cut + 1 :])
        return msgspec.structs.replace(
            self,
            segments=segments,
            incumbent=self.incumbent.plus(incumbent),
            candidate=self.candidate.plus(candidate),
        )

    def evidence(self, sign: int) -> float:
        """Logarithm of the evidence that the true harm is above (sign 1) or below (sign -1) the margin.

        At or above log(1/α) the bounds at the risk α decide; this costs a tenth of asking for them.
        """
        return float(self._asked(table(self.segments), sign, np.array((self.margin,)))[0])

    def bounds(self, worse: float, passed: float) -> Bounds:
        """(low, high): low is at or above the true harm with the chance `worse` at most, at any look; high below it, `passed`.

        low ≥ margin: the candidate is worse. high ≤ margin: it has passed. Neither goes further from the margin on the
        other's side than four effects (low) or two (high): what is known better than that decides nothing.
        """
        return Bounds(self._ruled_out(1, worse), -self._ruled_out(-1, passed))

    def _effect(self, mean: float) -> float:
        """In parts of the cap, as `mean` is, the incumbent's."""
        fixed = self.effect or abs(self.margin) or self.cap / 100
        return self.part * mean if self.part and not self.effect else fixed / self.cap

    def _capped(self, sums: Sums) -> Sums:
        scaled = sums.times(1 / self.cap)
        slack = 1e-9 * scaled.n
        if not -slack <= scaled.squares <= scaled.total + slack <= scaled.n + 2 * slack:
            raise ValueError(
                f"{sums} can't be sums of values from 0 to {self.cap}: cut values off at the cap before adding"
            )
        return scaled

    def _asked(self, segments: Floats, sign: int, harms: Floats) -> Floats:
        return log_evidence(segments, sign, harms / self.cap, self._reach(segments, sign))

    def _reach(self, segments: Floats, sign: int) -> Floats:
        """How far from the margin each segment's bets may be asked, in parts of the cap."""
        return sign * self.margin / self.cap + _REACH[sign] * segments[6]

    def _ruled_out(self, sign: int, alpha: float) -> float:
        """The greatest sign·harm that is ruled out; the margin is looked at first, so that it decides exactly."""
        if not self.segments:
            return -self.cap
        segments, wanted = table(self.segments), math.log(1 / alpha)
        margin, effect = sign * self.margin, self.cap * float(segments[6].min())
        if self._asked(segments, sign, np.array((self.margin,)))[0] >= wanted:
            last = min(self.cap, self.cap * float(self._reach(segments, sign).min()))
            marks = np.linspace(margin, max(last, margin), _MARKS)
        else:
            marks = np.unique(np.clip(np.append(margin - effect * _AWAY, (-self.cap, margin)), -self.cap, margin))
        while True:
            passed = self._asked(segments, sign, sign * marks[1:-1]) >= wanted
            at = int(np.argmin(np.append(passed, False)))  # evidence gets weaker from mark to mark
            low, high = float(marks[at]), float(marks[at + 1])
            if high - low <= max(effect, abs(low - margin)) / _STEPS:
                return low
            marks = np.linspace(low, high, _MARKS)

    def _open(self, share: float) -> int | None:
        """The segment that takes more of this share: the last one, until it holds half of what was seen of either arm."""
        places = [place for place, one in enumerate(self.segments) if one.share == share]
        if not places:
            return None
        last = self.segments[places[-1]]
        full = 0 < self.incumbent.n <= 2 * last.incumbent.n or 0 < self.candidate.n <= 2 * last.candidate.n
        return None if full else places[-1]

    def _opened(self, share: float) -> Segment:
        """A segment whose bets are sized by what was seen so far."""
        mean, square = _moments(self.incumbent, None if self.expected is None else self.expected / self.cap)
        variance = max(square - mean * mean, 1e-9)
        # Where nothing is known, what the incumbent does must not look as if the candidate did it.
        known = self.incumbent.n > 0 or self.expected is not None
        effect = self._effect(mean)
        beyond = self.margin / self.cap if self.margin > 0 else effect / 2
        seen = self.incumbent.plus(self.candidate)
        rest = seen.flipped(1)
        return Segment(
            share,
            worse_centre=min(mean, 1.0) if known else 0.0,
            passed_centre=min(mean, 1.0) if known else 1.0,
            spread=variance * (1 + (1 - share) * beyond / mean),  # a count's variance grows with its mean
            upward=min(max(seen.squares / seen.total, _NEAR), 1.0) if seen.total > 0 else 1.0,
            downward=1 - min(max(rest.squares / rest.total, _NEAR), 1.0) if rest.total > 0 else 0.0,
            effect=effect,
        )


def _moments(seen: Sums, expected: float | None) -> tuple[float, float]:
    """Mean and mean square, with a little of what is expected: half a hit where nothing is."""
    weight, hits = (1.0, 0.5) if expected is None else (20.0, 20 * expected)
    n = seen.n + weight
    return max((seen.total + hits) / n, 0.5 / n), max((seen.squares + hits) / n, 0.5 / n)

"""A confidence sequence for how many times slower a candidate's tail is: valid at every look, however heavy the tail.

What is compared: x is the incumbent's quantile as it was known before (an edge of its bin in the sketch), r a ratio. If
the candidate's values are at most r times the incumbent's, they exceed r·x at most as often as the incumbent's exceed
x. Both are counted exactly at edges of bins, and are zeros and ones, so the evidence is that of `bets`. It holds while
load rises and falls for both, while the share changes, and for any x; that x lies at the quantile (to a bin's 2 % and what
the incumbent's sample allows) is what makes it evidence about that quantile. Ratios are told on the grid of the bins, and
rounded against the decision: with a margin of 1.10 worse means above 1.105, passed means below 1.083.

Two sequences for two quantiles (Howard and Ramdas 2022; `shares.quantile_bounds`) assume less about what the candidate does beside
the quantile. But they would have to rule out every other position of the incumbent's, lose a bin on either side, and
take a load that rises while the share does for harm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from servery.stats.bets import Segment, log_evidence, table
from servery.stats.sketch import LIMIT, RATIO, TOP, Sketch, index_of
from servery.stats.windows import Bounds, hits

_BIN = math.log(RATIO)
_FEWEST = 20  # values above the incumbent's quantile, before it is taken as known
_MARKS = 10  # ratios that are looked at within one effect
_REACH = {1: (-2, 4), -1: (-2, 2)}  # effects from the margin between which ratios are looked at
_STALE = 2.0  # times as many above x as there should be, or as few
_SEGMENTS = 200


class Side(msgspec.Struct, frozen=True):
    """What is counted to show one thing, that the candidate is worse or that it has passed.

    `index` is the bin at whose edge x lies, `part` the part of the incumbent's values that was above it, `effect` how much
    that part changes with an effect that matters; `incumbent` counts values above x, `candidate` those above each r·x.
    """

    index: int
    part: float
    effect: float
    incumbent: int = 0
    candidate: tuple[int, ...] = ()


class Tail(msgspec.Struct, frozen=True):
    """The counts of windows in which x and the share stayed the same."""

    share: float
    worse: Side
    passed: Side
    incumbent: int = 0
    candidate: int = 0


class QuantileHarm(msgspec.Struct, frozen=True):
    """Harm = candidate's quantile / incumbent's - 1, which may be at most `margin`: 0.25 allows 25 % more.

    The sequence is narrowest where a true ratio is about 1 + `effect` times from 1 + margin (by default: the margin). It
    is a value: `after` returns the next one, with about two tails for each doubling of the data. Windows only teach where the
    incumbent's quantile lies until 20 values are above it; those with share 0 teach it before the candidate gets anything.
    """

    quantile: float
    margin: float
    effect: float = 0.0
    tails: tuple[Tail, ...] = ()
    incumbent: bytes = b"\x90"  # the incumbent's sketch since the last tail began
    seen: tuple[int, int] = (0, 0)  # values of the incumbent, of the candidate

    def after(self, share: float, incumbent: Sketch, candidate: Sketch) -> QuantileHarm:
        """With what came in since the last look; each value comes once, in whatever window it arrives."""
        recent, tails = Sketch.from_bytes(self.incumbent), self.tails
        new = (incumbent.count, candidate.count)
        if 0 < share < 1 and sum(new):
            place = self._open(share, recent)
            if place is None and (opened := self._opened(share, recent)) is not None:
                tails, place, recent = (*tails, opened), len(tails), Sketch()
            if place is not None:
                grown = self._grown(tails[place], incumbent, candidate)
                tails = (*tails[:place], grown, *tails[place + 1 :])
        recent.merge(incumbent)
        seen = (self.seen[0] + new[0], self.seen[1] + new[1])
        return msgspec.structs.replace(self, tails=tails, incumbent=recent.to_bytes(), seen=seen)

    def evidence(self, sign: int) -> float:
        """Logarithm of the evidence that the ratio is above 1 + margin (sign 1), or below it (sign -1)."""
        return self._asked(sign, self._scale.marks(sign).index(self._scale.own(sign)))

    def bounds(self, worse: float, passed: float) -> Bounds:
        """(low, high) of the harm: low is at or above the true one with the chance `worse` at most, at any look; high below, `passed`.

        low ≥ margin: the candidate is worse. high ≤ margin: it has passed. -1 and sketch.LIMIT where nothing is known; neither
        goes further from the margin on the other's side than four effects (low) or two (high).
        """
        low = self._ruled_out(1, math.log(1 / worse))
        high = self._ruled_out(-1, math.log(1 / passed))
        return Bounds(-1.0 if low is None else RATIO**low - 1, float(LIMIT) if high is None else RATIO**high - 1)

    @property
    def _scale(self) -> _Scale:
        effect = math.log1p(self.effect or abs(self.margin) or 0.1) / _BIN
        return _Scale(math.log1p(self.margin) / _BIN, max(effect, 1.0))

    def _ruled_out(self, sign: int, wanted: float) -> int | None:
        """The ratio furthest on, in bins, that is ruled out; the margin is looked at first, so that it decides exactly."""
        marks = self._scale.marks(sign)
        last, open_, middle = -1, len(marks), marks.index(self._scale.own(sign))
        while open_ - last > 1:
            if self._asked(sign, middle) >= wanted:
                last = middle
            else:
                open_ = middle
            middle = (last + open_) // 2
        return marks[last] if last >= 0 else None

    def _asked(self, sign: int, mark: int) -> float:
        sides = [(tail, tail.worse if sign > 0 else tail.passed) for tail in self.tails]
        segments = [
            Segment(
                tail.share, one.part, one.part, one.part * (1 - one.part) / one.effect, 1.0, 0.0, 1.0,
                hits(one.incumbent, tail.incumbent), hits(one.candidate[mark], tail.candidate),
            )
            for tail, one in sides
        ]  # fmt: skip
        return float(log_evidence(table(segments), sign, (0.0,), 0.0)[0])

    def _open(self, share: float, recent: Sketch) -> int | None:
        """The tail that takes more of this share: the last one, until it holds half of what was seen, or x is out of date."""
        places = [place for place, one in enumerate(self.tails) if one.share == share]
        if not places:
            return None
        last = self.tails[places[-1]]
        full = 0 < self.seen[0] <= 2 * last.incumbent or 0 < self.seen[1] <= 2 * last.candidate
        part, total = last.worse.part, recent.count
        stale = total * part >= _FEWEST and not 1 / _STALE <= recent.above(last.worse.index) / (total * part) <= _STALE
        return None if full or (stale and len(self.tails) < _SEGMENTS) else places[-1]

    def _opened(self, share: float, recent: Sketch) -> Tail | None:
        """A tail with x at the incumbent's quantile as it is known now; None where it isn't."""
        if recent.count * (1 - self.quantile) > _FEWEST - 0.5:
            index = index_of(recent.quantile(self.quantile) or 0.0)
            return Tail(share, self._side(1, index, recent), self._side(-1, max(index - 1, 0), recent))
        if not self.tails:
            return None
        last = self.tails[-1]
        worse, passed = (Side(one.index, one.part, one.effect) for one in (last.worse, last.passed))
        return Tail(share, self._cleared(1, worse), self._cleared(-1, passed))

    def _side(self, sign: int, index: int, recent: Sketch) -> Side:
        """How often the incumbent is above x, and how much more often (or less) above what lies an effect from it."""
        total, bins = recent.count, round(self._scale.effect)
        below = recent.cumulative(max(index - bins, 0), index + bins)
        part = (total - below[min(index, bins)] + 0.5) / (total + 1)
        moved = (total - below[0 if sign > 0 else -1] + 0.5) / (total + 1)
        least = min(part, 1 - part) * bins * _BIN / 4
        return self._cleared(sign, Side(index, part, max(abs(moved - part), least)))

    def _cleared(self, sign: int, side: Side) -> Side:
        return msgspec.structs.replace(side, candidate=(0,) * len(self._scale.marks(sign)))

    def _grown(self, tail: Tail, incumbent: Sketch, candidate: Sketch) -> Tail:
        return msgspec.structs.replace(
            tail,
            worse=self._counted(1, tail.worse, incumbent, candidate),
            passed=self._counted(-1, tail.passed, incumbent, candidate),
            incumbent=tail.incumbent + incumbent.count,
            candidate=tail.candidate + candidate.count,
        )

    def _counted(self, sign: int, side: Side, incumbent: Sketch, candidate: Sketch) -> Side:
        marks = [min(max(side.index + mark, 0), TOP) for mark in self._scale.marks(sign)]
        first, last = min(marks), max(marks)
        total, below = candidate.count, candidate.cumulative(first, last)
        grown = tuple(before + total - below[mark - first] for before, mark in zip(side.candidate, marks, strict=True))
        return msgspec.structs.replace(side, incumbent=side.incumbent + incumbent.above(side.index), candidate=grown)


class _Scale(NamedTuple):
    """The margin and the effect in bins, and the ratios that are looked at."""

    margin: float
    effect: float

    def own(self, sign: int) -> int:
        """The margin, rounded against the decision."""
        return math.ceil(self.margin - 1e-9) if sign > 0 else math.floor(self.margin + 1e-9)

    def marks(self, sign: int) -> list[int]:
        """In bins, in the order in which evidence gets weaker: from small ratios to great ones for worse (sign 1), else back."""
        step = max(1, round(self.effect / _MARKS))
        first, last = (round(effects * self.effect / step) for effects in _REACH[sign])
        own = self.own(sign)
        marks = [own + step * place for place in range(first, last + 1)]
        return marks if sign > 0 else marks[::-1]

"""Pacing: thresholds follow live traffic, so that a Route's mean cost stays under its ceiling and shares in their bands. Pure.

A threshold moves only on evidence: when, over some stretch of the last Requests, a promise is broken by more than chance
would explain. It then goes to the place nearest to the declared one that would have kept all promises over that stretch,
with room to spare; what was seen before belongs to another mix and is forgotten. When there is more to go by, the step
is looked at again. It comes back when what was seen since says that a place nearer to the declared one would do. Where
promises conflict, the mean ceiling goes before shares.

Sketches of scores and confidences say what other thresholds would have given, so nothing has to be tried out. Against
hunting, a threshold that has turned waits longer before it turns again: in 10,000 Requests it can't turn six times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from servery.routing.aim import WORTH, Aim, Bounds, expected, missed
from servery.routing.outlook import Floats, Outlook
from servery.routing.pace import Layout, Pace

SURE = 3.0  # standard errors beyond a promise: it is broken
LEAST = 200  # Requests that say something
_LOOKS = (LEAST, 500, 1_000, 2_000)  # Requests after a step, when it is looked at whether it was right
_EASE = 1_000  # Requests since the last step, before one back towards what is declared
_NEARER = 0.8  # such a step leaves at most so much of the distance
_WAIT, _LONGEST_WAIT, _CALM = 500, 4_000, 8_000  # Requests between turns: at first, at most, and when that is forgotten
_BUCKET = 25  # Requests of the smallest part that is kept apart
_ALIKE = 4  # parts of about one size, before two of them become one
_MOST = 16_384  # Requests that are remembered
_STRETCH = 1.4  # each stretch that is looked at is so much longer than the one before
_DAY_NS = 86_400 * 10**9  # what is older is no evidence
_PRIOR = 1.0  # Requests that what was forgotten counts as, where nothing newer is known


class Moved(msgspec.Struct, frozen=True):
    """A step: the thresholds from now on, and why."""

    thresholds: tuple[float, ...]
    why: str


class Paced(msgspec.Struct, frozen=True):
    """How a Route stands. `shares` (by tier; none: nothing was seen) and `mean_pico` are what the present thresholds give on
    the `requests` that are remembered; `unkept` are the promises that no thresholds in their ranges would keep.
    """

    thresholds: tuple[float, ...]
    requests: int
    shares: tuple[float, ...]
    mean_pico: float
    unkept: tuple[str, ...]


class _Bucket(msgspec.Struct, frozen=True):
    """What was seen in some stretch, until `at_ns`."""

    seen: Floats
    at_ns: int

    @property
    def requests(self) -> float:
        return float(self.seen[Layout.REQUESTS])

    @property
    def size(self) -> int:
        """Its class: each holds twice as many Requests as the one before."""
        return max(int(math.log2(max(self.requests, 1) / _BUCKET)), 0)


class _Memory:
    """What was seen, in buckets that get larger with their age. The oldest `apart` ones are not merged with younger ones."""

    def __init__(self, size: int) -> None:
        self.buckets: list[_Bucket] = []
        self.apart = 0
        self._past = np.zeros(size)

    @property
    def prior(self) -> Floats:
        """What was forgotten, as if that had been next to nothing."""
        requests = float(self._past[Layout.REQUESTS])
        return self._past * (_PRIOR / requests) if requests else self._past

    @property
    def all(self) -> Floats:
        return sum((bucket.seen for bucket in self.buckets), np.zeros(len(self._past)))

    def add(self, bucket: _Bucket) -> None:
        self.buckets.append(bucket)
        at = len(self.buckets) - 1
        while at >= self.apart:
            size = self.buckets[at].size
            alike = [i for i in range(self.apart, len(self.buckets)) if self.buckets[i].size == size]
            if len(alike) <= _ALIKE:
                at = alike[0] - 1
                continue
            at = alike[0]
            older, newer = self.buckets[at : at + 2]
            self.buckets[at : at + 2] = [_Bucket(older.seen + newer.seen, newer.at_ns)]
        while len(self.buckets) > 2 and sum(bucket.requests for bucket in self.buckets[1:]) >= _MOST:
            self.forget(1)

    def forget(self, count: int) -> None:
        """Let go of so many of the oldest buckets."""
        for bucket in self.buckets[:count]:
            self._past = self._past + bucket.seen
        del self.buckets[:count]
        self.apart = max(self.apart - count, 0)

    def stretches(self) -> Iterator[tuple[int, Floats]]:
        """The last Requests, in stretches from short to long: how many buckets, and what was seen in them."""
        seen, least = np.zeros(len(self._past)), float(LEAST)
        for count, bucket in enumerate(reversed(self.buckets), 1):
            seen = seen + bucket.seen
            requests = float(seen[Layout.REQUESTS])
            if requests >= (LEAST if count == len(self.buckets) else least):
                yield count, seen
                least = requests * _STRETCH


class _Stand:
    """Where a threshold stands, when it moved and turned last, and how long it waits to turn again (all in Requests)."""

    __slots__ = ("direction", "moved", "patience", "place", "turned")

    def __init__(self, place: int) -> None:
        self.place = place
        self.direction = 0
        self.moved = self.turned = -_CALM
        self.patience = _WAIT

    def go(self, place: int, total: int) -> None:
        direction = (place > self.place) - (place < self.place)
        if not direction:
            return
        if self.direction == -direction:
            calm = total - self.turned > _CALM
            self.patience = _WAIT if calm else min(2 * self.patience, _LONGEST_WAIT)
            self.turned = total
        self.place, self.direction, self.moved = place, direction, total

    def reach(self, levels: int, total: int) -> range:
        """The levels that it may go to now."""
        if self.direction == 0 or total - self.moved >= self.patience:
            return range(levels)
        return range(self.place, levels) if self.direction > 0 else range(self.place + 1)


class _Broken(msgspec.Struct, frozen=True):
    """A stretch of some buckets over which a promise doesn't hold, by so many standard errors."""

    by: float
    buckets: int
    look: Outlook
    why: str


class Pacer:
    """The thresholds of one Route. Single owner. `at`: where they stood before, of the same Pace."""

    def __init__(self, pace: Pace, at: Sequence[float] = ()) -> None:
        self.pace = pace
        self._layout = Layout(pace)
        self.unkept: tuple[str, ...] = ()  # the promises that no thresholds in their ranges would keep
        stood = at if len(at) == len(pace.dials) else pace.declared
        self._stands = [_Stand(_nearest(dial.levels, was)) for dial, was in zip(pace.dials, stood, strict=True)]
        self._declared = [_nearest(dial.levels, dial.declared) for dial in pace.dials]
        self._free = [range(len(dial.levels)) for dial in pace.dials]
        self._memory = _Memory(self._layout.size)
        self._open = np.zeros(self._layout.size)
        self._total = self._stepped = 0
        self._looks: list[int] = []

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Those to use now, in the order of the dials."""
        return tuple([dial.levels[stand.place] for dial, stand in zip(self.pace.dials, self._stands, strict=True)])

    def see(self, counts: Mapping[int, float]) -> None:
        """Add what a worker counted, by its place in the Layout. What has no place there is left out."""
        for at, count in counts.items():
            if 0 <= at < len(self._open):
                self._open[at] += count

    def decide(self, now_ns: int) -> Moved | None:
        """Look at what is new, and move the thresholds where that is called for. `now_ns` is steady."""
        if self._forgets(now_ns):
            return self._go(self._declared, "nothing was seen for a day")
        fresh = int(self._open[Layout.REQUESTS])
        if fresh < _BUCKET:
            return None
        self._total += fresh
        self._memory.add(_Bucket(self._open, now_ns))
        self._open = np.zeros(self._layout.size)
        broken = self._broken()
        if broken is not None:
            return self._mend(broken)
        self.unkept = ()
        return self._settle() or self._ease()

    def stands(self) -> Paced:
        """How things are."""
        look = self._look(self._memory.all)
        given = expected(look, self._here)
        known = look.rows > 0
        shares = tuple([float(share) for share in given.shares]) if known else ()
        return Paced(self.thresholds, int(look.requests), shares, float(given.pico) if known else 0.0, self.unkept)

    @property
    def _here(self) -> list[int]:
        return [stand.place for stand in self._stands]

    def _look(self, seen: Floats) -> Outlook:
        return Outlook(self.pace, self._layout, seen, self._memory.prior)

    def _forgets(self, now_ns: int) -> bool:
        """Let go of what is too old; whether nothing is left by which the thresholds could stand where they do."""
        buckets, had = self._memory.buckets, bool(self._memory.buckets)
        while buckets and now_ns - buckets[0].at_ns > _DAY_NS:
            self._memory.forget(1)
        return had and not buckets and not self._open[Layout.REQUESTS]

    def _broken(self) -> _Broken | None:
        """The stretch that says most clearly that a promise is broken, if one does."""
        worst: _Broken | None = None
        for buckets, seen in self._memory.stretches():
            look = self._look(seen)
            for by, why in self._bounds().beyond(look, expected(look, self._here)):
                if by >= SURE and (worst is None or by > worst.by):
                    worst = _Broken(by, buckets, look, why)
        return worst

    def _mend(self, broken: _Broken) -> Moved | None:
        """Go where the promises would have been kept over this stretch, or as nearly as can be."""
        aim = Aim(self.pace, broken.look, self._declared)
        here = self._here
        best = aim.best(here, self._free)
        self.unkept = tuple(missed(self.pace, expected(broken.look, best)))
        if (reach := self._reach()) != self._free:
            best = aim.best(here, reach)
        bounds = self._bounds()
        over, out = bounds.missing(expected(broken.look, here))
        over_then, out_then = bounds.missing(expected(broken.look, best))
        if over - over_then < WORTH and (over_then > over or out - out_then < WORTH):
            return None
        self._memory.forget(len(self._memory.buckets) - broken.buckets)
        self._memory.apart, self._stepped = broken.buckets, self._total
        self._looks = [at for at in _LOOKS if at >= min(broken.look.requests, _LOOKS[-1])]
        return self._go(best, broken.why)

    def _settle(self) -> Moved | None:
        """Look whether a step went far enough. It was made on few Requests, some of which were still of the mix before."""
        if not self._looks or self._total - self._stepped < self._looks[0]:
            return None
        self._looks.pop(0)
        self._memory.forget(self._memory.apart)
        look, here = self._look(self._memory.all), self._here
        if Aim(self.pace, look, self._declared, 0.0).lacks(here) < 0.5 / math.sqrt(max(look.even, 1.0)):
            return None
        return self._go(Aim(self.pace, look, self._declared).best(here, self._reach()), "the last step was too short")

    def _ease(self) -> Moved | None:
        """Go back towards what is declared, as far as that surely keeps the promises."""
        here, waits = self._here, max(_EASE, *(stand.patience for stand in self._stands))
        if here == self._declared or self._total - max(stand.moved for stand in self._stands) < waits:
            return None
        look = self._look(self._memory.all)
        if look.requests < waits:
            return None
        aim = Aim(self.pace, look, self._declared, SURE, 1.0)
        best = aim.best(here, self._free)
        if aim.lacks(best) > 1e-9 or aim.distance(best) > _NEARER * aim.distance(here):
            return None
        return self._go(best, "what was seen since would have kept the promises nearer to what is declared")

    def _bounds(self) -> Bounds:
        """What is declared stays until it breaks a promise; what has moved keeps room to the edges."""
        return Bounds(self.pace, self._here != self._declared)

    def _reach(self) -> list[range]:
        return [
            stand.reach(len(dial.levels), self._total)
            for dial, stand in zip(self.pace.dials, self._stands, strict=True)
        ]

    def _go(self, places: Sequence[int], why: str) -> Moved | None:
        before = self.thresholds
        for stand, place in zip(self._stands, places, strict=True):
            stand.go(place, self._total)
        return Moved(self.thresholds, why) if self.thresholds != before else None


def _nearest(levels: Sequence[float], threshold: float) -> int:
    return min(range(len(levels)), key=lambda at: abs(levels[at] - threshold))

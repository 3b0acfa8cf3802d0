"""Which thresholds are sought, and which promises others don't keep. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from servery.routing.outlook import Expected, Floats, Outlook
from servery.routing.pace import Pace

HORIZON = 1_000  # Requests over which a share should be inside of its band, but for one time in twenty or so
WORTH = 0.003  # of a share, or of the ceiling: what is missing less is as good as kept
_ROOM = 0.1  # of a band, to its edges, at least
_ROOM_LEAST, _ROOM_MOST = 0.02, 0.15  # of the ceiling, below it
_ROUNDS = 3

Levels = NDArray[np.int64]


class Aim:
    """What is sought for a Route: the ceiling first, then the bands, each with room to spare, then to be near to the levels
    that are `declared`. `sure`: with so many standard errors of what was seen to spare as well, but not more than `most` of
    the ceiling.
    """

    def __init__(
        self, pace: Pace, look: Outlook, declared: Sequence[int], sure: float = 2.0, most: float = _ROOM_MOST
    ) -> None:
        self._pace = pace
        self._look = look
        self._declared = declared
        self._values = [np.array(dial.levels) for dial in pace.dials]
        self._most = pace.most_pico * (1 - min(max(sure * look.spread, _ROOM_LEAST), most))
        errors = math.hypot(2 / math.sqrt(HORIZON), sure / math.sqrt(max(look.even, 1.0)))
        self._bands = [_inside(band.low, band.high, errors) for band in pace.bands]

    def best(self, start: Sequence[int], reach: Sequence[range]) -> list[int]:
        """The best levels within `reach`, over two neighbouring dials at a time until nothing gets better."""
        best = list(start)
        dials = [at for at, levels in enumerate(reach) if len(levels) > 1]
        pairs = list(pairwise(dials)) or [(at, at) for at in dials]
        for _ in range(_ROUNDS if len(pairs) > 1 else 1):
            before = list(best)
            for one, other in pairs:
                self._choose(best, one, other, reach)
            if best == before:
                break
        return best

    def lacks(self, places: Sequence[int]) -> float:
        """What is missing with room to spare, of ceiling and shares together."""
        cost, shares = self._lacking(_points(places))
        return float(cost) + float(shares)

    def distance(self, places: Sequence[int]) -> float:
        """From 0 to 1, how far these levels are from the declared ones."""
        return float(self._away(_points(places)))

    def _choose(self, best: list[int], one: int, other: int, reach: Sequence[range]) -> None:
        """Put the best of all pairs of levels into `best`."""
        places = _points(best)
        places[one] = np.array(reach[one], np.int64)[:, np.newaxis]
        if other != one:
            places[other] = np.array(reach[other], np.int64)[np.newaxis, :]
        score = np.atleast_2d(self._score(places))
        row, column = np.unravel_index(int(np.argmin(score)), score.shape)
        best[one] = reach[one][int(row)]
        if other != one:
            best[other] = reach[other][int(column)]

    def _score(self, places: Sequence[Levels]) -> Floats:
        """The less the better. A thousandth of the ceiling outweighs all bands, and a thousandth of a band any distance."""
        cost, shares = self._lacking(places)
        return 1e6 * cost + 1e3 * shares + self._away(places) + self._disorder(places)

    def _lacking(self, places: Sequence[Levels]) -> tuple[Floats, Floats]:
        expected, most = self._look.at(places), self._pace.most_pico
        cost = np.maximum(expected.pico - self._most, 0) / most if most else np.zeros(())
        shares = np.zeros(())
        for band, (low, high) in zip(self._pace.bands, self._bands, strict=True):
            share = expected.shares[band.tier]
            shares = shares + np.maximum(share - high, 0) + np.maximum(low - share, 0)
        return cost, shares

    def _away(self, places: Sequence[Levels]) -> Floats:
        away = np.zeros(())
        for dial, values, place, declared in zip(self._pace.dials, self._values, places, self._declared, strict=True):
            if dial.width:
                away = away + np.abs(values[place] - values[declared]) / dial.width
        return away / len(self._pace.dials)

    def _disorder(self, places: Sequence[Levels]) -> Floats:
        """The thresholds of one score must ascend."""
        wrong = np.zeros(())
        entering = [at for at, dial in enumerate(self._pace.dials) if dial.enters]
        for one, other in pairwise(entering):
            wrong = wrong + 1e12 * (self._values[one][places[one]] > self._values[other][places[other]])
        return wrong


def expected(look: Outlook, places: Sequence[int]) -> Expected:
    """What these levels would have given."""
    return look.at(_points(places))


class Bounds:
    """The promises of a Route as numbers to stay within. With `room` they are a little narrower, so that a share stays inside
    over any thousand requests on end.
    """

    def __init__(self, pace: Pace, room: bool) -> None:
        self._pace = pace
        self._most = pace.most_pico * (1 - _ROOM_LEAST if room else 1)
        self._bands = [
            _inside(band.low, band.high, 2 / math.sqrt(HORIZON)) if room else (band.low, band.high)
            for band in pace.bands
        ]

    def missing(self, given: Expected) -> tuple[float, float]:
        """What is missing: a part of the ceiling, and of all shares."""
        pace = self._pace
        over = max(float(given.pico) - self._most, 0.0) / pace.most_pico if pace.most_pico else 0.0
        shares = [float(given.shares[band.tier]) for band in pace.bands]
        return over, sum(
            max(share - high, low - share, 0.0) for share, (low, high) in zip(shares, self._bands, strict=True)
        )

    def beyond(self, look: Outlook, given: Expected) -> Iterator[tuple[float, str]]:
        """By how many standard errors each of them is missed, and how that is told."""
        pace, mean = self._pace, float(given.pico)
        if pace.most_pico and mean > self._most:
            why = f"a million inferences cost ${mean / 1e6:.6g}, and at most ${pace.most_pico / 1e6:.6g} are promised"
            yield (mean - self._most) / (max(look.spread, 1e-9) * mean), why
        for band, (low, high) in zip(pace.bands, self._bands, strict=True):
            share, even = float(given.shares[band.tier]), max(look.even, 1.0)
            if not low <= share <= high:
                edge = low if share < low else high
                name = pace.tiers[band.tier]
                why = f"{name} answers {share:.4f} of the rows, and {band.low:g} to {band.high:g} are promised"
                yield abs(share - edge) / math.sqrt(max(edge * (1 - edge), 1 / even) / even), why


def missed(pace: Pace, given: Expected) -> Iterator[str]:
    """The promises that are not as good as kept."""
    mean = float(given.pico)
    if pace.most_pico and mean > pace.most_pico * (1 + WORTH):
        yield f"the mean ceiling of ${pace.most_pico / 1e6:.6g} per million: it would be ${mean / 1e6:.6g}"
    for band in pace.bands:
        share = float(given.shares[band.tier])
        if max(share - band.high, band.low - share) > WORTH:
            yield f"{band.low:g} to {band.high:g} of the rows for {pace.tiers[band.tier]}: it would be {share:.4f}"


def _inside(low: float, high: float, errors: float) -> tuple[float, float]:
    """A band with room to its edges: a tenth of it, or so many standard errors of one row's share, up to its middle. There is
    none where a share can't be beyond.
    """
    middle = (low + high) / 2
    room_low, room_high = (max(_ROOM * (high - low), errors * math.sqrt(edge * (1 - edge))) for edge in (low, high))
    return (low if low <= 0 else min(low + room_low, middle)), (high if high >= 1 else max(high - room_high, middle))


def _points(places: Sequence[int]) -> list[Levels]:
    return [np.asarray(place, np.int64) for place in places]

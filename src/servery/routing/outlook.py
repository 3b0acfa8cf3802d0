"""What thresholds would have given on the traffic that was seen: shares by tier, and pico-dollars an inference. Pure.

A sketch of scores and confidences says it for thresholds that were not in effect too. What it can't know is taken from
what was seen: rows that a tier would pass on are as sure, in the tiers after it, as those that it did pass on, and a
call costs what was forecast for it, times what such calls cost beside their forecasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.routing.pace import Layout, Pace

Floats = NDArray[np.float64]
Places = Sequence[NDArray[np.int64]]  # by dial: which of its levels


class Expected(msgspec.Struct, frozen=True):
    """By tier the share of rows that it answers, and mean pico-dollars an inference; each of the shape of the Places."""

    shares: tuple[Floats, ...]
    pico: Floats


class Outlook:
    """What was seen of a Route, ready to be asked. `prior` is added where nothing else is known: it hardly counts."""

    def __init__(self, pace: Pace, layout: Layout, seen: Floats, prior: Floats | None = None) -> None:
        tiers = layout.tiers
        known = seen if prior is None else seen + prior
        self.requests = float(seen[Layout.REQUESTS])
        self.rows = float(seen[Layout.ROWS])
        self._other = seen[layout.other : layout.called]
        self._other_pico = float(seen[Layout.OTHER_PICO])
        spent, forecast = known[layout.called : layout.forecast], known[layout.forecast : layout.entered]
        self._rates = np.divide(spent, forecast, out=np.ones(tiers), where=forecast > 0)
        entered = seen[layout.entered : layout.entered + layout.cells * (1 + tiers)].reshape(layout.cells, 1 + tiers)
        self._entered = _from(entered)  # by level of the score: of all prompts above it
        self._at_level = [
            np.searchsorted(layout.scores, dial.levels).astype(np.int64) if dial.enters else None for dial in pace.dials
        ]
        self._entering = [at for at, dial in enumerate(pace.dials) if dial.enters]
        self._accepting = {dial.tier: at for at, dial in enumerate(pace.dials) if not dial.enters}
        self._accepts: dict[int, tuple[Floats, Floats]] = {}
        for tier in self._accepting:
            at, levels = layout.judged(tier)
            cells = len(levels) + 1
            self._accepts[tier] = _accepts(known[at : at + 2 * cells].reshape(cells, 2))
        self._seen = seen

    @property
    def even(self) -> float:
        """How many rows of one Request each say as much as these (Kish): rows of one Request may be all alike."""
        squares = float(self._seen[Layout.SQUARES])
        return self.rows * self.rows / squares if squares else 0.0

    @property
    def spread(self) -> float:
        """The standard error of the mean cost, as a part of it."""
        pico, cross = float(self._seen[Layout.PICO]), float(self._seen[Layout.CROSS])
        if not pico or not self.rows:
            return 0.0
        mean = pico / self.rows
        squares = float(self._seen[Layout.PICO_SQUARES]) - 2 * mean * cross
        return math.sqrt(max(squares + mean * mean * float(self._seen[Layout.SQUARES]), 0.0)) / pico

    def at(self, places: Places) -> Expected:
        """What these thresholds would have given."""
        tiers, rows = len(self._other), max(self.rows, 1e-9)
        above = [self._entered[self._level(dial, places)] for dial in self._entering]
        shares: list[Floats] = []
        pico = np.float64(self._other_pico)
        going = going_weight = np.float64(0)
        for tier in range(tiers):
            first = self._entered[0] if tier == 0 else above[tier - 1] if above else None
            after = above[tier] if tier < len(above) else None
            entering = _part(first, after, 0)
            reached = entering + going
            pico = pico + self._rates[tier] * (_part(first, after, 1 + tier) + going_weight)
            if tier in self._accepts:
                accepted, weight = self._accepts[tier]
                level = places[self._accepting[tier]]
                answered = reached * accepted[level]
                going, going_weight = reached - answered, reached * weight[level]
            else:
                answered, going, going_weight = reached, np.float64(0), np.float64(0)
            shares.append(np.asarray((answered + self._other[tier]) / rows, np.float64))
        return Expected(tuple(shares), np.asarray(pico / rows, np.float64))

    def _level(self, dial: int, places: Places) -> NDArray[np.int64]:
        known = self._at_level[dial]
        assert known is not None, "it enters"
        return known[places[dial]] + 1


def _from(cells: Floats) -> Floats:
    """Sums from each cell to the last."""
    return np.cumsum(cells[::-1], axis=0)[::-1]


def _part(first: Floats | None, after: Floats | None, column: int) -> Floats:
    """Of what is above one threshold, what isn't above the next."""
    if first is None:
        return np.float64(0)  # pyright: ignore[reportReturnType] a number is an array of no dimension
    return first[..., column] - (0.0 if after is None else after[..., column])


def _accepts(cells: Floats) -> tuple[Floats, Floats]:
    """By level: the part of what was judged that reaches it, and what the rest is expected to cost in the next tier, each
    for one row that was judged. Where nothing was, all is taken to be sure.
    """
    total = float(cells[:, 0].sum())
    if not total:
        levels = len(cells) - 1
        return np.ones(levels), np.zeros(levels)
    return _from(cells)[1:, 0] / total, np.cumsum(cells[:-1, 1]) / total

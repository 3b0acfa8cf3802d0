"""What of a Route's thresholds may move, how far, and for which promises. Pure."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import msgspec

from servery.terms.change import Snapshot
from servery.terms.money import PICO_PER_USD
from servery.terms.placement import speaks
from servery.terms.routes import Route

_LEVELS = 256  # of all thresholds that one number is compared with
_DIGITS = 6
_NEAREST = 1e-6  # to 0 and to 1, of what is spread by its log-odds


class Dial(msgspec.Struct, frozen=True):
    """The threshold between a tier and those after it. Of a score that `enters` it picks where a prompt begins: above it
    the tier is skipped. Else it is one of confidence, below which rows go on to the next tier.

    `levels` are the values that it may have, ascending; of one that may not move there is one.
    """

    tier: int
    enters: bool
    declared: float
    levels: tuple[float, ...]

    @property
    def width(self) -> float:
        """How far it may move from one end to the other."""
        return self.levels[-1] - self.levels[0]


class Band(msgspec.Struct, frozen=True):
    """The share of rows that a tier should answer."""

    tier: int
    low: float
    high: float


class Pace(msgspec.Struct, frozen=True):
    """All that decides how a Route is paced; `of` is its digest. `most_pico`: the mean ceiling of an inference in
    pico-dollars (0: none). `dials` that enter come first, in the order of their tiers.
    """

    of: str
    tiers: tuple[str, ...]
    dials: tuple[Dial, ...]
    bands: tuple[Band, ...]
    most_pico: float

    @property
    def declared(self) -> tuple[float, ...]:
        """The thresholds that are declared, in the order of the dials."""
        return tuple(dial.declared for dial in self.dials)


def paces(snapshot: Snapshot) -> dict[str, Pace]:
    """By name, how those Routes are paced whose thresholds follow their traffic."""
    manifest, found = snapshot.manifest, dict[str, Pace]()
    for name, route in manifest.routes.items():
        router = snapshot.routers.get(name)
        verifiers = [tier.accept.verifier for tier in route.tiers if tier.accept is not None and tier.accept.verifier]
        files = [*([] if router is None else [router]), *(snapshot.verifiers[path] for path in verifiers)]
        learned = None if router is None else router.threshold
        trained = tuple(file.digest for file in files)
        pace = pace_of(route, speaks(manifest.models[route.tiers[0].model]), learned, trained)
        if pace is not None:
            found[name] = pace
    return found


def pace_of(route: Route, in_text: bool, learned: float | None = None, trained: tuple[str, ...] = ()) -> Pace | None:
    """How this Route is paced; None where nothing may move, or no promise would have it move.

    `learned`: the threshold of its trained router, which counts where none is declared; `trained`: digests of the files that
    say what its scores and confidences mean.
    """
    dials = (*_entering(route, in_text, learned), *_accepting(route, in_text))
    bands = tuple(Band(at, *tier.share) for at, tier in enumerate(route.tiers) if tier.share is not None)
    mean = None if route.ceiling is None else route.ceiling.mean_usd_per_million
    if not (bands or mean) or not any(dial.width for dial in dials):
        return None
    declared = (route.tiers, route.policy.kind, dials, mean, trained)
    digest = hashlib.sha256(msgspec.json.encode(declared)).hexdigest()[:16]
    return Pace(digest, tuple(tier.name for tier in route.tiers), dials, bands, (mean or 0.0) * PICO_PER_USD / 1e6)


def _entering(route: Route, in_text: bool, learned: float | None) -> Iterator[Dial]:
    policy = route.policy
    if policy.kind != "complexity" or not in_text:
        return
    thresholds = policy.thresholds or (() if learned is None else (learned,))
    each = _LEVELS // max(len(thresholds), 1)
    for at, threshold in enumerate(thresholds):
        bounds = policy.ranges[at] if at < len(policy.ranges) else None
        yield Dial(at, True, threshold, levels(threshold, bounds, each))


def _accepting(route: Route, in_text: bool) -> Iterator[Dial]:
    if route.policy.kind != "cascade" and not (in_text and route.policy.kind == "complexity"):
        return
    for at, tier in enumerate(route.tiers[:-1]):
        accept = tier.accept
        if accept is not None and (accept.check is not None) == in_text:
            yield Dial(at, False, accept.confidence, levels(accept.confidence, accept.range, _LEVELS))


def levels(declared: float, bounds: tuple[float, float] | None, most: int) -> tuple[float, ...]:
    """The values that a threshold may have: evenly spread over its range, and from 0 to 1 just as many by their log-odds,
    as confidences crowd together at the ends.
    """
    low, high = bounds or (declared, declared)
    if not low <= declared <= high or low == high:
        return (declared,)
    found = {low, declared, high}
    by_odds = low >= 0
    steps = max(most // 2 if by_odds else most, 2)
    found |= {round(low + (high - low) * step / steps, _DIGITS) for step in range(1, steps)}
    if by_odds:
        first, last = _log_odds(low), _log_odds(high)
        found |= {round(1 / (1 + math.exp(-first - (last - first) * step / steps)), _DIGITS) for step in range(steps)}
    return tuple(sorted(level for level in found if low <= level <= high))


def _log_odds(chance: float) -> float:
    chance = min(max(chance, _NEAREST), 1 - _NEAREST)
    return math.log(chance / (1 - chance))


class Layout:
    """Where in a vector of numbers is counted what was seen of a Route. Vectors of one Pace add up, whoever counted.

    First come totals, then what each tier did, then a sketch of each number that a dial is compared with: by cell, that
    is between which two levels it fell, how many there were, and what they were expected to cost further on.
    """

    __slots__ = ("_accepting", "called", "cells", "entered", "forecast", "other", "scores", "size", "tiers")

    # `ROWS` were answered; `SQUARES`, `PICO_SQUARES` and `CROSS` are sums over Requests of rows², pico-dollars² and their product.
    # `OTHER_PICO`: what those Requests cost that the thresholds alone didn't lead.
    REQUESTS, ROWS, SQUARES, PICO, PICO_SQUARES, CROSS, OTHER_PICO = range(7)

    def __init__(self, pace: Pace) -> None:
        tiers = len(pace.tiers)
        self.tiers = tiers
        self.other = 7  # by tier: rows that it answered of Requests that thresholds alone didn't lead
        self.called = self.other + tiers  # by tier: what its calls cost
        self.forecast = self.called + tiers  # by tier: what they were expected to cost
        self.scores = tuple(sorted({level for dial in pace.dials if dial.enters for level in dial.levels}))
        self.cells = len(self.scores) + 1
        self.entered = self.forecast + tiers  # by cell: how many, and by tier what they would cost there
        at = self.entered + self.cells * (1 + tiers)
        self._accepting: dict[int, tuple[int, tuple[float, ...]]] = {}
        for dial in pace.dials:
            if not dial.enters:
                self._accepting[dial.tier] = (at, dial.levels)
                at += 2 * (len(dial.levels) + 1)
        self.size = at

    def judges(self, tier: int) -> bool:
        """Whether there is a sketch of how sure this tier is."""
        return tier in self._accepting

    def judged(self, tier: int) -> tuple[int, tuple[float, ...]]:
        """Where the sketch of this tier's confidence begins, and its levels: one cell more than these, of two numbers each."""
        return self._accepting[tier]

    def at_score(self, score: float | None) -> int:
        """Where this score is counted: in the cell above the levels that it exceeds."""
        cell = 0 if score is None or score != score else bisect_left(self.scores, score)  # noqa: PLR0124 NaN
        return self.entered + cell * (1 + self.tiers)

    def at_confidence(self, tier: int, sure: float) -> int:
        """Where this confidence is counted: in the cell above the levels that it reaches. NaN reaches none."""
        at, known = self._accepting[tier]
        return at + 2 * (bisect_right(known, sure) if sure >= known[0] else 0)

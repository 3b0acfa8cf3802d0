"""A world of workers that answer by thresholds, and of a controller that has these follow what they saw; on virtual time.

What decides is what decides in production: routing.next, and the Pacer over what Watches counted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.gateway.watch import Watch
from servery.routing import next as routing
from servery.routing.next import Facts, Kind, Plan, Settle, Step, Tried, Try
from servery.routing.pace import Pace, pace_of
from servery.routing.pacing import Moved, Paced, Pacer
from servery.terms.record import Attempt, Candidate, Choice, Role
from servery.terms.routes import Route

NS = 10**9
REPORT_NS, DELAY_NS = NS // 2, NS // 20  # how often workers report and the controller decides; a message's way

Draw = np.random.Generator


class Ask(msgspec.Struct, frozen=True):
    """What is asked, and what would come of it: by tier how sure it is, what it costs, and what it is thought to cost."""

    score: float
    sure: tuple[float, ...]
    pico: tuple[float, ...]
    forecast: tuple[float, ...]


class Answered(msgspec.Struct, frozen=True):
    """One request: the tier that answered, what it cost, and the thresholds that it was answered by."""

    tier: int
    pico: float
    thresholds: tuple[float, ...]


class Went(msgspec.Struct, frozen=True):
    """A move of the thresholds, after so many requests."""

    after: int
    moved: Moved


class Lived(msgspec.Struct, frozen=True):
    """What happened. `pace` says what was promised."""

    pace: Pace
    answered: tuple[Answered, ...]
    steps: tuple[Went, ...]
    end: Paced

    def share(self, tier: int, first: int, last: int) -> float:
        """Of the requests from `first` to `last`."""
        return sum(one.tier == tier for one in self.answered[first:last]) / (last - first)

    def mean_pico(self, first: int, last: int) -> float:
        return sum(one.pico for one in self.answered[first:last]) / (last - first)

    def turns(self, first: int, last: int) -> int:
        """How often a threshold changed its direction, at most; a move before `first` has a direction too."""
        return max(self._turns(dial, first, last) for dial in range(len(self.pace.dials)))

    def _turns(self, dial: int, first: int, last: int) -> int:
        turns, direction = 0, 0
        for at in range(1, last):
            before, after = (one.thresholds[dial] for one in self.answered[at - 1 : at + 1])
            if before != after:
                way = 1 if after > before else -1
                turns += at >= first and way == -direction
                direction = way
        return turns


def answer(kind: Kind, pace: Pace, thresholds: Sequence[float], ask: Ask) -> tuple[list[Tried], int]:
    """What is tried for this ask, and the tier whose answer stands."""
    accept = {dial.tier: at for dial, at in zip(pace.dials, thresholds, strict=True) if not dial.enters}
    enters = [at for dial, at in zip(pace.dials, thresholds, strict=True) if dial.enters]
    plan = Plan(kind, tuple(Step(name, accept.get(tier)) for tier, name in enumerate(pace.tiers)))
    facts = Facts(1, 10**18, first=sum(ask.score > threshold for threshold in enters))
    tried: list[Tried] = []
    decision = routing.next(plan, tried, facts, 0)
    while isinstance(decision, Try):
        step = decision.step
        tried.append(Tried(step, None, confidences=(ask.sure[step],) if step in accept else None))
        decision = routing.next(plan, tried, facts, 0)
    assert isinstance(decision, Settle)
    return tried, tried[-1 if decision.by_row is None else decision.by_row[0]].step


class World:
    """Requests come at `times` (ns) to workers drawn at random. `asks` draws the next one, given how many came before. The
    controller dies after each of `deaths` requests, and the next one knows only where the thresholds stand.
    """

    deaths: tuple[int, ...] = ()

    def __init__(
        self, route: Route, times: Sequence[int], asks: Callable[[int], Ask], workers: int, draw: Draw
    ) -> None:
        pace = pace_of(route, True)
        assert pace is not None
        self.pace = pace
        self.pacer = Pacer(pace)
        self._kind = Kind(route.policy.kind)
        self._times = times
        self._asks = asks
        self._watches = [Watch(pace) for _ in range(workers)]
        self._stand = [pace.declared] * workers
        self._draw = draw
        self._answered: list[Answered] = []
        self._steps: list[Went] = []

    def live(self) -> Lived:
        """Let everything happen, in order."""
        for now_ns, act in self._events():
            act(now_ns)
        return Lived(self.pace, tuple(self._answered), tuple(self._steps), self.pacer.stands())

    def _events(self) -> Iterator[tuple[int, Callable[[int], None]]]:
        """Requests, and what is done every so often, as they come."""
        waiting: list[tuple[int, int, Callable[[int], None]]] = []
        number = 0

        def later(at_ns: int, act: Callable[[int], None]) -> None:
            nonlocal number
            number += 1
            heapq.heappush(waiting, (at_ns, number, act))

        def report(worker: int, now_ns: int) -> None:
            counts = self._watches[worker].take()
            later(now_ns + DELAY_NS, lambda _: self.pacer.see(counts))
            later(now_ns + REPORT_NS, lambda at_ns: report(worker, at_ns))

        def decide(now_ns: int) -> None:
            moved = self.pacer.decide(now_ns)
            if moved is not None:
                self._steps.append(Went(len(self._answered), moved))
                later(now_ns + DELAY_NS, lambda _: self._take_over(moved.thresholds))
            later(now_ns + REPORT_NS, decide)

        for worker in range(len(self._watches)):
            phase = int(self._draw.integers(REPORT_NS))
            later(self._times[0] + phase, lambda at_ns, worker=worker: report(worker, at_ns))
        later(self._times[0], decide)
        for at_ns in self._times:
            while waiting and waiting[0][0] <= at_ns:
                then, _, act = heapq.heappop(waiting)
                yield then, act
            yield at_ns, self._one

    def _take_over(self, thresholds: tuple[float, ...]) -> None:
        self._stand = [thresholds] * len(self._stand)

    def _one(self, _: int) -> None:
        """One request."""
        if len(self._answered) in self.deaths:
            self.pacer = Pacer(self.pace, self.pacer.thresholds)
        worker = int(self._draw.integers(len(self._watches)))
        ask, pace, stand = self._asks(len(self._answered)), self.pace, self._stand[worker]
        tried, tier = answer(self._kind, pace, stand, ask)
        attempts = [
            Attempt(Role.SERVE, pace.tiers[one.step], "", "", 1, int(one.step == tier), 0, int(ask.pico[one.step]))
            for one in tried
        ]
        score = ask.score if self._kind is Kind.COMPLEXITY else None
        candidates = tuple(
            Candidate(name, pico_usd=int(pico)) for name, pico in zip(pace.tiers, ask.forecast, strict=True)
        )
        self._watches[worker].note(attempts, tried, Choice(1.0, candidates, score, stand), True)
        self._answered.append(Answered(tier, sum(one.pico_usd for one in attempts), stand))


def given(route: Route, thresholds: Sequence[float], asks: Sequence[Ask]) -> tuple[list[float], float]:
    """What these thresholds truly give: shares by tier, and mean pico-dollars."""
    pace = pace_of(route, True)
    assert pace is not None
    tiers, pico = np.zeros(len(pace.tiers)), 0.0
    for ask in asks:
        tried, tier = answer(Kind(route.policy.kind), pace, thresholds, ask)
        tiers[tier] += 1
        pico += sum(int(ask.pico[one.step]) for one in tried)
    return (tiers / len(asks)).tolist(), pico / len(asks)


def arrivals(count: int, per_s: float, draw: Draw) -> NDArray[np.int64]:
    """Moments in ns: at random, at a rate that wanders by the minute as people do."""
    gaps = draw.exponential(1 / per_s, count)
    minutes = np.exp(0.4 * draw.standard_normal(count // 300 + 1))
    return np.cumsum(gaps * np.repeat(minutes, 300)[:count] * NS).astype(np.int64)

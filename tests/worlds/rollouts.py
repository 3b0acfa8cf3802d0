"""A Rollout on a virtual clock: calls are drawn, and judge and promote decide, as the controller has them do it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from servery.control.evidence import Draw, Seen, Totals, calls_of
from servery.control.judge import Judge
from servery.control.promote import moved
from servery.terms.rollouts import Phase, Rollout, RolloutPolicy

NS = 10**9
Calls = Callable[[np.random.Generator, int], tuple[int, list[int], list[int]]]  # of n calls: errors, ns, pico-dollars


class Ended(msgspec.Struct, frozen=True):
    """How a world ended: the phase, the candidate's calls until then, and the seconds that it took."""

    phase: Phase
    calls: int
    seconds: int
    step: int
    why: str


def world(policy: RolloutPolicy, incumbent: Calls, candidate: Calls, seed: int, rate: float, most_s: int) -> Ended:
    """One Rollout: `rate` calls a second on average, looked at every second for up to `most_s`."""
    draw = np.random.default_rng(seed)
    judge = Judge(policy)
    rollout = Rollout("r1", "m", "old", "new", "new", policy, 0)
    evidence: dict[Draw, Seen] = {}
    for second in range(1, most_s + 1):
        seen = evidence.setdefault(Draw(rollout.step), Seen(Totals(), Totals()))
        calls = int(draw.poisson(rate))
        exposed = int(draw.binomial(calls, rollout.share))
        _call(seen.incumbent, incumbent, draw, calls - exposed)
        _call(seen.candidate, candidate, draw, exposed)
        rollout = moved(rollout, judge.look(evidence), calls_of(evidence), second * NS)
        if rollout.phase.over or rollout.phase is Phase.HELD:
            return Ended(rollout.phase, calls_of(evidence), second, rollout.step, rollout.why)
    return Ended(rollout.phase, calls_of(evidence), most_s, rollout.step, rollout.why)


def _call(totals: Totals, draw_of: Calls, draw: np.random.Generator, calls: int) -> None:
    errors, times, prices = draw_of(draw, calls)
    totals.calls += calls
    totals.errors += errors
    for ns in times:
        totals.times.add(ns)
    for pico in prices:
        totals.prices.add(pico)


def failing(share: float) -> Calls:
    """Calls that fail at this share, and nothing else."""
    return lambda draw, calls: (int(draw.binomial(calls, share)), [], [])

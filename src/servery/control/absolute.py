"""Judge a Version by itself, where nobody answers beside it (blue-green), or by what it answers beside another (shadow). Pure.

After the switch there is no old Version on the same traffic at the same time. What it was like an hour ago says nothing that
holds: another hour has other requests. So guards are bounds on the new Version alone, valid at every look.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np

from servery.control.evidence import Evidence, Totals, calls_of
from servery.control.judge import Judge
from servery.stats.shares import log_evidence, quantile_bounds, share_bounds, slower_evidence
from servery.stats.sketch import Sketch
from servery.terms.folds import AGREEMENT, Told
from servery.terms.rollouts import Guard, Looked, RolloutPolicy, Verdict

_PART = 1 / 4  # of a level, or of what it lacks to 1: a distance that matters


class Absolute:
    """As of Judge. All is told by the sums so far, so it keeps nothing."""

    def __init__(self, policy: RolloutPolicy) -> None:
        self._guards = policy.guards
        self._risks = policy.false_rollbacks / max(len(policy.guards), 1), policy.false_promotions

    def learn(self, before: Totals) -> None:
        """Nothing: nobody is compared."""

    def state(self) -> bytes:
        """Nothing."""
        return b""

    def look(self, evidence: Evidence) -> tuple[Looked, ...]:
        """What each guard says of the candidate by now."""
        candidate = Totals()
        for seen in evidence.values():
            one = seen.candidate
            candidate.calls += one.calls
            candidate.errors += one.errors
            candidate.times.merge(one.times)
        return tuple([one for guard in self._guards for one in self._looks(guard, candidate)])

    def _looks(self, guard: Guard, candidate: Totals) -> Iterator[Looked]:
        if guard.metric == "errors":
            yield at_most("errors", candidate.errors, candidate.calls, guard.margin, self._risks)
        elif guard.metric == "latency" and guard.most_ms is not None:
            name = f"latency p{guard.quantile * 100:g} limit"
            yield _no_slower(name, candidate.times, guard.quantile, guard.most_ms, self._risks)


class Shadowed:
    """As of Judge, for a Version that shadows. What it is compared with are the calls that weren't mirrored: which are, is drawn, so
    both are alike. Whether its answers agree is told of each of them by itself.
    """

    def __init__(self, policy: RolloutPolicy, state: bytes | None) -> None:
        compared = tuple(guard for guard in policy.guards if guard.metric != "agreement")
        self._guards = tuple(guard for guard in policy.guards if guard.metric == "agreement")
        part = policy.false_rollbacks / max(len(policy.guards), 1)
        self._risks = part, policy.false_promotions
        inner = msgspec.structs.replace(policy, guards=compared, false_rollbacks=part * len(compared))
        self._inner = Judge(inner, state) if compared else None

    def learn(self, before: Totals) -> None:
        """As of Judge."""
        if self._inner is not None:
            self._inner.learn(before)

    def state(self) -> bytes:
        """As of Judge."""
        return b"" if self._inner is None else self._inner.state()

    def look(self, evidence: Evidence) -> tuple[Looked, ...]:
        """As of Judge."""
        looks = () if self._inner is None else self._inner.look(evidence)
        told = Told()
        for seen in evidence.values():
            told.merge(seen.candidate.told.get(AGREEMENT, Told()))
        differ = max(told.n - told.total, 0.0)
        found = [at_most("agreement", differ, told.n, guard.margin, self._risks) for guard in self._guards]
        dropped, calls = sum(seen.dropped for seen in evidence.values()), calls_of(evidence)
        said = f"{calls} calls were mirrored, and {dropped} dropped for want of room"
        return (*looks, *found, Looked("mirrored", Verdict.NO_DIFFERENCE, dropped, dropped, 0, 0, calls, said))


def at_most(name: str, hits: float, n: int, most: float, risks: tuple[float, float]) -> Looked:
    """Whether a share is below `most`; `hits` may be a sum of values from 0 to 1. `risks` are those of a false alarm and of a false pass."""
    bounds, effect = share_bounds(hits, n, *risks), _PART * min(most, 1 - most)

    def shown(sign: int, risk: float) -> bool:
        return n > 0 and float(log_evidence(np.array(hits), n, most, sign, effect)) >= math.log(1 / risk)

    said = f"{name} is between {bounds.low:.4g} and {bounds.high:.4g}, and {most:g} is the limit"
    verdict = _verdict(shown(1, risks[0]), shown(-1, risks[1]))
    return Looked(name, verdict, bounds.low, bounds.high, most, 0, n, said)


def _no_slower(name: str, times: Sketch, quantile: float, most_ms: float, risks: tuple[float, float]) -> Looked:
    bounds = quantile_bounds(times, quantile, *risks)
    low, high = bounds.low / 1e6, bounds.high / 1e6

    def shown(sign: int, risk: float) -> bool:
        return slower_evidence(times, quantile, most_ms * 1e6, sign) >= math.log(1 / risk)

    said = f"{name.removesuffix(' limit')} is between {low:.4g} and {high:.4g} ms, and {most_ms:g} ms is the limit"
    verdict = _verdict(shown(1, risks[0]), shown(-1, risks[1]))
    return Looked(name, verdict, low, high, most_ms, 0, times.count, said)


def _verdict(above: bool, below: bool) -> Verdict:
    return Verdict.WORSE if above else Verdict.NO_DIFFERENCE if below else Verdict.NOT_YET

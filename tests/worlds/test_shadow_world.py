"""Whole Rollouts that shadow, on virtual time: what is mirrored is drawn, so guards keep their risks, also where room is short when it is busy."""

from __future__ import annotations

from collections import Counter

import numpy as np

from servery.control.absolute import Shadowed
from servery.control.arrange import stepped
from servery.control.evidence import Draw, Seen, Totals, calls_of
from servery.control.promote import moved
from servery.routing.assignment import Trial, assign, digest_of
from servery.terms.folds import AGREEMENT, Told
from servery.terms.rollouts import Arm, Guard, Phase, Rollout, RolloutPolicy

NS = 10**9
GUARDS = (Guard("errors", 0.05), Guard("agreement", 0.1))
POLICY = RolloutPolicy("shadow", share=0.3, min_requests=50, bake_s=5, max_duration_s=4_000, guards=GUARDS)


def world(errors: tuple[float, float], differ: float, seed: int, room_when_busy: bool = True) -> Phase:
    """One Rollout, by calls of which each is drawn as the gateway does it. In a busy second half of the old one's calls fail too: without
    room for mirrors then, a comparison of all calls would find the new one better than it is.
    """
    draw = np.random.default_rng(seed)
    policy = stepped(POLICY)
    judge = Shadowed(policy, None)
    rollout = Rollout("r1", "m", "old", "new", "new", policy, 0)
    incumbent, candidate = Totals(), Totals()
    evidence: dict[Draw, Seen] = {}
    agreed = candidate.told.setdefault(AGREEMENT, Told())
    dropped = 0
    for second in range(1, 2_000):
        busy = bool(draw.random() < 0.2)
        worse = 0.3 if busy else 0.0
        for _ in range(40 if busy else 20):
            arm, _told = assign(
                Trial("r1", 0.3, mirrors=True), digest_of("r1", draw.bytes(8)), room_when_busy or not busy
            )
            if arm is Arm.INCUMBENT:
                incumbent.requests += 1
                incumbent.calls += 1
                incumbent.errors += bool(draw.random() < errors[0] + worse)
            elif arm is Arm.MIRRORED:
                candidate.requests += 1
                candidate.calls += 1
                failed = bool(draw.random() < errors[1] + worse)
                candidate.errors += failed
                if not failed:
                    agreed.add(float(draw.random() >= differ), None)
            dropped += arm is Arm.DROPPED
        evidence[Draw(0)] = Seen(incumbent, candidate, dropped=dropped)
        rollout = moved(rollout, judge.look(evidence), calls_of(evidence), second * NS)
        if rollout.phase is not Phase.RUNNING:
            return rollout.phase
    return rollout.phase


def phases(errors: tuple[float, float], differ: float, worlds: int, room_when_busy: bool = True) -> Counter[Phase]:
    return Counter(world(errors, differ, seed, room_when_busy) for seed in range(worlds))


def test_what_is_alike_is_promoted_also_where_room_is_short_when_it_is_busy() -> None:
    assert phases((0.02, 0.02), 0.02, 12)[Phase.PROMOTED] >= 11
    assert phases((0.02, 0.02), 0.02, 12, room_when_busy=False)[Phase.PROMOTED] >= 11


def test_what_fails_more_or_answers_otherwise_goes() -> None:
    assert phases((0.02, 0.15), 0.02, 8, room_when_busy=False) == {Phase.ROLLED_BACK: 8}
    assert phases((0.02, 0.02), 0.25, 8) == {Phase.ROLLED_BACK: 8}

"""Whole Rollouts on virtual time: what is harmless passes, what is harmful is rolled back, and both within the declared risk."""

from __future__ import annotations

from collections import Counter

import pytest

from servery.terms.rollouts import Guard, Phase, RolloutPolicy, RolloutStep
from worlds.rollouts import Calls, failing, world

STEPS = (RolloutStep(0.1, 50, 5, 3_000), RolloutStep(0.5, 200, 10, 3_000))
POLICY = RolloutPolicy("canary", None, STEPS, (Guard("errors", 0.02),))


def phases(incumbent: Calls, candidate: Calls, worlds: int, policy: RolloutPolicy = POLICY) -> Counter[Phase]:
    return Counter(world(policy, incumbent, candidate, seed, 50, 3_000).phase for seed in range(worlds))


def test_a_version_like_the_old_one_is_promoted() -> None:
    assert phases(failing(0.01), failing(0.01), 40)[Phase.PROMOTED] >= 38


def test_a_worse_one_is_rolled_back() -> None:
    assert phases(failing(0.01), failing(0.08), 40) == {Phase.ROLLED_BACK: 40}


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_one_that_always_fails_is_rolled_back_within_its_first_hundred_calls(share: float) -> None:
    policy = RolloutPolicy("canary", None, (RolloutStep(share),), (Guard("errors", 0.01),))
    ended = [world(policy, failing(0.001), failing(1.0), seed, 100, 600) for seed in range(40)]
    assert {one.phase for one in ended} == {Phase.ROLLED_BACK}
    assert max(one.calls for one in ended) <= 100


def test_without_traffic_nothing_is_decided_and_then_it_is_held() -> None:
    nobody = world(POLICY, failing(0), failing(0), 1, 0, 4_000)
    assert (nobody.phase, nobody.calls, nobody.seconds) == (Phase.HELD, 0, 3_001)
    assert "errors neither passed nor broke" in nobody.why

"""Replay: of logs that a server with a policy would have left, another policy's true worth is in the interval often enough."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from replaying import another, recorded, true

from servery.learning.replay import Measure, replay

OLD, NEW = (0.4, 0.8), (0.2, 0.6)
REQUESTS = 1_500
ESTIMATES = ("ips", "self_normalised", "doubly_robust")


def covered(worlds: int, explore: float) -> dict[str, float]:
    """The share of worlds in which an interval held the truth, by measure and estimate."""
    truth = true(random.Random(0), 60_000, NEW, 0.0)
    held: Counter[str] = Counter()
    for world in range(worlds):
        chunk = recorded(random.Random(10_000 + world), REQUESTS, OLD, explore)
        for measure in Measure:
            value = replay([chunk], another(NEW), measure, "good").value
            assert value is not None
            for name in ESTIMATES:
                found = getattr(value, name)
                held[f"{measure.value} {name}"] += found.low <= truth[measure.value] <= found.high
    return {name: count / worlds for name, count in held.items()}


@pytest.mark.timeout(120)
def test_intervals_hold_the_truth() -> None:
    shares = covered(25, 0.3)
    assert len(shares) == len(Measure) * len(ESTIMATES)
    assert min(shares.values()) >= 0.8, shares  # 25 worlds: 0.95 less three and a half standard errors


@pytest.mark.proof
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("explore", [0.2, 0.5])
def test_intervals_hold_the_truth_in_500_worlds(explore: float) -> None:
    shares = covered(500, explore)
    print(explore, shares)
    assert min(shares.values()) >= 0.93, shares

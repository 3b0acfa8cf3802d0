"""The check of the split: by its definition, honest at every look, and quick where an arm gets too little."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest

from servery.stats.ratio_check import RatioCheck

STEPS = ((0.99, 0.01), (0.9, 0.1), (0.5, 0.5))


def watched(draws: np.random.Generator, tilt: float, looks: int, n: int) -> tuple[float, int]:
    """The p-value in the end, and the look at which it was first below 0.001, while the shares go through the steps.

    The candidate's odds are so many times what they should be.
    """
    check, found = RatioCheck(), looks
    for look in range(looks):
        shares = STEPS[look * len(STEPS) // looks]
        true = shares[1] * tilt / (shares[1] * tilt + shares[0])
        candidate = int(draws.binomial(n, true))
        check = check.after(shares, (n - candidate, candidate))
        found = min(found, look if check.p < 0.001 else looks)
    return check.p, found


def test_it_is_the_bayes_factor() -> None:
    check = RatioCheck().after((0.7, 0.3), (8, 2)).after((0.7, 0.3), (1, 4))
    mean = 0.0
    for worth in (100, 10_000):
        a, b = 0.7 * worth, 0.3 * worth
        likelihood = math.prod(a + i for i in range(9)) * math.prod(b + i for i in range(6))
        likelihood /= math.prod(worth + i for i in range(15))
        mean += likelihood / (0.7**9 * 0.3**6) / 2
    assert math.log(mean) == pytest.approx(math.log(sum(math.exp(log) for log in check.logs) / 2))


def test_on_average_true_shares_add_nothing() -> None:
    """Exactly: over all outcomes of two steps, each weighted by its chance, the factor's mean is 1."""
    mean = 0.0
    for first, second in itertools.product(range(6), range(5)):
        chance = (
            math.comb(5, first)
            * 0.2**first
            * 0.8 ** (5 - first)
            * math.comb(4, second)
            * 0.6**second
            * 0.4 ** (4 - second)
        )
        check = RatioCheck().after((0.8, 0.2), (5 - first, first)).after((0.4, 0.6), (4 - second, second))
        mean += chance * sum(math.exp(log) for log in check.logs) / 2
    assert mean == pytest.approx(1)


def test_true_shares_are_hardly_ever_doubted() -> None:
    draws = np.random.default_rng(1)
    p = np.array([watched(draws, 1.0, 90, 400)[0] for _ in range(400)])
    for level in (0.2, 0.05):
        assert (p <= level).mean() <= level
    assert (p <= 0.2).any()


@pytest.mark.parametrize(("tilt", "looks"), [(0.0, 4), (0.5, 18), (1.2, 65)])
def test_a_mismatch_is_found(tilt: float, looks: int) -> None:
    """Of 400 a look, at shares of 1, 10 and then 50 %: none arriving, half of them, a fifth too many."""
    draws = np.random.default_rng(2)
    found = [watched(draws, tilt, 90, 400)[1] for _ in range(50)]
    assert np.mean(found) <= looks


def test_what_was_seen_is_kept_when_shares_change() -> None:
    check = RatioCheck().after((0.9, 0.1), (9_100, 900))
    moved = check.after((0.5, 0.5), (0, 0))
    assert moved.p == check.p
    for prior in moved.priors:
        odds = [a / b for a, b in zip(prior, (0.5, 0.5), strict=True)]
        assert odds[1] / odds[0] < 0.97
    assert [sum(prior) for prior in moved.priors] == pytest.approx([sum(prior) for prior in check.priors])


def test_arms_that_were_to_get_nothing() -> None:
    check = RatioCheck().after((0.5, 0.5, 0.0), (10, 9, 0))
    assert check.p == 1
    assert check.after((0.4, 0.3, 0.3), (40, 30, 30)).p == 1
    found = check.after((0.5, 0.5, 0.0), (10, 9, 1))
    assert found.p == 0
    assert msgspec.json.decode(msgspec.json.encode(found), type=RatioCheck) == found
    for wrong in ((0.5, 0.5), (0.5, 0.4, 0.2), (1.5, -0.5, 0.0)):
        with pytest.raises(ValueError, match="one share for each arm"):
            check.after(wrong, (1, 1, 1))
    with pytest.raises(ValueError, match="3 arms were compared"):
        check.after((0.5, 0.5), (1, 1))

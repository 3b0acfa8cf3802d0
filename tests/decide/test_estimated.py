"""Estimates of what both models would have answered: right on the mean whatever was foretold, and honest about how far off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.learning.estimated import Asked, check_gap, estimated, mean_of, worth_of
from servery.learning.examples import Unusable
from servery.learning.judged import Judged

chance = st.floats(0, 1)


@given(chance, chance, chance, chance, st.floats(0.01, 0.99))
def test_over_both_draws_the_mean_is_the_truth(
    cheap: float, strong: float, one: float, other: float, propensity: float
) -> None:
    """`cheap` and `strong` are the truth of a prompt, `one` and `other` what was foretold of it."""
    chances = np.array([[one], [other]])
    nothing = np.zeros(1)
    if_cheap = estimated(Judged(np.array([cheap]), nothing), Asked(np.array([1 / propensity]), nothing), chances)
    if_strong = estimated(
        Judged(nothing, np.array([strong])), Asked(nothing, np.array([1 / (1 - propensity)])), chances
    )
    assert propensity * if_cheap.cheap[0] + (1 - propensity) * if_strong.cheap[0] == pytest.approx(cheap, abs=1e-9)
    assert propensity * if_cheap.strong[0] + (1 - propensity) * if_strong.strong[0] == pytest.approx(strong, abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), chance, chance), min_size=1, max_size=20))
def test_where_both_were_asked_nothing_is_estimated(rows: list[tuple[bool, bool, float, float]]) -> None:
    cheap, strong, one, other = np.array(rows, float).T
    both = Asked(np.ones(len(rows)), np.ones(len(rows)))
    found = estimated(Judged(cheap, strong), both, np.array([one, other]))
    assert found.cheap == pytest.approx(cheap)
    assert found.strong == pytest.approx(strong)


def drawn(rng: np.random.Generator, count: int, explore: float) -> tuple[Judged, Judged, Asked, np.ndarray]:
    """The truth, what was seen of it, how it was drawn, and what somebody foretold who is half right."""
    hard = rng.random(count)
    cheap, strong = (rng.random(count) < 0.9 - 0.6 * hard).astype(float), (rng.random(count) < 0.85).astype(float)
    picked = hard > 0.6
    asked_strong = np.where(rng.random(count) < explore, rng.random(count) < 0.5, picked)
    weight = 1 / np.where(asked_strong == picked, 1 - explore / 2, explore / 2)
    asked = Asked(weight * ~asked_strong, weight * asked_strong)
    seen = Judged(cheap * ~asked_strong, strong * asked_strong)
    return Judged(cheap, strong), seen, asked, np.array([0.8 - 0.5 * hard, np.full(count, 0.7)])


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """The gap is 0.25; what was seen of each alone, without weights, is off by 0.08 and more."""
    rng, covered, halves, plain, naive = np.random.default_rng(3), 0, [], [], []
    for _ in range(400):
        _, seen, asked, chances = drawn(rng, 1_500, 0.2)
        gap, between = mean_of(estimated(seen, asked, chances).gain)
        covered += between.low <= 0.85 - 0.6 <= between.high
        halves.append(between.high - gap)
        _, wide = mean_of(Judged(seen.cheap * asked.cheap, seen.strong * asked.strong).gain)
        plain.append((wide.high - wide.low) / 2)
        naive.append(seen.strong[asked.strong > 0].mean() - seen.cheap[asked.cheap > 0].mean())
    assert 0.92 < covered / 400 < 0.98
    assert np.mean(halves) < 0.75 * np.mean(plain)  # than without what was foretold
    assert abs(np.mean(naive) - 0.25) > 0.08


def test_weights_say_as_much_as_so_many_that_count_alike() -> None:
    assert worth_of(np.array([0, 2, 2, 2, 0.0])) == pytest.approx(3)
    assert worth_of(np.array([1, 1, 1, 97.0])) < 1.1
    assert worth_of(np.zeros(3)) == 0


GAPS = [
    # (the gains, what is said)
    ([1, 1, 0, 0] * 20, ""),
    ([-1, -1, 0, 0] * 20, "it is worse; send everything to the cheap one, or exchange --cheap and --strong"),
    ([1, -1, 0, 0] * 20, "no gap between the two is to be seen"),
    ([1, -1, 1, 0, -1, 0, 0, 1, 0, 0] * 8, r"there may be no gap; about \d+ such Records would show"),
]


@pytest.mark.parametrize(("gains", "said"), GAPS)
def test_a_gap_that_may_be_none_is_refused(gains: list[float], said: str) -> None:
    judged = Judged(np.zeros(len(gains)), np.array(gains, float))
    if not said:
        check_gap(judged)
        return
    with pytest.raises(Unusable, match=said):
        check_gap(judged)

"""What a score is worth: hand-made cases, and what must hold for all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.learning.choosing import Choice, accuracy_at, compare, threshold_for
from servery.learning.judged import SHARES, Judged, bootstrap, measure, ordered, recovered

# Ten prompts: the strong model alone is right on four of them, the cheap one alone on one.
CHEAP = np.array([1, 1, 1, 0, 0, 0, 0, 1, 1, 0], float)
STRONG = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 0], float)
TEN = Judged(CHEAP, STRONG)
BEST = TEN.gain  # an oracle's score

judgements = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40)


def judged(rows: list[tuple[bool, bool, int]]) -> tuple[Judged, np.ndarray]:
    """As drawn, with as many prompts more as make the strong model the better one."""
    ahead = sum(cheap for cheap, _, _ in rows) - sum(strong for _, strong, _ in rows)
    cheap, strong, score = np.array(rows + [(False, True, 0)] * (max(ahead, 0) + 1), float).T
    return Judged(cheap, strong), score


def test_an_oracle_sends_the_four_that_gain_first() -> None:
    shares, added = recovered(ordered(BEST), TEN)
    assert shares.tolist() == pytest.approx([0, 0.4, 0.9, 1])  # a group of equal scores is one step
    assert added.tolist() == pytest.approx([0, 0.4, 0.4, 0.3])
    found = measure(ordered(BEST), TEN)
    # PGR: a line from 0 to 4/3 over 0.4, level over 0.5, down to 1 over 0.1.
    assert found.apgr == pytest.approx(0.4 * (4 / 3) / 2 + 0.5 * (4 / 3) + 0.1 * (4 / 3 + 1) / 2)
    assert found.cpt_50 == pytest.approx(0.4 * 0.5 / (4 / 3))
    assert found.cpt_80 == pytest.approx(0.4 * 0.8 / (4 / 3))
    assert found.accuracy[0] == pytest.approx(0.5)
    assert found.accuracy[SHARES.index(0.4)] == pytest.approx(0.9)
    assert found.accuracy[-1] == pytest.approx(0.8)


def test_one_score_for_all_is_worth_what_chance_is() -> None:
    found = measure(ordered(np.zeros(10)), TEN)
    assert (found.apgr, found.cpt_50, found.cpt_80) == pytest.approx((0.5, 0.5, 0.8))


def test_a_score_that_is_wrong_all_along_needs_every_call() -> None:
    found = measure(ordered(-BEST), TEN)
    assert found.apgr < 0.2
    assert found.cpt_80 > 0.9


@given(judgements)
def test_counts_are_what_repeated_rows_are(rows: list[tuple[bool, bool, int]]) -> None:
    answered, score = judged(rows)
    counts = np.arange(answered.rows) % 3
    counts[-1] = 1 + 2 * answered.rows  # of a prompt that only the strong model answers
    repeated = Judged(np.repeat(answered.cheap, counts), np.repeat(answered.strong, counts))
    weighed = measure(ordered(score), answered, counts)
    plain = measure(ordered(np.repeat(score, counts)), repeated)
    assert weighed.apgr == pytest.approx(plain.apgr)
    assert weighed.accuracy == pytest.approx(plain.accuracy)


@given(judgements, st.randoms())
def test_the_order_of_the_rows_plays_no_part(rows: list[tuple[bool, bool, int]], dice: object) -> None:
    answered, score = judged(rows)
    order = list(range(answered.rows))
    dice.shuffle(order)  # pyright: ignore[reportAttributeAccessIssue]
    turned = Judged(answered.cheap[order], answered.strong[order])
    assert measure(ordered(score[order]), turned).apgr == pytest.approx(measure(ordered(score), answered).apgr)


@given(judgements)
def test_no_score_is_worth_more_than_an_oracle(rows: list[tuple[bool, bool, int]]) -> None:
    answered, score = judged(rows)
    assert measure(ordered(score), answered).apgr <= measure(ordered(answered.gain), answered).apgr + 1e-9


@given(judgements, st.sampled_from((0.0, 0.25, 0.5, 1.0)))
def test_a_threshold_gives_the_share_that_was_asked_for(rows: list[tuple[bool, bool, int]], share: float) -> None:
    answered, _ = judged(rows)
    gain = np.linspace(1, -1, answered.rows)
    threshold = threshold_for(gain, answered, Choice(share=share))
    assert (gain > threshold).sum() == round(share * answered.rows)


def test_a_threshold_recovers_the_part_that_was_asked_for() -> None:
    gain = BEST + np.linspace(0, -0.01, 10)  # no two alike
    threshold = threshold_for(gain, TEN, Choice(recover=1.0))
    share, accuracy, interval = accuracy_at(TEN, gain, threshold)
    assert (share, accuracy) == pytest.approx((0.3, 0.8))
    assert interval.low < 0.8 < interval.high
    assert threshold_for(gain, TEN, Choice(share=1)) == -math.inf


def test_intervals_come_from_the_same_samples_and_hold_what_was_measured() -> None:
    rng = np.random.default_rng(4)
    hard = rng.random(800) < 0.4
    answered = Judged((rng.random(800) < np.where(hard, 0.3, 0.9)).astype(float), (rng.random(800) < 0.9).astype(float))
    good, poor = hard + rng.normal(0, 0.3, 800), rng.random(800)
    first, second = bootstrap([good, poor], answered, 300, rng, beside=1)
    for score, spread in ((good, first), (poor, second)):
        assert spread.apgr.low < measure(ordered(score), answered).apgr < spread.apgr.high
    assert first.ahead is not None
    assert first.ahead.low > 0
    assert second.ahead is not None
    assert second.ahead.low == second.ahead.high == 0
    found = compare(answered, {"good": good, "poor": poor}, 0)
    assert [line.name for line in found.lines] == ["chance", "poor", "good", "an oracle"]
    assert found.beside == "poor"

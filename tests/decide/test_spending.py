"""What cascades and routers are worth for the same dollars, how true chances are, and where to draw the line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.learning.accepting import Wanted, accepted, confidence_for
from servery.learning.answers import JudgedAnswers
from servery.learning.calibrated import auc, ece, told
from servery.learning.cascades import Costs, Way, curve, weigh, worth
from servery.learning.examples import Unusable
from servery.learning.judged import Judged, measure, ordered

# Ten prompts: the strong model alone is right on four of them, the cheap one alone on one.
CHEAP = np.array([1, 1, 1, 0, 0, 0, 0, 1, 1, 0], float)
STRONG = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 0], float)
TEN = Judged(CHEAP, STRONG)
FLAT = Costs(np.full(10, 1.0), np.full(10, 10.0))


def answers(strong: bool = True) -> JudgedAnswers:
    return JudgedAnswers(("",) * 10, ("",) * 10, CHEAP, STRONG if strong else None)


def test_a_router_pays_for_one_model_and_a_cascade_for_both() -> None:
    usd, right = curve(ordered(TEN.gain), False, TEN, FLAT)
    assert usd.tolist() == pytest.approx([1, 1 + 0.4 * 9, 1 + 0.9 * 9, 10])
    assert right.tolist() == pytest.approx([0.5, 0.9, 0.9, 0.8])
    usd, right = curve(ordered(TEN.gain), True, TEN, FLAT)
    assert usd.tolist() == pytest.approx([1, 1 + 0.4 * 10, 1 + 0.9 * 10, 11])  # the cheap calls are wasted
    assert right.tolist() == pytest.approx([0.5, 0.9, 0.9, 0.8])


def test_dollars_are_each_prompts_own() -> None:
    costs = Costs(np.linspace(0, 0.9, 10), np.linspace(1, 10, 10))
    usd, _ = curve(ordered(-np.arange(10.0)), True, TEN, costs)
    assert usd[:3].tolist() == pytest.approx([0.45, 0.55, 0.75])  # the first prompts are the cheapest
    assert usd[-1] == pytest.approx(0.45 + 5.5)


def test_what_a_way_is_worth() -> None:
    found = worth(Way("oracle", TEN.gain), TEN, FLAT)
    # From 0 to 4/3 of the gap over 0.4 of the way, level over 0.5, down to 1 over 0.1.
    assert found.gap == pytest.approx(0.4 * (4 / 3) / 2 + 0.5 * (4 / 3) + 0.1 * (4 / 3 + 1) / 2, abs=1e-4)
    assert found.least == pytest.approx([(1 + part * 0.75 * 0.4 * 9) / 10 for part in (0.5, 0.8, 1)])
    assert found.right[1] == pytest.approx(0.9)
    checks = worth(Way("oracle", TEN.gain, checks=True), TEN, FLAT)
    assert checks.gap < found.gap
    assert checks.least == pytest.approx([(1 + part * 0.75 * 0.4 * 10) / 10 for part in (0.5, 0.8, 1)])


def test_chance_gives_half_the_gap_and_half_of_the_right_answers() -> None:
    found = worth(Way("chance", np.zeros(10)), TEN, FLAT)
    assert found.gap == pytest.approx(0.5)
    assert found.least == pytest.approx([0.55, 0.82, 1])
    assert worth(Way("worst", -TEN.gain), TEN, FLAT).least[0] > 0.8


def test_where_the_cheap_model_alone_costs_more_there_is_nothing_to_say() -> None:
    found = worth(Way("chance", np.zeros(10)), TEN, Costs(np.full(10, 4.0), np.full(10, 10.0)))
    assert np.isnan(found.right[0])
    assert not np.isnan(found.right[1:]).any()


@given(st.lists(st.integers(-3, 3), min_size=10, max_size=10))
def test_with_a_free_cheap_model_a_cascade_is_a_router(score: list[int]) -> None:
    free = Costs(np.zeros(10), np.ones(10))
    found = [worth(Way("", np.array(score, float), checks), TEN, free) for checks in (False, True)]
    assert found[0] == found[1]
    assert found[0].gap == pytest.approx(measure(ordered(np.array(score, float)), TEN).apgr, abs=0.01)


def test_intervals_come_from_the_same_samples() -> None:
    rng = np.random.default_rng(4)
    bad = rng.random(600) < 0.4
    judged = Judged((~bad | (rng.random(600) < 0.1)).astype(float), (rng.random(600) < 0.95).astype(float))
    ways = [Way("by lot", rng.random(600)), Way("sees it", bad + rng.normal(0, 0.3, 600), checks=True)]
    found = weigh(judged, Costs(np.full(600, 1.0), np.full(600, 10.0)), ways, 0)
    assert [line.name for line in found.lines] == [
        "chance", "by lot", "sees it", "an oracle that routes", "an oracle that checks",
    ]  # fmt: skip
    for line in found.lines[1:3]:
        assert line.gap_95 is not None
        assert line.gap_95.low < line.worth.gap < line.gap_95.high
    assert found.lines[1].ahead is None
    ahead = found.lines[2].ahead
    assert ahead is not None
    assert ahead.gap.low > 0
    assert ahead.right[1].low > 0
    assert found.usd == pytest.approx((1, 10))


SCORES = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40)


@given(SCORES)
def test_auc_is_how_often_a_right_answer_has_the_larger_score(rows: list[tuple[int, bool]]) -> None:
    score, right = np.array([one for one, _ in rows], float), np.array([one for _, one in rows], float)
    good, bad = score[right == 1], score[right == 0]
    pairs = [(one > other) + (one == other) / 2 for one in good for other in bad]
    assert auc(score, right) == pytest.approx(np.mean(pairs) if pairs else 0.5)
    counts = np.arange(len(rows)) % 3 + 1
    repeated = auc(np.repeat(score, counts), np.repeat(right, counts))
    assert auc(score, right, counts.astype(np.int64)) == pytest.approx(repeated)


def test_chances_that_are_true_have_hardly_an_error() -> None:
    rng = np.random.default_rng(1)
    chance = rng.random(20_000)
    right = (rng.random(20_000) < chance).astype(float)
    assert ece(chance, right) < 0.02
    assert ece(chance / 2, right) == pytest.approx(0.25, abs=0.02)
    found = told(chance, right, 200, 0)
    assert found.auc == pytest.approx(5 / 6, abs=0.01)  # of uniform chances
    assert found.brier == pytest.approx(1 / 6, abs=0.01)
    assert found.plain_brier == pytest.approx(1 / 4, abs=0.01)
    assert found.auc_95.low < found.auc < found.auc_95.high
    assert found.brier_95.low < found.brier < found.brier_95.high


FALLING = np.linspace(0.95, 0.05, 10)  # of prompts 0 to 9


@pytest.mark.parametrize(
    ("wanted", "share"),
    [
        (Wanted(share=0.3), 0.3),
        (Wanted(share=0.0), 0.0),
        (Wanted(share=1.0), 1.0),
        (Wanted(recover=1.0), 0.7),  # with the last seven, of which the strong model alone is right on four
        (Wanted(right=1.0), 0.7),
        (Wanted(right=0.55), 0.1),
        (Wanted(right=0.5), 0.0),
    ],
)
def test_a_confidence_gives_what_is_wanted(wanted: Wanted, share: float) -> None:
    confidence = confidence_for(FALLING, answers(), wanted)
    found = accepted(FALLING, answers(), confidence)
    assert found.share == pytest.approx(share)
    if wanted.right is not None:
        assert found.right >= wanted.right
    if wanted.recover is not None:
        assert found.all_right == pytest.approx(0.8)


def test_what_a_confidence_gives() -> None:
    found = accepted(FALLING, answers(), 0.7)
    assert (found.share, found.right, found.all_right) == pytest.approx((0.7, 1.0, 0.8))
    assert found.right_95 is not None
    assert found.right_95.low < 0.5
    assert accepted(FALLING, answers(strong=False), 0.7).all_right is None
    nothing = accepted(FALLING, answers(), 1.0)
    assert (nothing.share, nothing.all_right) == (1, 0.8)


def test_what_cant_be_had_is_said() -> None:
    with pytest.raises(Unusable, match="no confidence from which on 100 % of the answers are right"):
        confidence_for(-FALLING, answers(), Wanted(right=1.0))
    with pytest.raises(Unusable, match="--strong"):
        confidence_for(FALLING, answers(strong=False), Wanted(recover=0.5))
    assert confidence_for(FALLING, answers(strong=False), Wanted(share=0.3)) == pytest.approx(0.3)

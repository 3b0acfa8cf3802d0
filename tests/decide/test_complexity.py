"""What is looked at of a prompt, and what a Scorer makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.routing.complexity import COUNTS, MOST_CHARS, Scorer, features_of
from servery.routing.learned import BITS, Bins, Features, Learned, Linear, Trees, sigmoid


def nothing() -> Linear:
    zeros = np.zeros(2**BITS, np.float32)
    return Linear(zeros, zeros, np.zeros(1), 0.0)


def stump(count: int, threshold: float, low: float, high: float) -> Trees:
    """One tree that asks once."""
    return Trees(
        np.array([[count, 0, 0]]),
        np.array([[threshold, 0.0, 0.0]]),
        np.array([[1, 1, 2]]),
        np.array([[2, 1, 2]]),
        np.array([[9.0, low, high]]),
        1,
        0.0,
    )


def scorer(cheap: Trees, strong: Trees) -> Scorer:
    bins = Bins(np.array([0]), np.array([1e9]))
    return Scorer(bins, Learned(nothing(), cheap), Learned(nothing(), strong), (1.0, 1.0), (1.0, 0.0))


@given(st.text(st.characters(codec=None), max_size=300))
def test_any_text_has_features(text: str) -> None:
    features = features_of(text)
    assert features.counts.shape == (len(COUNTS),)
    assert np.isfinite(features.counts).all()
    for vector in (features.words, features.grams):
        assert vector.indices.shape == vector.values.shape
        assert ((vector.indices >= 0) & (vector.indices < 2**BITS)).all()
        assert len(np.unique(vector.indices)) == len(vector.indices)
        if len(vector.values):
            assert vector.values @ vector.values == pytest.approx(1)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "a", "\ud800", "…", "\x00" * 9])
def test_texts_with_next_to_nothing_in_them(text: str) -> None:
    assert np.isfinite(features_of(text).counts).all()


def same(one: Features, other: Features) -> bool:
    pairs = ((one.words, other.words), (one.grams, other.grams))
    return all(np.array_equal(a.indices, b.indices) and np.array_equal(a.values, b.values) for a, b in pairs)


def test_n_grams_ignore_case_and_the_width_of_blanks_and_see_order() -> None:
    assert same(features_of("Seven green boats"), features_of("seven  GREEN\nboats"))
    assert not same(features_of("green seven boats"), features_of("seven green boats"))


def test_what_follows_a_long_prompt_is_not_looked_at() -> None:
    long = "word " * (MOST_CHARS // 5 + 1)
    assert same(features_of(long + "one more"), features_of(long))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("characters", "four", np.log1p(4)),
        ("words", "two words", np.log1p(2)),
        ("lines", "a\n\nb\nc", np.log1p(3)),
        ("longest other line", "a\nbb\nccc", np.log1p(3)),
        ("spread of other lines", "a\nb\nddd", np.log1p(1)),
        ("distinct words", "a a a b", 0.5),
        ("share of digits", "12ab", 0.5),
        ("numbers", "12 and 7", np.log1p(2)),
        ("capitalised words", "Ada met Bob", np.log1p(2)),
        ("signs of mathematics", "1+1=2", np.log1p(2)),
        ("negations", "do NOT", 1.0),
        ("asks for a fact", "Which one", 1.0),
        ("asks for a reason", "explain", 1.0),
        ("a gap to fill", "a ___ b", 1.0),
        ("bytes beyond ASCII", "é", np.log1p(2)),
    ],
)
def test_counts(name: str, text: str, value: float) -> None:
    assert features_of(text).counts[COUNTS.index(name)] == pytest.approx(value)


def test_a_gain_is_the_difference_of_what_is_said_of_both_models() -> None:
    words = COUNTS.index("words")
    found = scorer(stump(words, np.log1p(3), 2.0, -2.0), stump(words, np.log1p(3), 2.0, 1.0))
    assert found.gain("short") == pytest.approx(0)
    assert found.gain("this one is much longer") == pytest.approx(sigmoid(1.0) - sigmoid(-2.0))


def test_weights_and_bins_count() -> None:
    features = features_of("seven")
    weights = np.zeros(2**BITS, np.float32)
    weights[features.words.indices] = 3.0
    zeros = np.zeros(2**BITS, np.float32)
    linear = Linear(weights, zeros, np.array([0.5]), 0.25)
    assert linear.logit(features, np.array([True])) == pytest.approx(3.75)
    assert linear.logit(features, np.array([False])) == pytest.approx(3.25)


@pytest.mark.parametrize("logit", [-1e4, -1.0, 0.0, 1.0, 1e4])
def test_sigmoid_does_not_overflow(logit: float) -> None:
    assert 0 <= sigmoid(logit) <= 1
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1)

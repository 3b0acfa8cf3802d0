"""Shared-out risks add up; adjusted p-values are the published ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.stats.alpha import benjamini_hochberg, bonferroni, holm, p_value, shared_out

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(st.floats(0.001, 0.5), st.lists(st.floats(0.1, 10), min_size=1, max_size=9), st.integers(1, 9))
def test_the_parts_add_up(risk: float, weights: list[float], steps: int) -> None:
    parts = shared_out(risk, weights, steps)
    assert sum(parts) * steps == pytest.approx(risk)
    assert parts[0] * weights[-1] == pytest.approx(parts[-1] * weights[0])


@pytest.mark.parametrize(
    ("risk", "weights", "steps"), [(0, [1], 1), (1, [1], 1), (0.1, [], 1), (0.1, [0], 1), (0.1, [1], 0)]
)
def test_what_cant_be_shared_out(risk: float, weights: list[float], steps: int) -> None:
    with pytest.raises(ValueError, match="a risk lies between"):
        shared_out(risk, weights, steps)


def test_the_published_example() -> None:
    """Benjamini and Hochberg (1995), section 3.2: 15 p-values, four discoveries where Bonferroni (and Holm) make three."""
    given = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    assert (benjamini_hochberg(given) <= 0.05).sum() == 4
    assert (bonferroni(given) <= 0.05).sum() == (holm(given) <= 0.05).sum() == 3
    assert (benjamini_hochberg(given, any_dependence=True) <= 0.05).sum() == 3


@given(p_values, st.randoms())
def test_adjusted_ones_keep_the_order_and_know_their_places(sample: list[float], shuffled: object) -> None:
    for adjust in (bonferroni, holm, benjamini_hochberg):
        adjusted = adjust(sample)
        order = np.argsort(sample, kind="stable")
        assert (np.diff(adjusted[order]) >= 0).all()
        assert (adjusted >= np.array(sample) - 1e-15).all()
        mixed = np.random.default_rng(len(sample)).permutation(len(sample))
        assert adjust([sample[place] for place in mixed]).tolist() == pytest.approx(adjusted[mixed].tolist())
    assert (benjamini_hochberg(sample) <= holm(sample) + 1e-15).all()
    assert (holm(sample) <= bonferroni(sample)).all()


def test_a_p_value_is_the_inverse_of_evidence() -> None:
    assert [p_value(log) for log in (-3.0, 0.0, np.log(20), 1e4)] == [1, 1, pytest.approx(0.05), 0]

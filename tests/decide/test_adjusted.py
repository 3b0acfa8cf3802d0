"""Adjusted p-values are the published ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.stats.drift import benjamini_hochberg
from servery.stats.ratio_check import p_value

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_the_published_example() -> None:
    """Benjamini and Hochberg (1995), section 3.2: 15 p-values, four discoveries."""
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
    assert (benjamini_hochberg(given, any_dependence=True) <= 0.05).sum() == 3


@given(p_values)
def test_adjusted_ones_keep_the_order_and_know_their_places(sample: list[float]) -> None:
    adjusted = benjamini_hochberg(sample)
    order = np.argsort(sample, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjusted >= np.array(sample) - 1e-15).all()
    mixed = np.random.default_rng(len(sample)).permutation(len(sample))
    assert benjamini_hochberg([sample[place] for place in mixed]).tolist() == pytest.approx(adjusted[mixed].tolist())


def test_a_p_value_is_the_inverse_of_evidence() -> None:
    assert [p_value(log) for log in (-3.0, 0.0, np.log(20), 1e4)] == [1, 1, pytest.approx(0.05), 0]

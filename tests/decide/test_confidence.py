"""How sure a Model is of each row: by tables, and one row asked alone against many asked together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from servery.routing.confidence import confidences
from servery.terms.manifest import Confidence
from servery.terms.request import Array

MAX = Confidence("p")
MARGIN = Confidence("p", "margin")
LOGITS = Confidence("p", softmax=True)
LOGITS_MARGIN = Confidence("p", "margin", softmax=True)


def sure(output: Array, declared: Confidence, rows: int) -> list[float] | None:
    found = confidences(output, declared, rows)
    return None if found is None else list(found)


@pytest.mark.parametrize(
    ("declared", "scores", "wanted"),
    [
        (MAX, [[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]], [0.5, 0.9]),
        (MAX, [0.25, 0.75], [0.25, 0.75]),
        (MAX, [[0.25], [0.75]], [0.25, 0.75]),
        (MARGIN, [[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]], [0.25, 1.0]),
        (MARGIN, [[0.5, 0.5]], [0.0]),
        (LOGITS, [[0.0, 0.0], [1000.0, 0.0]], [0.5, 1.0]),
        (LOGITS, [[-1000.0, -1000.0, -1000.0, -1000.0]], [0.25]),
        (LOGITS_MARGIN, [[0.0, 0.0], [1000.0, 0.0]], [0.0, 1.0]),
    ],
)
def test_the_table(declared: Confidence, scores: list[object], wanted: list[float]) -> None:
    assert sure(np.array(scores), declared, len(scores)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("declared", "shape", "rows"),
    [
        (MAX, (), 1),
        (MAX, (3, 2), 2),
        (MAX, (2, 2, 2), 2),
        (MAX, (2, 0), 2),
        (LOGITS, (2, 0), 2),
        (MARGIN, (2, 0), 2),
        (MARGIN, (2,), 2),
        (MARGIN, (2, 1), 2),
        (MARGIN, (1, 1), 1),
        (MAX, (0, 3), 1),
    ],
)
def test_another_shape_says_nothing(declared: Confidence, shape: tuple[int, ...], rows: int) -> None:
    assert sure(np.zeros(shape, np.float32), declared, rows) is None


@pytest.mark.parametrize("declared", [MAX, MARGIN, LOGITS, LOGITS_MARGIN])
def test_no_rows_have_no_confidences(declared: Confidence) -> None:
    assert sure(np.zeros((0, 10), np.float32), declared, 0) == []


@pytest.mark.parametrize("declared", [MAX, MARGIN, LOGITS, LOGITS_MARGIN])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_nan_is_never_sure(declared: Confidence, at: int, rows: int) -> None:
    scores = np.full((rows, 3), 0.3, np.float32)
    scores[0, at] = math.nan
    found = sure(scores, declared, rows)
    assert found is not None
    assert not found[0] >= 0.0
    assert all(other >= 0.0 for other in found[1:])


@pytest.mark.parametrize("declared", [MARGIN, LOGITS, LOGITS_MARGIN])
def test_infinities_end_in_a_number_or_nan_without_a_warning(declared: Confidence) -> None:
    found = sure(np.array([[math.inf, math.inf, 0.0]]), declared, 1)
    assert found is not None
    assert not found[0] >= 0.0


wild = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


@given(wild, st.sampled_from([MAX, MARGIN, LOGITS, LOGITS_MARGIN]))
def test_a_row_alone_is_as_sure_as_among_others(scores: Array, declared: Confidence) -> None:
    together = sure(scores, declared, len(scores))
    alone = [sure(scores[row : row + 1], declared, 1) for row in range(len(scores))]
    assert together is not None
    for one, found in zip(together, alone, strict=True):
        assert found is not None
        assert found[0] == one or (math.isnan(found[0]) and math.isnan(one))


@given(
    hnp.arrays(np.float32, (3, 4), elements=st.floats(-50, 50, width=32)),
    st.sampled_from([LOGITS, LOGITS_MARGIN]),
)
def test_a_softmax_is_a_share(scores: Array, declared: Confidence) -> None:
    found = sure(scores, declared, 3)
    assert found is not None
    assert all(0 <= one <= 1 + 1e-6 for one in found)
    shifted = sure(scores + np.float32(1.0), declared, 3)
    assert shifted == pytest.approx(found, abs=1e-4)

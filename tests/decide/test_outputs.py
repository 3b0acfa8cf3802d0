"""What user code gave against what was declared: what is taken, what is converted, what is a wrong answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from servery.runtimes.outputs import conform
from servery.terms.reasons import Reason, Refusal
from servery.terms.tensors import TensorSpec
from servery.wire.tensors import DTYPES

TAKEN: list[tuple[str, Any, Any]] = [
    ("FP32", np.array([0.1, np.nan, np.inf]), np.array([0.1, np.nan, np.inf], np.float32)),
    ("FP32", [1, 2, 3], np.array([1, 2, 3], np.float32)),
    ("FP64", np.array([1, 2, 3], np.float16), np.array([1, 2, 3], np.float64)),
    ("FP16", np.array([0.5, 1, 2]), np.array([0.5, 1, 2], np.float16)),
    ("INT32", np.array([1, -2, 3], np.int64), np.array([1, -2, 3], np.int32)),
    ("UINT8", np.array([1, 255, 0], np.int64), np.array([1, 255, 0], np.uint8)),
    ("INT64", np.array([1, 2, 3], ">i4"), np.array([1, 2, 3], np.int64)),
    ("INT64", [True, False, True], np.array([1, 0, 1], np.int64)),
    ("BOOL", [True, False, True], np.array([True, False, True])),
    ("BYTES", ["ü", "", "a"], np.array(["ü".encode(), b"", b"a"], object)),
    ("BYTES", [b"a\0", b"\xff", "b"], np.array([b"a\0", b"\xff", b"b"], object)),
    ("BYTES", np.array(["a", "bc", ""]), np.array([b"a", b"bc", b""], object)),
]


@pytest.mark.parametrize(("datatype", "given", "expected"), TAKEN)
def test_what_means_the_same_is_taken(datatype: str, given: Any, expected: Any) -> None:
    found = conform(TensorSpec("y", datatype, (-1,)), {"y": given}, 3)
    assert found.dtype == DTYPES[datatype]
    np.testing.assert_array_equal(found, expected)


WRONG: list[tuple[str, tuple[int, ...], Any, str]] = [
    ("INT64", (-1,), [1.0, 2.0, 3.0], "is float64, which is no INT64"),
    ("INT8", (-1,), [1, 2, 300], "holds numbers that INT8 can't hold"),
    ("UINT64", (-1,), [1, 2, -3], "holds numbers that UINT64 can't hold"),
    ("FP16", (-1,), [1.0, 2.0, 1e6], "holds numbers that FP16 can't hold"),
    ("BOOL", (-1,), [1, 0, 1], "is int64, which is no BOOL"),
    ("FP32", (-1,), ["a", "b", "c"], "which is no FP32"),
    ("FP32", (-1,), [None, None, None], "is object"),
    ("FP32", (-1,), [1j, 2, 3], "is complex128"),
    ("BYTES", (-1,), [1, 2, 3], "BYTES are text or bytes"),
    ("BYTES", (-1,), ["a", "b", "\ud800"], "UTF-8 can't write"),
    ("FP32", (-1,), [1.0, 2.0], "has shape [2], not [3]"),
    ("FP32", (-1,), [[1.0], [2.0], [3.0]], "has shape [3, 1], not [3]"),
    ("FP32", (-1, 2), [[1.0], [2.0], [3.0]], "has shape [3, 1], not [3, 2]"),
    ("FP32", (-1,), 1.0, "has shape [], not [3]"),
    ("FP32", (), [1.0], "has shape [1], not []"),
    ("FP32", (-1,), [[1.0], [2.0, 3.0]], "is no array"),
]


@pytest.mark.parametrize(("datatype", "shape", "given", "message"), WRONG)
def test_anything_else_is_a_wrong_answer_that_names_the_output(
    datatype: str, shape: tuple[int, ...], given: Any, message: str
) -> None:
    with pytest.raises(Refusal) as raised:
        conform(TensorSpec("y", datatype, shape), {"y": given}, 3)
    assert raised.value.reason is Reason.WRONG_ANSWER
    assert "'y'" in raised.value.message
    assert message in raised.value.message


def test_a_missing_output_is_a_wrong_answer() -> None:
    with pytest.raises(Refusal, match="gave no output 'y'"):
        conform(TensorSpec("y", "FP32", (-1,)), {"z": [1.0]}, 1)


def test_free_sizes_are_free_and_a_single_value_has_no_rows() -> None:
    assert conform(TensorSpec("y", "FP32", (-1, -1)), {"y": [[1, 2]]}, 1).shape == (1, 2)
    assert conform(TensorSpec("y", "FP32", ()), {"y": 1}, 5).shape == ()


def test_what_is_kept_is_a_copy() -> None:
    mine = np.zeros(3, np.float32)
    found = conform(TensorSpec("y", "FP32", (-1,)), {"y": mine}, 3)
    mine[:] = 7
    assert found.tolist() == [0, 0, 0]

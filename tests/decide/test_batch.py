"""Joining and splitting: what comes out is what went in, row for row, and nothing is copied that can be sliced."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.batching.batch import WrongRows, join, shares, split
from servery.terms.request import Array, Call


def call(rows: int, mark: int, width: int = 2) -> Call:
    x = np.full((rows, width), mark, np.float32)
    return Call(["y", "z"], {"x": x, "n": np.full(rows, mark, np.int64)}, rows, 10**9)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_each_call_gets_its_own_rows(sizes: list[int]) -> None:
    calls = [call(rows, mark) for mark, rows in enumerate(sizes)]
    feeds = join(calls)
    outputs: dict[str, Array] = {"y": feeds["x"] * 2, "z": feeds["n"], "unasked": feeds["n"]}
    parts = split(calls, outputs)
    assert len(parts) == len(calls)
    for mark, (rows, part) in enumerate(zip(sizes, parts, strict=True)):
        assert set(part) == {"y", "z"}
        assert part["y"].shape == (rows, 2)
        assert (part["y"] == 2 * mark).all()
        assert (part["z"] == mark).all()
        assert part["y"].base is outputs["y"]  # a view


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": np.zeros((4, 2))}, "no output 'z'"),
        ({"y": np.zeros((4, 2)), "z": np.zeros(5)}, r"'z' in shape \(5,\) for 4 rows"),
        ({"y": np.zeros((3, 2)), "z": np.zeros(4)}, r"'y' in shape \(3, 2\) for 4 rows"),
        ({"y": np.zeros((4, 2)), "z": np.zeros(())}, r"'z' in shape \(\) for 4 rows"),
    ],
)
def test_what_has_not_a_row_for_each_row_is_not_split(outputs: dict[str, Array], message: str) -> None:
    with pytest.raises(WrongRows, match=message):
        split([call(1, 0), call(3, 1)], outputs)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(0, 10**12))
def test_shares_add_up_to_the_whole(rows: list[int], busy_ns: int) -> None:
    parts = shares(rows, busy_ns)
    assert sum(parts) == busy_ns
    assert min(parts) >= 0
    total = sum(max(count, 1) for count in rows)
    for count, part in zip(rows, parts, strict=True):
        assert abs(part - busy_ns * max(count, 1) / total) <= 1 + busy_ns * 1e-12

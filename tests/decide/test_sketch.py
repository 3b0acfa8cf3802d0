"""A sketch knows each quantile to 1 %, merges in any order, and comes back from its bytes as it was."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.stats.sketch import ERROR, LIMIT, RATIO, TOP, Sketch, edge, index_of

values = st.integers(1, LIMIT)


def sketch_of(sample: list[int]) -> Sketch:
    sketch = Sketch()
    for value in sample:
        sketch.add(value)
    return sketch


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_within_one_percent(sample: list[int], share: float) -> None:
    told = sketch_of(sample).quantile(share)
    true = sorted(sample)[max(1, math.ceil(len(sample) * share)) - 1]
    assert told is not None
    assert abs(told - true) <= (ERROR + 1e-9) * true + (true == 1)


@given(st.lists(values, max_size=100), st.lists(values, max_size=100))
def test_merged_is_as_if_added_together(one: list[int], other: list[int]) -> None:
    both, second = sketch_of(one), sketch_of(other)
    both.merge(second)
    second.merge(sketch_of(one))
    assert both == second == sketch_of(one + other)
    assert both.count == len(one) + len(other)
    second.add(1)
    assert both != second


@given(st.lists(values, max_size=200))
def test_bytes_bring_it_back(sample: list[int]) -> None:
    sketch = sketch_of(sample)
    data = sketch.to_bytes()
    assert Sketch.from_bytes(data) == sketch
    assert len(data) <= 3 + 6 * len(set(map(index_of, sample)))


@settings(deadline=None)
@given(st.lists(values, max_size=200), values)
def test_counts_below_hold_the_true_one(sample: list[int], value: int) -> None:
    least, most = sketch_of(sample).below(value)
    assert least <= sum(one <= value for one in sample) <= most


@settings(deadline=None)
@given(st.lists(values, max_size=200), st.integers(0, TOP), st.integers(0, 400))
def test_cumulative_counts_are_those_below_the_edges(sample: list[int], first: int, more: int) -> None:
    sketch = sketch_of(sample)
    last = min(first + more, TOP)
    told = sketch.cumulative(first, last)
    assert told == [sum(index_of(value) <= index for value in sample) for index in range(first, last + 1)]
    assert sketch.above(first) == len(sample) - told[0]


def test_the_number_of_bins_is_bounded() -> None:
    assert index_of(LIMIT) == index_of(2.0**80) == index_of(math.inf) == TOP == 2184
    assert index_of(0) == index_of(1) == index_of(-5) == 0
    assert edge(index_of(1_000_000)) / RATIO < 1_000_000 <= edge(index_of(1_000_000))
    assert sketch_of([0, 1, LIMIT]).span() == (0, TOP)
    assert sketch_of([0]).quantile(0.5) == 1.0
    assert Sketch().span() is None
    assert Sketch().quantile(0.5) is None
    assert Sketch().to_bytes() == b"\x90"


def test_a_second_of_heavy_tailed_latencies_takes_a_few_hundred_bytes() -> None:
    sketch = sketch_of(np.random.default_rng(1).lognormal(17, 0.5, 1000).astype(int).tolist())
    assert len(sketch.to_bytes()) < 400


@pytest.mark.parametrize(
    "flat", [[1], [0, 0], [5, -1], [-1, 1], [3, 1, 0, 1], [3, 1, -1, 1], [TOP + 1, 1], [1, 2, TOP, 3], "no", [1.5, 2]]
)
def test_other_bytes_are_refused(flat: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Sketch.from_bytes(msgspec.msgpack.encode(flat))
    with pytest.raises(ValueError):  # noqa: PT011
        Sketch.from_bytes(b"")

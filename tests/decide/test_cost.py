"""The learned duration: right where the world is regular, never negative, and in doubt careful on the right side."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.batching.cost import Cost

MS = 1_000_000
SIZES = st.integers(1, 200)


@given(st.floats(0, 1e9), st.floats(1, 1e8), st.lists(SIZES, min_size=20, max_size=60))
def test_it_finds_the_line(fixed: float, row: float, sizes: list[int]) -> None:
    cost = Cost()
    for rows in (1, 64, *sizes, 64, 1):
        cost.learn(rows, round(fixed + row * rows))
    for _ in range(100):  # the first measurements fade, and with them what was cut from them as outliers
        cost.learn(1, round(fixed + row))
        cost.learn(64, round(fixed + row * 64))
    for rows in (1, 8, 64):
        assert cost.expect(rows) == pytest.approx(fixed + row * rows, rel=0.02, abs=2)
        assert cost.at_least(rows) <= cost.expect(rows) <= cost.at_most(rows)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(-5, 10**13)), max_size=60), st.floats(0, 1e12))
def test_it_is_never_negative_and_grows_with_the_rows(batches: list[tuple[int, int]], warm: float) -> None:
    cost = Cost(warm, warm / 7)
    for rows, busy_ns in batches:
        cost.learn(rows, busy_ns)
        assert 0 <= cost.fixed_ns < math.inf
        assert 0 <= cost.row_ns < math.inf
        assert 0 <= cost.at_least(1) <= cost.at_most(1) <= cost.at_most(32) < math.inf


def test_before_anything_is_known_nothing_is_refused_or_cut() -> None:
    cost = Cost()
    assert (cost.expect(32), cost.at_least(32), cost.at_most(32)) == (0, 0, 0)


def test_a_few_measurements_refuse_nothing() -> None:
    cost = Cost(10 * MS, MS)
    for _ in range(7):
        cost.learn(1, 11 * MS)
        assert cost.at_least(1) == 0
    cost.learn(1, 11 * MS)
    assert cost.at_least(1) == pytest.approx(11 * MS, rel=0.01)


def test_what_is_much_larger_than_all_that_was_seen_is_not_held_to_take_that_much_longer() -> None:
    cost = Cost(1_000, 4_000)
    for at in range(40):
        cost.learn(1 + at % 2, 5_000 + 4_000 * (at % 2))
    assert cost.at_least(2) > 8_000
    assert cost.at_least(16) > 60_000
    assert cost.at_least(8_000_000) == cost.at_least(16)  # a row among millions may cost next to nothing
    assert cost.at_least(64, 4) > 240_000  # that is four batches of sixteen
    cost.learn(8_000_000, 100 * MS)
    assert cost.at_least(8_000_000) <= 100 * MS
    for _ in range(40):
        cost.learn(1, 50_000)  # and that was long ago
    assert cost.at_least(8_000_000) == cost.at_least(8) <= 8 * 50_000


def test_the_warm_up_gives_the_slope_until_sizes_differ() -> None:
    """All batches are of one row, and twice as slow as in the warm-up: so are the larger ones, as far as is known."""
    cost = Cost(10 * MS, MS)
    for _ in range(300):
        cost.learn(1, 22 * MS)
    assert cost.expect(1) == pytest.approx(22 * MS, rel=0.01)
    assert 22 * MS < cost.expect(32) <= 2.2 * (10 + 32) * MS


def test_an_outlier_hardly_moves_it() -> None:
    cost = Cost(10 * MS, MS)
    for at in range(40):
        cost.learn(1 + at % 32, (11 + at % 32) * MS)
    before = cost.expect(16)
    cost.learn(16, 60_000 * MS)  # another process had the core
    assert cost.expect(16) < before * 1.25
    assert cost.at_most(16) < before * 1.25  # one in ten may be slower


def test_a_lasting_change_is_learned() -> None:
    cost = Cost(10 * MS, MS)
    for at in range(200):
        cost.learn(1 + at % 32, 50 * (11 + at % 32) * MS)
    assert cost.expect(8) == pytest.approx(50 * 18 * MS, rel=0.05)
    for at in range(200):
        cost.learn(1 + at % 32, (11 + at % 32) * MS)
    assert cost.expect(8) == pytest.approx(18 * MS, rel=0.05)


def test_where_times_scatter_it_refuses_less_and_cuts_more() -> None:
    draw = random.Random(1)
    cost = Cost(10 * MS, MS)
    for _ in range(100):
        cost.learn(4, round(14 * MS * draw.uniform(0.2, 1.8)))
    assert cost.at_least(4) < 0.5 * cost.expect(4)
    assert cost.at_most(4) > 1.3 * cost.expect(4)

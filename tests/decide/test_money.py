"""Money is whole pico-dollars: what is split adds up, what is rounded is rounded to the nearest."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.terms.money import NS_PER_HOUR, PICO_PER_USD, busy_price, from_usd, share_out, to_usd

HOUR = 3_600 * 10**9


@given(st.integers(0, 10**18), st.integers(1, 2_000))
def test_shares_add_up_and_differ_by_one_at_most(total: int, parts: int) -> None:
    shares = share_out(total, parts)
    assert len(shares) == parts
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_busy_time_costs_its_part_of_the_hour(busy_ns: int, pico_per_hour: int) -> None:
    exact = Fraction(busy_ns * pico_per_hour, NS_PER_HOUR)
    assert abs(busy_price(busy_ns, pico_per_hour) - exact) <= Fraction(1, 2)


@given(st.lists(st.integers(0, 10**9), max_size=50), st.integers(0, 10**14))
def test_many_calls_cost_what_one_of_their_time_would(calls: list[int], pico_per_hour: int) -> None:
    together = busy_price(sum(calls), pico_per_hour)
    assert abs(sum(busy_price(call, pico_per_hour) for call in calls) - together) <= len(calls) // 2 + 1


@pytest.mark.parametrize(
    ("busy_ns", "pico_per_hour", "pico"),
    [
        (0, 50, 0),
        (HOUR, 50, 50),
        (HOUR, from_usd(0.05), 5 * 10**10),
        (HOUR // 2, 1, 1),  # half a pico-dollar is rounded up
        (HOUR // 2 - 1, 1, 0),
        (30_000, from_usd(0.05), 417),  # 30 µs at 5 cents an hour
    ],
)
def test_the_table(busy_ns: int, pico_per_hour: int, pico: int) -> None:
    assert busy_price(busy_ns, pico_per_hour) == pico


@given(st.integers(0, 10**15))
def test_dollars_are_for_display_and_come_back(pico: int) -> None:
    assert from_usd(to_usd(pico)) == pico


def test_a_dollar() -> None:
    assert from_usd(1) == PICO_PER_USD
    assert from_usd(0.1) == 100_000_000_000

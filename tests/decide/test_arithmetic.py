"""The equations of a text, computed again."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.routing.arithmetic import MOST_EQUATIONS, figures, numbers


def told(text: str) -> list[tuple[float, float]]:
    return [(round(one.value, 9), round(one.stated, 9)) for one in figures(text).equations]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 x 60 = 180 metres", [(180, 180)]),
        ("so 2 miles / 4 miles per hour = 0.5 hours", [(0.5, 0.5)]),
        ("60 (socks of Peter) + 60 (socks of Jack) - 30 = 90", [(90, 90)]),
        ("it costs $1,200 * 3 = $3,600", [(3600, 3600)]),
        ("20% of 50 = 10", [(10, 10)]),
        ("100% - 20% = 80%", [(0.8, 0.8)]),
        ("(12 / 20) x 100 = 60%", [(0.6, 0.6)]),
        ("1/3 of 15 = 5", [(5, 5)]),
        ("7 / 1/2 = 14", [(14, 14)]),
        ("32/2*3/4 = 12", [(12, 12)]),
        (r"\frac{50}{2} = 25", [(25, 25)]),
        (r"\( 3 \times 4 = 12 \)", [(12, 12)]),
        ("2^3 + 1 = 9", [(9, 9)]),
        ("2 * (3 + (4 - 1)) = 12", [(12, 12)]),
        ("(since 4 - 2 - 0.5 = 1.5)", [(1.5, 1.5)]),
        ("it became -6 + 3 = -3 degrees", [(-3, -3)]),
        ("- 30 + 60 = 90 socks", [(90, 90)]),
        ("5 miles, and then 3 + 4 = 7", [(7, 7)]),
        ("a 200-page book at $6/hour is 2 * 6 = 12", [(12, 12)]),
        ("2 + 2 = 4 rides x 6 tickets = 24", [(4, 4), (24, 24)]),
        ("2 + 1/2 = 5/2 = 2.5", [(2.5, 2.5)]),
        ("15 + 25 = <<15+25=40>>40", [(40, 40)]),
        ("3 + 3 + 4 = $<<2+3+4=9>>9", [(10, 9), (9, 9)]),
        ("120 feet x 2 = 250", [(240, 250)]),
        ("1 + 1 = 3\n2 + 2 = 5", [(2, 3), (4, 5)]),
    ],
)
def test_what_is_computed_again(text: str, found: list[tuple[float, float]]) -> None:
    assert told(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "5 = 5",
        "7 apples and 3 = pears",
        "2x + 5 = 15",
        "2S - 5 = 45",
        "S + 60 = 80",
        "3A + 30 = 45",
        "y - 3 + 4 = 20",
        "5 * friends + 3 = 23",
        "total = price * 3 + 20 = 50",
        "1 / 0 = 5",
        "0^-1 + 1 = 5",
        "9^9^9^9^9 + 1 = 5",
        "(3 + 4 = ",
        "((((((((1 + 1)))))))) = 2",
        "15 + 25 = <<15+2",
        "3 + 4 =",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert told(text) == []


@pytest.mark.parametrize(
    ("text", "holds", "exact"),
    [
        ("10 / 4 = 2.5", True, True),
        ("10 / 3 = 3.33", True, False),
        ("10 / 3 = 3.34", True, False),
        ("10 / 3 = 3.4", True, False),
        ("10 / 3 = 3.35", False, False),
        ("10 / 3 = 3", True, False),
        ("10 / 4 = 3", True, False),
        ("10 / 4 = 4", False, False),
        ("0.1 + 0.2 = 0.3", True, True),
        ("2100 * 52 = 110,400", False, False),
    ],
)
def test_rounding_is_no_mistake(text: str, holds: bool, exact: bool) -> None:
    ((one),) = figures(text).equations
    assert (one.holds, one.exact) == (holds, exact)


def test_what_an_equation_is_made_of() -> None:
    (one,) = figures("He has 2 + 3 * (4 - 1) = 11 left").equations
    assert one.operands == (2, 3, 4, 1)


def test_numbers_are_read_as_they_are_written() -> None:
    text = "1,234.5 of 20% are 3/4, not 1.2.3 or -7 or 12,34"
    assert numbers(text) == [1234.5, 0.2, 3, 4, 1.2, 3, 7, 12, 34]
    assert list(figures(text).numbers) == numbers(text)
    assert numbers("9" * 400) == [float("9" * 40)]


def test_the_same_equation_counts_once_and_no_more_than_so_many_do() -> None:
    assert len(figures("1 + 1 = 2\n" * 9).equations) == 1
    many = figures("\n".join(f"{number} + 1 = {number + 1}" for number in range(3 * MOST_EQUATIONS))).equations
    assert len(many) == MOST_EQUATIONS
    assert many[-1].value == 3 * MOST_EQUATIONS  # the last ones


SIGNS = st.sampled_from(
    [*"0123456789+-*/^()=x×÷−≈%.,;:\n$ <>a", " = ", " + ", "<<", ">>", "\\frac{", "}{", "}", " of ", "\\("]
)


@given(st.one_of(st.text(max_size=200), st.lists(SIGNS, max_size=60).map("".join)))
def test_any_text_can_be_read(text: str) -> None:
    found = figures(text)
    assert len(found.equations) <= MOST_EQUATIONS
    for one in found.equations:
        assert math.isfinite(one.value)
        assert math.isfinite(one.stated)
        assert one.holds or not one.exact
        assert len(one.operands) >= 2


NUMBERS = st.integers(1, 9999)


@given(NUMBERS, NUMBERS, NUMBERS, st.sampled_from("+-*"), st.sampled_from("+-*"), st.integers(1, 99))
def test_it_computes_what_python_does(one: int, two: int, three: int, sign: str, other: str, off: int) -> None:
    right = eval(f"{one} {sign} {two} {other} {three}")  # of numbers that are drawn here
    said = f"So that is {one} {sign} {two} apples {other} {three} = {{}} in all."
    assert [found.exact for found in figures(said.format(right)).equations] == [True]
    assert [found.holds for found in figures(said.format(right + off)).equations] == [False]


@pytest.mark.parametrize(
    "part",
    ["(", "=", "1=", "1+", "1+1=", "<<", ">>1", "9^", "x ", "x", "\\frac{1}{", "((1)", "-", "1 (", "\n-", "1 of ", "."],
)
def test_nothing_takes_long(part: str) -> None:
    text = part * (8192 // len(part))
    began = time.process_time()
    figures(text)
    assert time.process_time() - began < 0.5  # it takes some milliseconds

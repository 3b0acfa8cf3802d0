"""Where data may go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.terms.residency import may_flow


@pytest.mark.parametrize(
    ("regions", "place", "may"),
    [
        ((), "anywhere", True),
        (("uae",), "uae", True),
        (("uae", "eu"), "eu", True),
        (("uae",), "eu", False),
        (("uae",), "", False),
        (("uae",), "UAE", False),
        (("uae",), "ua", False),
    ],
)
def test_the_table(regions: tuple[str, ...], place: str, may: bool) -> None:
    assert may_flow(regions, place) is may
    assert may_flow(frozenset(regions), place) is may


@given(st.frozensets(st.text(max_size=3)), st.text(max_size=3), st.text(max_size=3))
def test_one_more_region_never_closes_a_place_to_those_restricted(
    regions: frozenset[str], more: str, place: str
) -> None:
    if regions and may_flow(regions, place):
        assert may_flow(regions | {more}, place)

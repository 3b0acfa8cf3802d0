"""Static policies: what is said about a request picks its tier, by tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.routing.static import By, Pick, compiled, pick
from servery.terms.request import Scalar
from servery.terms.routes import Policy

STEPS = {"cheap": 0, "mid": 1, "premium": 2}
CHOOSE = {"gold": "premium", "silver": "mid", "true": "premium", "3": "mid", "0.5": "mid"}
STATIC = compiled(Policy("static", "parameter", "quality", CHOOSE, "mid"), STEPS)


@pytest.mark.parametrize(
    ("said", "step", "why"),
    [
        ("gold", 2, "=gold"),
        ("silver", 1, "=silver"),
        ("Gold", 1, ":default"),
        ("", 1, ":default"),
        (None, 1, ":default"),
        (True, 2, "=true"),
        ("true", 2, "=true"),
        (False, 1, ":default"),
        (3, 1, "=3"),
        (0.5, 1, "=0.5"),
        (1, 1, ":default"),
    ],
)
def test_the_table(said: Scalar | None, step: int, why: str) -> None:
    assert pick(STATIC, said) == Pick(step, f"static:parameter:quality{why}")


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none())
def test_whatever_is_said_there_is_a_step_and_the_reason_holds_only_words_of_the_manifest(said: Scalar | None) -> None:
    picked = pick(STATIC, said)
    assert picked.step in STEPS.values()
    assert picked == STATIC.default or picked in STATIC.picks.values()


def test_the_default_is_the_first_tier() -> None:
    static = compiled(Policy("static", "subscription", choose={"gold": "premium"}), STEPS)
    assert (static.by, static.default) == (By.SUBSCRIPTION, Pick(0, "static:subscription:default"))
    assert pick(static, "gold") == Pick(2, "static:subscription=gold")


def test_headers_are_named_in_small_letters() -> None:
    static = compiled(Policy("static", "header", "X-Quality", {"Best": "premium"}), STEPS)
    assert static.name == "x-quality"
    assert pick(static, "Best").step == 2
    assert pick(static, "best").step == 0

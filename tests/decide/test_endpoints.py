"""What is known of an endpoint: whether it is asked, and how many characters make a token there; how hard a prompt looks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.routing.hardness import hardness
from servery.targets.breaker import FAILURES, FIRST_PAUSE_NS, LONGEST_PAUSE_NS, MOST_ASKED_NS, NS, Breaker
from servery.targets.learned import Learned
from servery.terms.text import Tokens
from servery.vendor.behaviour import behaviour_of
from servery.vendor.writing import made_up, tokens_of


def test_after_some_failures_in_a_row_it_opens_and_one_call_may_try() -> None:
    breaker, now = Breaker(), 0
    for _ in range(FAILURES - 1):
        breaker.failed(now)
    breaker.answered()
    for _ in range(FAILURES - 1):
        breaker.failed(now)
    assert breaker.wait_ns(now) == 0
    breaker.failed(now)
    assert breaker.wait_ns(now) == FIRST_PAUSE_NS
    now += FIRST_PAUSE_NS
    assert breaker.wait_ns(now) == 0
    breaker.begins()
    assert breaker.wait_ns(now) > 0  # for all others, until that one has ended
    breaker.failed(now)
    assert breaker.wait_ns(now) == 2 * FIRST_PAUSE_NS
    now += 2 * FIRST_PAUSE_NS
    breaker.begins()
    breaker.given_up()
    assert breaker.wait_ns(now) == 0
    breaker.begins()
    breaker.answered()
    assert breaker.wait_ns(now) == 0


def test_its_pauses_are_bounded_and_so_is_what_it_may_ask_for() -> None:
    breaker = Breaker()
    for at in range(50):
        breaker.failed(at)
    assert breaker.wait_ns(49) == LONGEST_PAUSE_NS
    breaker = Breaker()
    breaker.asked_to_wait(7 * NS, 0)
    assert breaker.wait_ns(2 * NS) == 5 * NS
    breaker.asked_to_wait(10**15, 0)
    assert breaker.wait_ns(0) == MOST_ASKED_NS


def test_the_ratio_is_learned_from_what_vendors_say() -> None:
    learned = Learned()
    assert learned.tokens(400, 40) == Tokens(100, 10)
    for _ in range(200):
        learned.learn(300, 50, Tokens(100, 30, reasoning=5))
    estimated = learned.tokens(300, 50)
    assert (abs(estimated.input - 100) <= 1, abs(estimated.output - 25) <= 1) == (True, True)
    assert learned.forecast(300, 0).output == pytest.approx(30, abs=2)
    assert learned.forecast(300, 8).output == 8


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))))
def test_no_vendors_figures_make_an_estimate_impossible(calls: list[tuple[int, int, int, int]]) -> None:
    learned = Learned()
    for prompt_chars, answer_chars, read, written in calls:
        learned.learn(prompt_chars, answer_chars, Tokens(read, written))
        assert learned.tokens(prompt_chars, answer_chars).input >= 1
        assert learned.tokens(0, 0) == Tokens(1, 0)


@given(st.text(max_size=2000))
def test_a_longer_prompt_is_a_harder_one(text: str) -> None:
    assert 0 <= hardness(text) < hardness(text + "word") <= 1


def test_hardness_is_what_the_page_says() -> None:
    assert [round(hardness("x" * size), 2) for size in (0, 60, 1_020, 16_380, 262_140, 10**6)] == [
        0,
        0.25,
        0.5,
        0.75,
        1,
        1,
    ]


def test_a_made_up_text_has_as_many_tokens_as_were_ordered() -> None:
    for count in (0, 1, 7, 500):
        assert len(tokens_of(made_up(count, random.Random(1)))) == count


def test_orders_are_read_and_wrong_ones_refused() -> None:
    ordered = behaviour_of("x?fault=cut:20&chance=0.5&done=false&says=a b")
    assert (ordered.kind, ordered.at, ordered.chance, ordered.done, ordered.says) == ("cut", 20, 0.5, False, "a b")
    assert behaviour_of("x") == behaviour_of("x?")
    for wrong in ("x?tokens=many", "x?odd=1", "x?usage=some"):
        with pytest.raises(ValueError, match=r"int|odd|usage"):
            behaviour_of(wrong)

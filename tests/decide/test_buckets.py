"""The sliding minute against a model that remembers every request."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from servery.quota.buckets import SlidingMinute

S = 1_000_000_000
MINUTE = 60

gaps = st.lists(
    st.integers(0, 3) | st.integers(0, 2 * S) | st.integers(0, 70 * S) | st.integers(0, 10**15), max_size=80
)


def passed_in_window(passed: list[int], now_ns: int) -> int:
    """Requests that passed in the 60 whole seconds that end with the one that `now_ns` lies in."""
    return sum(now_ns // S - one // S < MINUTE for one in passed)


@given(st.integers(1, 6), st.integers(0, 10**18), gaps)
def test_it_lets_pass_what_the_last_sixty_seconds_leave(limit: int, start_ns: int, steps: list[int]) -> None:
    minute, passed, now = SlidingMinute(limit), list[int](), start_ns
    for step in steps:
        now += step
        wait = minute.take(now)
        used = passed_in_window(passed, now)
        assert (wait == 0.0) == (used < limit)
        assert 0.0 <= wait <= MINUTE
        if wait == 0.0:
            passed.append(now)


@given(st.integers(1, 4), st.integers(0, 10**15), gaps)
def test_the_wait_that_it_states_is_exact(limit: int, start_ns: int, steps: list[int]) -> None:
    now, passed = start_ns, list[int]()
    minute = SlidingMinute(limit)
    for step in steps:
        now += step
        wait = minute.take(now)
        if wait == 0.0:
            passed.append(now)
            continue
        after = now + math.ceil(wait * S) + 1  # a float of seconds is exact to the ns or so
        assert passed_in_window(passed, after) < limit
        assert passed_in_window(passed, after - S // 1000 - 2) >= limit or wait == 0.001
        assert minute.take(now) == wait  # asking again neither helps nor harms


@given(st.integers(1, 4), st.lists(st.integers(0, 200 * S), max_size=60))
def test_a_clock_that_goes_back_never_opens_it(limit: int, times: list[int]) -> None:
    minute, passed, latest = SlidingMinute(limit), list[int](), 0
    for now in times:
        latest = max(latest, now)
        wait = minute.take(now)
        assert 0.0 <= wait <= MINUTE
        if wait == 0.0:
            passed.append(now)
    # Whatever went on before, the bucket is whole again a minute after the latest time that it saw.
    later = latest + MINUTE * S
    assert [minute.take(later) for _ in range(limit)] == [0.0] * limit
    assert minute.take(later) > 0.0


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 20 * S), st.booleans()), max_size=60))
def test_what_is_given_back_was_never_there(limit: int, steps: list[tuple[int, bool]]) -> None:
    minute, model, now = SlidingMinute(limit), SlidingMinute(limit), 10**15
    for step, stays in steps:
        now += step
        if minute.take(now) == 0.0 and not stays:
            minute.give_back(now)
        elif stays:
            model.take(now)
        assert minute._counts == model._counts or minute._now != model._now
    assert (minute.take(now) == 0.0) == (model.take(now) == 0.0)
    minute.give_back(now - 61 * S)  # nothing of it is left
    assert minute._total <= limit

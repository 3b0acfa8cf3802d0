"""Who is asked again, and when: retries, checks and hedges as routing.next decides them; endpoints; budgets of extra calls."""

from __future__ import annotations

import time
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.quota.extra import Extra
from servery.routing.checks import agreement, check_of, is_as_asked
from servery.routing.next import (
    Facts,
    Kind,
    Plan,
    Settle,
    Step,
    Tried,
    Try,
    Wait,
    next,  # noqa: A004
)
from servery.targets.apis import ANTHROPIC, OPENAI, asked_pause_s, period_s, reset_s, spent_pause_s
from servery.targets.breaker import FAILURES
from servery.targets.endpoints import Endpoint, pick, rest_ns
from servery.targets.learned import Recent
from servery.terms.reasons import Reason
from servery.terms.record import Role
from servery.terms.text import Form, Said
from servery.wire.openai import decode_prompt

MS = 1_000_000
STEPS = (Step("cheap"), Step("dear"))
AGAIN = Tried(0, None, Reason.UPSTREAM_CUT, again=True)


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 4))
def test_retries_come_before_others_spread_and_bounded(draw: float, retries: int) -> None:
    plan, facts, now = Plan(Kind.FIXED, STEPS, None, retries), Facts(1, 10**12, draw=draw), 5
    tried = [AGAIN]
    for number in range(retries):
        decision = next(plan, tried, facts, now)
        assert isinstance(decision, Try)
        assert (decision.step, decision.role) == (0, Role.RETRY)
        assert now <= decision.at_ns <= now + 100 * MS * 2**number
        tried.append(Tried(0, None, Reason.UPSTREAM_CUT, role=Role.RETRY, again=True))
    assert next(plan, tried, facts, now) == Try(1, None, Role.FALLBACK)


def test_no_retry_where_it_wouldnt_help_or_would_be_too_late() -> None:
    plan = Plan(Kind.FIXED, STEPS, None, 3)
    assert next(plan, [Tried(0, None, Reason.MODEL_FAILED)], Facts(1, 10**12), 0) == Try(1, None, Role.FALLBACK)
    assert next(plan, [AGAIN], Facts(1, 10 * MS, draw=0.5), 0) == Try(1, None, Role.FALLBACK)


def test_a_hedge_is_made_once_when_its_time_has_come_and_the_faster_one_stands() -> None:
    plan, facts = Plan(Kind.FIXED, STEPS), Facts(1, 10**12, hedge_ns=(50 * MS, 0))
    first = Tried(0, None, under_way=True, began_ns=7)
    assert next(plan, [first], facts, 20 * MS) == Wait(7 + 50 * MS)
    assert next(plan, [first], facts, 50 * MS + 7) == Try(0, None, Role.HEDGE)
    second = Tried(0, None, role=Role.HEDGE, under_way=True, began_ns=60 * MS)
    assert next(plan, [first, second], facts, 300 * MS) == Wait(10**12)
    failed = Tried(0, None, Reason.UPSTREAM_CUT, role=Role.HEDGE)
    assert next(plan, [first, failed], facts, 300 * MS) == Wait(10**12)
    assert next(plan, [Tried(0, None), Tried(0, None, role=Role.HEDGE, lost=True)], facts, 300 * MS) == Settle((0,))
    assert next(plan, [Tried(0, None, lost=True), Tried(0, None, role=Role.HEDGE)], facts, 300 * MS) == Settle()
    assert next(plan, [Tried(1, None, under_way=True)], facts, 300 * MS) == Wait(10**12)


def test_a_step_that_is_asked_twice_is_judged_by_the_second_answer() -> None:
    plan = Plan(Kind.CASCADE, (Step("cheap", 0.9, twice=True), Step("dear")))
    facts = Facts(1, 10**12)
    assert next(plan, [Tried(0, None)], facts, 0) == Try(0, None, Role.CHECK)
    agreed = [Tried(0, None), Tried(0, None, None, (0.95,), Role.CHECK)]
    assert next(plan, agreed, facts, 0) == Settle((0,))
    differed = [Tried(0, None), Tried(0, None, None, (0.1,), Role.CHECK)]
    assert next(plan, differed, facts, 0) == Try(1, None, Role.SERVE)
    assert next(plan, [*differed, Tried(1, None)], facts, 0) == Settle()
    failed = next(plan, [*differed, Tried(1, None, Reason.MODEL_FAILED)], facts, 0)
    assert failed == Settle((0,), Reason.MODEL_FAILED)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("It is 42.", "So the answer is 42.0", 1),
        ("41", "42", 0),
        ("a b", "a b", 1),
        ("a b", "c d", 0),
        ("a b", "b c", 0.5),
    ],
)
def test_agreement(one: str, other: str, same: float) -> None:
    assert agreement(Said(one), Said(other)) == agreement(Said(other), Said(one)) == same


@pytest.mark.parametrize(
    ("asked", "text", "fits"),
    [
        (b"null", "no JSON", 1),
        (b'{"type":"text"}', "no JSON", 1),
        (b'{"type":"json_object"}', '{"a": 1}', 1),
        (b'{"type":"json_object"}', "[1]", 0),
        (b'{"type":"json_object"}', "{'a'", 0),
        (b'{"type":"json_schema","json_schema":{"schema":{"required":["a"]}}}', '{"a": 1}', 1),
        (b'{"type":"json_schema","json_schema":{"schema":{"required":["a"]}}}', '{"b": 1}', 0),
        (b'{"type":"json_schema","json_schema":{"schema":{"$ref":"http://127.0.0.1:9/x"}}}', "{}", 1),
        (b'{"type":"json_schema","json_schema":{"schema":{"type":7}}}', "{}", 1),
    ],
)
def test_an_answer_is_held_against_the_schema_that_was_asked_for(asked: bytes, text: str, fits: float) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":%b}' % asked
    assert is_as_asked(decode_prompt(Form.CHAT, body), Said(text)) == fits


def test_where_a_vendor_tells_no_log_probabilities_nothing_is_sure() -> None:
    prompt = decode_prompt(Form.CHAT, b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
    assert [check_of(kind).score(prompt, Said("x")) for kind in ("logprob", "margin")] == [0, 0]
    assert check_of("margin").score(prompt, Said("x", (), (0.5, 0.7))) == pytest.approx(0.6)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 9), min_size=2, max_size=5))
def test_the_less_loaded_of_two_endpoints_is_picked(draw: int, loads: list[int]) -> None:
    endpoints = [Endpoint(f"http://{number}", "") for number in range(len(loads))]
    for endpoint, load in zip(endpoints, loads, strict=True):
        endpoint.took(1 + load, 0)
    picked = pick(endpoints, 0, draw)
    assert picked is not None
    assert picked.load < max(one.load for one in endpoints) or len({one.load for one in endpoints}) < len(loads)


def test_endpoints_that_rest_are_left_alone_and_those_that_failed_are_avoided() -> None:
    one, other = Endpoint("http://one", ""), Endpoint("http://other", "")
    assert {pick((one, other), 0, draw, [one]) for draw in range(512)} == {other}
    assert pick((one,), 0, 0, [one]) is one
    for _ in range(FAILURES):
        one.breaker.failed(0)
    assert {pick((one, other), 0, draw, [other]) for draw in range(512)} == {other}
    other.breaker.asked_to_wait(10**9, 0)
    assert pick((one, other), 0, 0) is None
    assert rest_ns((one, other), 0) == 10**9


def test_a_peak_counts_at_once_and_is_forgotten_slowly() -> None:
    endpoint = Endpoint("http://one", "")
    endpoint.took(100, 0)
    endpoint.took(10, 10_000_000_000)
    assert endpoint.load == pytest.approx(55)
    endpoint.begins()
    assert endpoint.load == pytest.approx(110)
    endpoint.took(500, 10_000_000_001)
    endpoint.ended()
    assert endpoint.load == 500


def test_quantiles_of_the_last_durations() -> None:
    recent = Recent()
    for took_ns in range(1, 20):
        recent.add(took_ns, 0)
    assert recent.quantile(0.5, 0) == 0
    recent.add(20, 0)
    assert [recent.quantile(share, 0) for share in (0.5, 0.95, 0.999)] == [10, 19, 20]
    for _ in range(300):
        recent.add(7, 1)
    assert recent.quantile(0.99, 1) == 7


def test_a_model_that_was_slow_is_unknown_again_after_a_minute() -> None:
    """Or it would never be asked again: what isn't asked can't be seen to be faster."""
    recent = Recent()
    for _ in range(300):
        recent.add(10**10, 0)
    assert recent.quantile(0.95, 60 * 10**9) == 10**10
    assert recent.quantile(0.95, 60 * 10**9 + 1) == 0


def test_extra_calls_are_bounded_by_those_that_are_needed() -> None:
    extra = Extra()
    retries = 0
    for _ in range(1000):
        extra.called(100)
        while extra.may_retry:
            extra.retried()
            retries += 1
    assert 200 <= retries <= 210
    hedges = 0
    while extra.may_hedge(100, 0.05):
        extra.hedged(100)
        hedges += 1
    assert hedges == 50


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6m0s", 360), ("20ms", 0.02), ("1.5s", 1.5), ("", 0), ("soon", 0), ("-1s", 0), ("9" * 20 + "s", 86_400)],
)
def test_periods_as_vendors_write_them(text: str, seconds: float) -> None:
    assert period_s(text) == pytest.approx(seconds)


class Told:
    """A reply that has but these header lines."""

    def __init__(self, **lines: str) -> None:
        self._lines = {name.replace("_", "-"): value for name, value in lines.items()}

    def header(self, name: str) -> str | None:
        return self._lines.get(name)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 60_000,
        "9" * 60_000 + "s",
        "1." * 30_000,
        "(" * 60_000,
        "Fri, 31 Dec 9999 23:59:59 +9999",
        "Fri, 31 Dec 9999 23:59:59 +99999999999999",
        "Mon, 01 Jan 0001 00:00:00 -0000",
        "Fri, 31 Dec 9999 23:59:59 -0000",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "1\xb2",
    ],
)
def test_no_vendors_header_takes_long_to_read_or_cant_be(text: str) -> None:
    began = time.perf_counter()
    for api in (OPENAI, ANTHROPIC):
        for told in (Told(retry_after=text), Told(retry_after_ms=text), Told(**{api.remaining: "0", api.reset: text})):
            assert 0 <= asked_pause_s(told, api, 10**18) <= 86_400
            assert 0 <= spent_pause_s(told, api, 10**18) <= 86_400
    assert time.perf_counter() - began < 0.5


@given(st.text(st.characters(max_codepoint=255)) | st.dates().map(str) | st.datetimes().map(format_datetime))
def test_whatever_a_vendor_writes_a_pause_is_a_bounded_number(text: str) -> None:
    assert 0 <= asked_pause_s(Told(retry_after=text), OPENAI, 10**18) <= 86_400
    assert 0 <= reset_s(Told(x_ratelimit_reset_requests=text), OPENAI, 10**18) <= 86_400

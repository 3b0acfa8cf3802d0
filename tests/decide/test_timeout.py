"""The time that a caller's header allows, in whatever way it is written."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.gateway.http import HttpAsk
from servery.terms.reasons import Reason, Refusal


async def never() -> None:
    await asyncio.Event().wait()


def timeout_ns(header: bytes) -> int:
    return HttpAsk("digits", "", {b"servery-timeout-ms": header}, b"", never).timeout_ns


@pytest.mark.parametrize(
    ("header", "allowed_ns"),
    [(b"1", 1_000_000), (b"0.5", 500_000), (b" 20 ", 20_000_000), (b"1e3", 10**9), (b"1e-300", 1)],
)
def test_milliseconds_are_read(header: bytes, allowed_ns: int) -> None:
    assert timeout_ns(header) == allowed_ns


@pytest.mark.parametrize(
    "header", [b"", b"0", b"-1", b"nan", b"inf", b"-inf", b"1e308", b"1e999", b"soon", b"\xff", b"1,5"]
)
def test_what_is_no_time_is_the_callers_to_mend(header: bytes) -> None:
    with pytest.raises(Refusal, match="servery-timeout-ms") as refused:
        timeout_ns(header)
    assert refused.value.reason is Reason.INVALID_REQUEST


@given(st.floats().map(lambda number: repr(number).encode()) | st.binary(max_size=12))
def test_any_header_is_read_or_refused(header: bytes) -> None:
    try:
        allowed_ns = timeout_ns(header)
    except Refusal:
        return
    assert allowed_ns >= 1

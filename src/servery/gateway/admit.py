"""Admit: a turn, or a refusal that says when to come back."""

from __future__ import annotations

import asyncio

from servery.gateway.minutes import Minute
from servery.gateway.receive import Arriving
from servery.gateway.table import Tenancy
from servery.host.clock import Clock
from servery.quota.admission import Gate
from servery.terms.reasons import Reason, Refusal

Turns = Gate[asyncio.Future[None]]


class Left(Exception):
    """The caller is gone; nobody waits for an answer."""


def check_limits(tenancy: Tenancy, now_ns: int) -> bool:
    """Book one request on the tenant's own limits, or refuse it. False when `book_later` has to finish this."""
    if tenancy.at_once is not None and tenancy.inside >= tenancy.at_once:
        raise Refusal(
            Reason.RATE_LIMITED,
            f"{tenancy.inside} requests of this tenant are in flight here, and its concurrency_per_worker is "
            f"{tenancy.at_once}; wait for one to end",
            retry_after_s=1.0,
        )
    return tenancy.minute is None or book(tenancy.minute, now_ns)


def book(minute: Minute, now_ns: int) -> bool:
    """Book one request of the minute, or refuse it; False when another slice has to be waited for."""
    wait = minute.take(now_ns)
    if wait:
        raise Refusal(
            Reason.RATE_LIMITED,
            f"this tenant's {minute.limit} requests_per_minute are used up; try again in {wait:.1f} s",
            retry_after_s=wait,
        )
    return wait is not None


async def book_later(minute: Minute, clock: Clock, wait_s: float) -> None:
    """Book one request once the worker has another slice of the tenant's minute. Refusal."""
    until_ns = clock.steady_ns() + round(wait_s * 1e9)
    booked = False
    while not booked:
        left_s = (until_ns - clock.steady_ns()) / 1e9
        if left_s <= 0:
            raise Refusal(Reason.DEADLINE_EXCEEDED, "the deadline passed while the tenant's limit was looked up")
        await asyncio.wait((minute.renewal(),), timeout=left_s)
        booked = book(minute, clock.steady_ns())


async def take_turn(turns: Turns, ask: Arriving, wait_s: float) -> None:
    """Wait in the bounded queue for a turn; the caller must `leave` it."""
    ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if not turns.queue_up(ticket):
        raise Refusal(
            Reason.NO_ROOM,
            f"{turns.inside} requests are running and {turns.waiting} are waiting, which is all this worker takes",
            retry_after_s=1.0,
        )
    gone = asyncio.ensure_future(ask.left())
    try:
        await asyncio.wait((ticket, gone), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if ticket.done() and not gone.done():
            return
        if not turns.give_up(ticket):
            leave(turns)
        if gone.done():
            raise Left
        raise Refusal(Reason.DEADLINE_EXCEEDED, "the deadline passed while the request waited for a turn")
    except asyncio.CancelledError:
        if not turns.give_up(ticket):
            leave(turns)
        raise
    finally:
        gone.cancel()


def leave(turns: Turns) -> None:
    """End a turn and wake who has it next."""
    ticket = turns.leave()
    if ticket is not None and not ticket.done():
        ticket.set_result(None)

"""Admit: a turn, or a refusal that says when to come back."""

from __future__ import annotations

import asyncio

from servery.gateway.receive import Arriving
from servery.quota.admission import Gate
from servery.terms.reasons import Reason, Refusal

Turns = Gate[asyncio.Future[None]]


class Left(Exception):
    """The caller is gone; nobody waits for an answer."""


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

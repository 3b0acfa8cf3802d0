"""Choose: the facts of this Request, and the first decision of routing."""

from __future__ import annotations

from servery.gateway.receive import Ask
from servery.gateway.table import Entry
from servery.gateway.trail import Trail
from servery.routing import next as routing
from servery.routing.next import Decision, Facts
from servery.routing.static import By, Pick, Static, pick
from servery.terms.request import Request

_NOTHING_CLOSED: frozenset[int] = frozenset()


def choose(request: Request, entry: Entry, now_ns: int, trail: Trail, ask: Ask) -> tuple[Facts, Decision]:
    """What is so for this Request, and what to try first."""
    closed = entry.closed.get(request.caller.tenant, _NOTHING_CLOSED) if entry.closed else _NOTHING_CLOSED
    first = 0
    if entry.static is not None:
        picked = _picked(entry.static, request, ask)
        first, trail.why = picked.step, picked.why
    facts = Facts(request.rows, request.deadline_ns, closed, first)
    return facts, routing.next(entry.plan, (), facts, now_ns)


def _picked(static: Static, request: Request, ask: Ask) -> Pick:
    if static.by is By.SUBSCRIPTION:
        return pick(static, request.caller.subscription)
    if static.by is By.HEADER:
        return pick(static, ask.header(static.name))
    for name, value in request.inference.parameters:
        if name == static.name:
            return pick(static, value)
    return static.default

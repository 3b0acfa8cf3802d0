"""Choose: the facts of this Request, and the first decision of routing."""

from __future__ import annotations

from servery.gateway.table import Entry
from servery.routing import next as routing
from servery.routing.next import Decision, Facts
from servery.terms.request import Request

_NOTHING_CLOSED: frozenset[int] = frozenset()


def choose(request: Request, entry: Entry, now_ns: int) -> tuple[Facts, Decision]:
    """What is so for this Request, and what to try first."""
    closed = entry.closed.get(request.caller.tenant, _NOTHING_CLOSED) if entry.closed else _NOTHING_CLOSED
    facts = Facts(request.rows, request.deadline_ns, closed)
    return facts, routing.next(entry.plan, (), facts, now_ns)

"""The trail of a Request: all that its Record is written from, however it ends."""

from __future__ import annotations

import msgspec

from servery.gateway.table import TierEntry
from servery.routing.next import Rows, Settle
from servery.terms.record import Role
from servery.terms.request import Called, Caller


class Made(msgspec.Struct, frozen=True, gc=False):
    """An Attempt as it was made: who was called for which rows, and what it gave."""

    role: Role
    tier: TierEntry
    rows: int
    called: Called
    sent: Rows | None = None  # which rows; None: all
    left: bool = False


class Trail:
    """One Request, from the moment its Caller is known."""

    __slots__ = (
        "at_ns",
        "caller",
        "id",
        "made",
        "request_id",
        "route",
        "rows",
        "settled",
        "started_ns",
        "traceparent",
        "why",
    )

    def __init__(self, record_id: bytes, caller: Caller, route: str, at_ns: int, started_ns: int) -> None:
        self.id = record_id
        self.caller = caller
        self.route = route
        self.at_ns = at_ns
        self.started_ns = started_ns
        self.rows = 0
        self.request_id = ""
        self.traceparent = ""
        self.why = ""  # what chose the first tier
        self.made: list[Made] = []
        self.settled: Settle | None = None

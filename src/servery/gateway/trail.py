"""The trail of a Request: all that its Record is written from, however it ends."""

from __future__ import annotations

from typing import Protocol

import msgspec

from servery.gateway.allowances import Paid
from servery.gateway.rooms import Room
from servery.gateway.table import Entry, TierEntry
from servery.gateway.texts import TextTier
from servery.gateway.watch import Watched
from servery.routing.next import Rows, Settle
from servery.terms.reasons import Refusal
from servery.terms.record import Assigned, Choice, Role
from servery.terms.request import Called, Caller, Request
from servery.terms.text import Prompt


class Made(msgspec.Struct, frozen=True, gc=False):
    """An Attempt as it was made: who was called for which rows, and what it gave."""

    role: Role
    tier: TierEntry | TextTier
    rows: int
    called: Called
    sent: Rows | None = None  # which rows; None: all
    left: bool = False
    took_ns: int = 0
    told: tuple[bytes, ...] = ()  # what a language model said, whole or in parts, where it is compared with another one


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A Request that may be mirrored, and the entry that it is answered by."""

    request: Request
    entry: Entry


class AskedText(msgspec.Struct, frozen=True, gc=False):
    """The same of one in text, which had so much time from its beginning."""

    prompt: Prompt
    limit_ns: int


class Slots(Protocol):
    """Where a Request that is under way is found if this process dies."""

    def begin(self, record_id: bytes, at_ns: int, caller: tuple[str, str], route: str, request_id: str) -> int:
        """The slot of this Request; `caller` is its tenant and key."""
        ...

    def tries(
        self,
        slot: int,
        number: int,
        tier: tuple[str | int, ...],
        rows: int,
        started_ns: int,
        before: Ended | None,
        reserved: int = 0,
    ) -> None:
        """An Attempt begins. `tier` is its role, tier, Model, Version, pico-dollars an hour and arm; `reserved` are those
        that it may cost besides.
        """
        ...


# What an Attempt was busy for, in ns, the word of its failure, and what it cost besides, in pico-dollars.
Ended = tuple[int, str, int]


class Trail:
    """One Request, from the moment its Caller is known."""

    __slots__ = (
        "arms",
        "asked",
        "at_ns",
        "caller",
        "choice",
        "id",
        "made",
        "over",
        "paid",
        "request_id",
        "rooms",
        "route",
        "rows",
        "settled",
        "slot",
        "slots",
        "started_ns",
        "traceparent",
        "watched",
        "why",
    )

    def __init__(self, record_id: bytes, caller: Caller, route: str, at_ns: int, started_ns: int, slots: Slots) -> None:
        self.slots = slots
        self.slot = 0
        self.id = record_id
        self.caller = caller
        self.route = route
        self.at_ns = at_ns
        self.started_ns = started_ns
        self.rows = 0
        self.request_id = ""
        self.traceparent = ""
        self.why = ""  # what chose the first tier
        self.choice: Choice | None = None
        self.arms: tuple[Assigned, ...] = ()
        self.asked: Asked | AskedText | None = None  # what may be mirrored
        self.rooms: tuple[Room, ...] = ()  # that hold a place for what is mirrored
        self.made: list[Made] = []
        self.settled: Settle | None = None
        self.over: Refusal | None = None  # the last limit of a model that refused a call of it
        self.paid: Paid | None = None  # what of its budgets is settled with the Record
        self.watched: Watched | None = None  # what is counted of it, where thresholds follow the traffic

    def begin(self) -> None:
        """Be found if this process dies, from now until the Record is stored."""
        caller = self.caller
        self.slot = self.slots.begin(self.id, self.at_ns, (caller.tenant, caller.key), self.route, self.request_id)

    def tries(self, role: Role, tier: TierEntry | TextTier, rows: int, now_ns: int, reserved: int = 0) -> None:
        """An Attempt begins now (steady), which may cost `reserved` pico-dollars beside busy time."""
        made = self.made
        before = None
        if made:
            called = made[-1].called
            before = (called.busy_ns, called.failure, called.pico_usd)
        self.begins(len(made), role, tier, rows, now_ns, before, reserved)

    def begins(
        self,
        number: int,
        role: Role,
        tier: TierEntry | TextTier,
        rows: int,
        now_ns: int,
        before: Ended | None,
        reserved: int,
    ) -> None:
        """Attempt `number` begins now (steady); `before` where the one before it has ended."""
        named = (role.value, tier.name, tier.model, tier.version, tier.target.pico_per_hour, tier.arm)
        self.slots.tries(self.slot, number, named, rows, self.at_ns + now_ns - self.started_ns, before, reserved)

"""What may be done with Content from elsewhere: count it and erase it, each with an entry in the audit. Blocking.

What it says is never shown over the network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy.exc import DBAPIError

from servery.control.auditing import recorded
from servery.host.clock import Clock
from servery.store.contents import Contents, Counted, WrongContents
from servery.store.state import State
from servery.telemetry.spans import moment_of, written
from servery.terms.content import Erasure
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import parse_record_id

Moment = Annotated[
    str,
    Meta(
        max_length=64,
        description="only of requests that began before: 2026-01-31, 2026-01-31T12:00 (UTC), or 30d for 30 days ago",
    ),
]


class EraseAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to erase: at least one of the first three."""

    tenant: Annotated[str, Meta(max_length=128, description="only this tenant's")] = ""
    record: Annotated[str, Meta(max_length=64, description="only of this Record: 52 hex digits")] = ""
    before: Moment = ""
    reason: Annotated[str, Meta(max_length=2_000, description="why; it is remembered. With a key it is required")] = ""


class Erased(msgspec.Struct, frozen=True):
    """How many Contents there were. Not `clean`: somebody reads, and the database's log is emptied within a minute after that."""

    erased: int
    clean: bool


class DroppedNow(msgspec.Struct, frozen=True):
    """What wasn't kept in the last 30 days, and why."""

    tenant: str
    why: str
    count: int


class ContentCount(msgspec.Struct, frozen=True):
    """How much Content there is."""

    contents: tuple[Counted, ...]
    dropped: tuple[DroppedNow, ...]


class ContentDesk:
    """The Content of one data folder."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def count(self, tenant: str, before: str) -> ContentCount:
        """How much there is. Refusal. It leaves nothing in the audit: whoever may only look writes nothing, however often they do."""
        now_ns = self._clock.wall_ns()
        before_ns = _moment(before, now_ns) if before else None
        with self._opened(write=False) as store:
            counted, dropped = store.count(now_ns, tenant, before_ns), store.dropped(tenant)
        return ContentCount(tuple(counted), tuple([DroppedNow(*one) for one in dropped]))

    def erase(self, state: State, who: str, why: str, asked: EraseAsked) -> Erased:
        """Erase it for good; also what is on its way. Refusal, WrongState."""
        if not (asked.tenant or asked.record or asked.before):
            raise Refusal(
                Reason.INVALID_REQUEST, "say what to erase: `tenant`, `record` or `before`, or several of them"
            )
        record_id = parse_record_id(asked.record.lower()) if asked.record else b""
        if record_id is None:
            raise Refusal(Reason.INVALID_REQUEST, "`record` is the id of a Record: 52 hex digits")
        now_ns = self._clock.wall_ns()
        erasure = Erasure(_moment(asked.before, now_ns) if asked.before else now_ns, asked.tenant, record_id)
        subject = asked.record or asked.tenant
        with (
            self._opened(write=True) as store,
            recorded(state, who, why, "content erase", subject, self._clock) as evidence,
        ):
            evidence.update({"tenant": asked.tenant, "record": asked.record, "before": written(erasure.before_ns)})
            evidence["erased"] = erased = store.erase(erasure, now_ns)
            return Erased(erased, store.clean)

    @contextlib.contextmanager
    def _opened(self, *, write: bool) -> Generator[Contents]:
        try:
            store = Contents(self._path, write=write)
        except WrongContents as error:
            raise Refusal(Reason.NOT_FOUND, str(error)) from None
        except DBAPIError as error:
            raise Refusal(Reason.NO_STATE, f"{self._path} can't be read: {error.orig}") from None
        try:
            yield store
        except DBAPIError as error:
            raise Refusal(Reason.NO_STATE, f"{self._path} can't be used: {error.orig}") from None
        finally:
            store.close()


def _moment(text: str, now_ns: int) -> int:
    moment_ns = moment_of(text, now_ns)
    if moment_ns is None:
        raise Refusal(
            Reason.INVALID_REQUEST,
            f"{text[:64]!r} is no moment; write for instance 2026-01-31, 2026-01-31T12:00 or 30d",
        )
    return moment_ns

"""Units of Rollouts: which Requests are observations of their own, where units come again and keep their arm.

A unit's arm is drawn when it first comes. What it does later belongs to the same draw, and may be as unlike others as the unit is;
counted as if it were drawn again, it would be evidence of nothing. When the candidate's share grows from p to q, units that had
the incumbent are drawn anew: they get the candidate with the chance (q - p) / (1 - p), whatever they did before. The mark stays with the
Record, so windows are the same when they are folded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.dialects import sqlite

from servery.store import schema
from servery.terms.record import Assigned, Record
from servery.terms.rollouts import AGAIN, Arm, after

# Of one Rollout. Those that come when it is full aren't compared.
MOST = 1_000_000
# A Rollout that none of its units has met for so long is over.
_KEPT_S = 31 * 86_400


class _Known(NamedTuple):
    step: int
    candidate: bool


class Units:
    """Works inside the transaction of the ledger whose connection it is given."""

    def __init__(self, connection: Connection, most: int = MOST) -> None:
        self._connection = connection
        self._most = most
        self._counts: dict[str, int] = {}
        table = schema.units
        named = select(table.c.step, table.c.candidate).where(
            table.c.rollout == bindparam("rollout"), table.c.unit == bindparam("unit")
        )
        self._find = str(named.compile(dialect=connection.dialect))
        insert = sqlite.insert(table)
        put = insert.on_conflict_do_update(
            index_elements=["rollout", "unit"],
            set_={"step": insert.excluded.step, "candidate": insert.excluded.candidate},
        )
        self._put = str(put.compile(dialect=connection.dialect))

    def marked(self, records: Sequence[Record]) -> list[Record]:
        """These Records, new and in the order in which they count, each with what it tells of its units."""
        fresh: dict[tuple[str, str], _Known] = {}
        marked = [self._marked(one, fresh) if any(arm.keeps for arm in one.arms) else one for one in records]
        if fresh:
            rows = [(*key, known.step, int(known.candidate)) for key, known in fresh.items()]
            self._connection.exec_driver_sql(self._put, rows)
        return marked

    def retain(self, now_s: int) -> None:
        """Forget the units of Rollouts that are over."""
        table, windows = schema.units, schema.attempt_windows
        rollout = ""
        while (rollout := self._next(rollout)) is not None:
            met = (windows.c.arm > f"{rollout}/") & (windows.c.arm < f"{rollout}0")  # "0" comes behind "/"
            last = select(func.max(windows.c.start_s)).where(met)
            if (self._connection.execute(last).scalar_one() or 0) < now_s - _KEPT_S:
                self._connection.execute(table.delete().where(table.c.rollout == rollout))
                self._counts.pop(rollout, None)

    def _next(self, rollout: str) -> str | None:
        table = schema.units
        return self._connection.execute(select(func.min(table.c.rollout)).where(table.c.rollout > rollout)).scalar_one()

    def _marked(self, record: Record, fresh: dict[tuple[str, str], _Known]) -> Record:
        met = {rollout: int(step) for rollout, step in (one.arm.split("/")[:2] for one in record.attempts if one.arm)}
        arms = tuple(
            [
                msgspec.structs.replace(one, drawn=self._drawn(one, met[one.rollout], fresh))
                if one.keeps and one.rollout in met
                else one
                for one in record.arms
            ]
        )
        return msgspec.structs.replace(record, arms=arms)

    def _drawn(self, arm: Assigned, step: int, fresh: dict[tuple[str, str], _Known]) -> str:
        key = (arm.rollout, arm.unit)
        known = fresh.get(key) or self._known(key)
        if known is None and not self._room(arm.rollout):
            return AGAIN
        if known is not None and (known.candidate or known.step >= step):
            return AGAIN
        fresh[key] = _Known(step, arm.arm == Arm.CANDIDATE.word)
        return "" if known is None else after(known.step)

    def _known(self, key: tuple[str, str]) -> _Known | None:
        row = self._connection.exec_driver_sql(self._find, key).one_or_none()
        return None if row is None else _Known(row[0], bool(row[1]))

    def _room(self, rollout: str) -> bool:
        """Whether one more may be remembered; it is counted."""
        if rollout not in self._counts:
            table = schema.units
            counted = select(func.count()).select_from(table).where(table.c.rollout == rollout)
            self._counts[rollout] = self._connection.execute(counted).scalar_one()
        room = self._counts[rollout] < self._most
        self._counts[rollout] += room
        return room

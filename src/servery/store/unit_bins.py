"""Unit bins: for each unit of an Experiment how long its answered requests took, counted in the bins of `stats.sketch` (2 % wide)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Float, and_, case, cast, func, select
from sqlalchemy.dialects import sqlite

from servery.stats.sketch import index_of
from servery.stats.unit_quantiles import Tallied, bin_of
from servery.store import schema
from servery.terms.experiments import BEFORE, EXCLUDED, is_experiment
from servery.terms.reasons import of_callers
from servery.terms.record import Outcome, Record

Key = tuple[str, str, str, int]  # Experiment, arm, unit, bin


def fold_bins(records: Iterable[Record]) -> Counter[Key]:
    """How many of each unit's served Requests took how long. Those before the start and those without a unit aren't compared."""
    found: Counter[Key] = Counter()
    for record in records:
        if record.outcome is not Outcome.SERVED or of_callers(record.reason):
            continue
        for one in record.arms:
            if is_experiment(one.rollout) and one.arm not in (BEFORE, EXCLUDED):
                found[one.rollout, one.arm, one.unit, index_of(record.duration_ns)] += 1
    return found


class UnitBins:
    """Works inside the transaction of the ledger whose connection it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        table = schema.unit_bins
        insert = sqlite.insert(table)
        keys = [column.name for column in table.primary_key]
        self._put = insert.on_conflict_do_update(index_elements=keys, set_={"n": table.c.n + insert.excluded.n})

    def add(self, records: Iterable[Record]) -> None:
        """Fold Records that weren't folded before."""
        rows: list[dict[str, Any]] = [
            {"experiment": key[0], "arm": key[1], "unit": key[2], "bin": key[3], "n": n}
            for key, n in fold_bins(records).items()
        ]
        if rows:
            self._connection.execute(self._put, rows)

    def retain(self) -> None:
        """Remove what is of units whose sums are gone."""
        sums, bins = schema.unit_sums, schema.unit_bins
        left = select(sums.c.unit).where(sums.c.experiment == bins.c.experiment, sums.c.unit == bins.c.unit)
        self._connection.execute(bins.delete().where(~left.exists()))


def tallies_of(
    connection: Connection, experiment: str, quantile: float, until_ns: int, segment: str = ""
) -> dict[str, Tallied]:
    """By arm, of units (of a Segment: "" is all) whose first Request began by then, those without an answer too."""
    bins, sums = schema.unit_bins, schema.unit_sums
    same = and_(*(bins.c[name] == sums.c[name] for name in ("experiment", "arm", "unit")))
    mine = [sums.c.experiment == experiment, sums.c.unit != "", sums.c.arm != BEFORE, sums.c.first_ns <= until_ns]
    if segment:
        mine.append(sums.c.segment == segment)

    counted: dict[str, list[tuple[int, int]]] = {}
    by_bin = select(sums.c.arm, bins.c.bin, func.sum(bins.c.n)).select_from(sums.join(bins, same)).where(*mine)
    for arm, index, n in connection.execute(by_bin.group_by(sums.c.arm, bins.c.bin).order_by(bins.c.bin)).all():
        counted.setdefault(arm, []).append((index, n))
    if not counted:
        return {}
    starts = case({arm: bin_of(of, quantile) for arm, of in counted.items()}, value=sums.c.arm, else_=0)
    n = func.coalesce(bins.c.n, 0)
    x, y = func.sum(case((bins.c.bin >= starts, n), else_=0)), func.sum(n)
    each = select(sums.c.arm, cast(x, Float).label("x"), cast(y, Float).label("y"))
    of = each.select_from(sums.outerjoin(bins, same)).where(*mine).group_by(sums.c.arm, sums.c.unit).subquery()
    total = [func.total(one) for one in (of.c.x, of.c.y, of.c.x * of.c.x, of.c.y * of.c.y, of.c.x * of.c.y)]
    found: dict[str, Tallied] = {}
    for row in connection.execute(select(of.c.arm, func.count(), *total).group_by(of.c.arm)):
        arm, units, *numbers = tuple(row)
        named = dict(zip(("x", "y", "xx", "yy", "xy"), numbers, strict=True))
        found[arm] = Tallied(units, **named, bins=tuple(counted.get(arm, ())))
    return found

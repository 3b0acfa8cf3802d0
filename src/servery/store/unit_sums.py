"""Unit sums: for each unit of an Experiment what its requests were like, folded where Records are stored and Feedback is joined.

All but what callers tell are sums of whole numbers, so that the order in which lines come makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Float, Subquery, and_, case, cast, func, literal, select
from sqlalchemy.dialects import sqlite

from servery.stats.asymptotic import UnitSums
from servery.store import schema
from servery.store.unit_bins import UnitBins, tallies_of
from servery.terms.experiments import BEFORE, EXCLUDED, Metric, is_experiment
from servery.terms.folds import Told
from servery.terms.reasons import Reason, of_callers
from servery.terms.record import Feedback, Outcome, Record

KEPT_S = 400 * 86_400  # after a unit's last request
_MOST = 10**18  # of which two still make a number of 64 bits
# By the caller's doing elsewhere; but arms differ in what they can do, and in what they cost.
_OF_ARMS = (Reason.NOT_CAPABLE.word, Reason.BUDGET_SPENT.word)

_SUMMED = ("requests", "errors", "rows", "pico_usd", "served", "ns")
Key = tuple[str, str, str]  # Experiment, unit, arm


class Seen(msgspec.Struct):
    """A unit's Requests: their first and last, how many, how many of them without an answer, and sums over them."""

    first_ns: int
    last_ns: int
    requests: int = 0
    errors: int = 0
    rows: int = 0
    pico_usd: int = 0
    served: int = 0
    ns: int = 0  # of those that were served
    segment: str = ""  # what the first one said


class Counts(msgspec.Struct, frozen=True):
    """What an arm has: units, and their Requests."""

    units: int = 0
    requests: int = 0


def fold(records: Iterable[Record]) -> dict[Key, Seen]:
    """What each unit's Requests add up to. Those that ended by the caller's own doing tell nothing about an arm."""
    found: dict[Key, Seen] = {}
    for record in records:
        for one in record.arms:
            if not is_experiment(one.rollout) or _tells_nothing(record.reason):
                continue
            key = (one.rollout, one.unit, one.arm)
            seen = found.get(key)
            if seen is None:
                seen = found[key] = Seen(record.at_ns, record.at_ns, segment=one.segment)
            if (record.at_ns, one.segment) < (seen.first_ns, seen.segment):
                seen.segment = one.segment
            seen.first_ns = min(seen.first_ns, record.at_ns)
            seen.last_ns = max(seen.last_ns, record.at_ns)
            seen.requests += 1
            seen.rows += record.rows
            seen.pico_usd += min(record.pico_usd, _MOST)
            if record.outcome is Outcome.SERVED:
                seen.served += 1
                seen.ns += record.duration_ns
            elif record.outcome is not Outcome.ABANDONED:
                seen.errors += 1
    return found


def _tells_nothing(reason: str) -> bool:
    return of_callers(reason) and reason not in _OF_ARMS


class UnitFolds:
    """Works inside the transaction of the ledger whose connection it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        table = schema.unit_sums
        insert = sqlite.insert(table)
        new, keys = insert.excluded, [column.name for column in table.primary_key]
        sums: dict[str, Any] = {name: func.min(table.c[name] + new[name], _MOST) for name in _SUMMED}
        edges = {
            "first_ns": func.min(table.c.first_ns, new.first_ns),
            "last_ns": func.max(table.c.last_ns, new.last_ns),
            "segment": case(
                (new.first_ns < table.c.first_ns, new.segment),
                (new.first_ns > table.c.first_ns, table.c.segment),
                else_=func.min(table.c.segment, new.segment),
            ),
        }
        put = insert.on_conflict_do_update(index_elements=keys, set_=edges | sums)
        self._put = put
        self._bins = UnitBins(connection)

    def add(self, records: Iterable[Record]) -> None:
        """Fold Records that weren't folded before."""
        records = list(records)
        found = fold(records)
        self._bins.add(records)
        if found:
            rows = [
                {"experiment": key[0], "unit": key[1], "arm": key[2], **msgspec.structs.asdict(seen)}
                for key, seen in found.items()
            ]
            self._connection.execute(self._put, rows)

    def tell(self, record: Record, fact: Feedback, told: Told) -> None:
        """Fold what Feedback on a Record adds to what was known of it: a correction stands where it came itself, so all that came
        within some age is what was known of the Request at that age.
        """
        for one in record.arms:
            if is_experiment(one.rollout):
                after_ns = 0 if one.keeps else max(fact.at_ns - record.at_ns, 0)
                self._add_told((one.rollout, one.unit, one.arm), fact.name, after_ns, told)

    def _add_told(self, key: Key, name: str, after_ns: int, told: Told) -> None:
        table = schema.unit_facts
        values = {"n": told.n, "total": told.total, "judged": told.judged, "right": told.right}
        place = {"experiment": key[0], "unit": key[1], "arm": key[2], "name": name, "after_ns": after_ns}
        insert = sqlite.insert(table).values(**place, **values)
        grown = {column: table.c[column] + insert.excluded[column] for column in values}
        keys = [column.name for column in table.primary_key]
        self._connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=grown))

    def retain(self, now_s: int) -> None:
        """Remove what is of units that haven't come for long."""
        sums, facts = schema.unit_sums, schema.unit_facts
        old = sums.c.last_ns < (now_s - KEPT_S) * 10**9
        gone = self._connection.execute(sums.delete().where(old)).rowcount
        if gone:
            left = select(sums.c.unit).where(sums.c.experiment == facts.c.experiment, sums.c.unit == facts.c.unit)
            self._connection.execute(facts.delete().where(~left.exists()))
            self._bins.retain()


def counts_of(connection: Connection, experiment: str) -> dict[str, Counts]:
    """What each arm has by now; under `excluded` the Requests whose unit nobody knew."""
    table = schema.unit_sums
    query = select(table.c.arm, func.count(), func.sum(table.c.requests)).where(table.c.experiment == experiment)
    rows = connection.execute(query.group_by(table.c.arm)).all()
    return {arm: Counts(0 if arm == EXCLUDED else units, requests) for arm, units, requests in rows}


def sums_of(
    connection: Connection,
    experiment: str,
    metric: Metric,
    until_ns: int,
    segment: str = "",
    within_ns: int | None = None,
) -> Mapping[str, UnitSums]:
    """By arm the sums over units (of a Segment: "" is all) of what a metric measures; of units whose first Request began by then,
    and of Feedback that was told `within_ns` after it.
    """
    if metric.quantile is not None:
        return tallies_of(connection, experiment, metric.quantile, until_ns, segment)
    of, past = _each(experiment, metric, within_ns), _each(experiment, metric, within_ns)
    before = connection.execute(select(func.total(past.c.x), func.total(past.c.y)).where(past.c.arm == BEFORE)).one()
    usual = before[0] / before[1] if before[1] else 0.0
    # Of a ratio what a unit had beyond the usual; where nothing is known of a unit, just that.
    z = func.coalesce(past.c.x - usual * past.c.y, 0.0)
    both = of.outerjoin(past, and_(past.c.unit == of.c.unit, past.c.arm == BEFORE))
    named = {"x": of.c.x, "y": of.c.y, "z": z}
    total = [func.total(named[one]) for one in "xyz"]
    total += [func.total(named[one] * named[other]) for one, other in ("xx", "yy", "zz", "xy", "xz", "yz")]
    query = select(of.c.arm, func.count(), *total).select_from(both)
    compared = query.where(of.c.arm != BEFORE, of.c.first_ns <= until_ns).group_by(of.c.arm)
    if segment:
        compared = compared.where(of.c.segment == segment)
    found: dict[str, UnitSums] = {}
    for row in connection.execute(compared):
        arm, *numbers = tuple(row)
        found[arm] = UnitSums(*numbers)
    return found


def _each(experiment: str, metric: Metric, within_ns: int | None) -> Subquery:
    """What a metric measures of each unit, by arm."""
    table, facts = schema.unit_sums, _told(experiment, metric.name, within_ns)
    x, y = _measured(metric, facts)
    query = select(table.c.arm, table.c.unit, table.c.first_ns, table.c.segment, x.label("x"), y.label("y"))
    query = query.where(table.c.experiment == experiment, table.c.unit != "")
    if metric.metric == "feedback":
        same = [facts.c[name] == table.c[name] for name in ("unit", "arm")]
        query = query.select_from(table.outerjoin(facts, and_(*same)))
    return query.subquery()


def _told(experiment: str, name: str, within_ns: int | None) -> Subquery:
    """What callers told of each unit, by arm."""
    table = schema.unit_facts
    whole = [func.total(table.c[one]).label(one) for one in ("n", "total", "judged", "right")]
    query = select(table.c.unit, table.c.arm, *whole).where(table.c.experiment == experiment, table.c.name == name)
    if within_ns is not None:
        query = query.where(table.c.after_ns <= within_ns)
    return query.group_by(table.c.unit, table.c.arm).subquery()


def rows_of(connection: Connection, experiment: str) -> Iterator[tuple[Key, Seen]]:
    """Every unit with its sums."""
    table = schema.unit_sums
    for row in connection.execute(select(table).where(table.c.experiment == experiment)):
        yield tuple(row[:3]), Seen(*row[3:])


def _measured(metric: Metric, facts: Subquery) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """What is added up of a unit, and what that is divided by (0: by the number of units)."""
    table = schema.unit_sums
    match metric.metric:
        case "errors":
            pair: Sequence[Any] = (table.c.errors, table.c.requests)
        case "cost":
            pair = (table.c.pico_usd / literal(1e12, Float), table.c.rows)
        case "latency":
            pair = (table.c.ns / literal(1e9, Float), table.c.served)
        case "feedback" if metric.better == "equal":
            pair = (func.coalesce(facts.c.right, 0), func.coalesce(facts.c.judged, 0))
        case "feedback":
            pair = (func.coalesce(facts.c.total, 0.0), func.coalesce(facts.c.n, 0))
    x, y = (cast(one, Float) for one in pair)
    return x, y if metric.per == "request" else cast(literal(0.0), Float)

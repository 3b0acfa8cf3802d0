"""What Feedback says of one Model's answers, when it came: for drift."""

from __future__ import annotations

from sqlalchemy import Connection, select

from servery.store import schema
from servery.store.rows import predictions_of, value_of
from servery.terms.drift import Judged


def judged(connection: Connection, model: str, name: str, since_ns: int) -> list[Judged]:
    """Of each Record and row what came last, by the time at which it came."""
    records, feedback = schema.records, schema.feedback
    columns = (feedback.c.at_ns, records.c.tenant, records.c.version, records.c.predictions)
    query = (
        select(feedback.c.record_id, feedback.c.row, feedback.c.value, *columns)
        .join(records, (records.c.day == feedback.c.day) & (records.c.id == feedback.c.record_id))
        .where(feedback.c.name == name, feedback.c.at_ns >= since_ns, records.c.model == model)
        .order_by(feedback.c.at_ns)
    )
    last: dict[tuple[bytes, int], Judged] = {}
    for record_id, row, value, at_ns, tenant, version, predictions in connection.execute(query):
        told: tuple[str | None, ...] = predictions_of(predictions)
        place: int = max(row, 0)
        prediction = told[place] if place < len(told) else None
        last[record_id, place] = Judged(at_ns, tenant, version, value_of(value), prediction)
    return sorted(last.values(), key=lambda one: one.at_ns)

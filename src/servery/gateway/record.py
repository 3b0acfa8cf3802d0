"""Record: the one line that every Request leaves, however it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from servery.gateway.trail import Made, Trail
from servery.routing.next import Rows
from servery.terms.money import busy_price
from servery.terms.reasons import Fault, Reason
from servery.terms.record import PREDICTION_BYTES, Attempt, Outcome, Record
from servery.terms.request import Called

# What a caller's header may add to a Record.
_HEADER_CHARS = 128
_NAME_CHARS = 128

# How an end is called: a refusal spends nothing on a model, a failure may have.
_REFUSALS = {
    Reason.NO_ROOM,
    Reason.WARMING,
    Reason.SLEEPING,
    Reason.MODEL_UNAVAILABLE,
    Reason.NO_CONTROLLER,
    Reason.NO_COUNTER,
    Reason.DRAINING,
    Reason.RECORDS_FULL,
    Reason.NO_CANDIDATE,
    Reason.NOT_OFFERED,
}


def outcome_of(reason: Reason) -> Outcome:
    """Refused: the platform or the caller's own doing kept it from being tried. Failed: it was tried, or broke."""
    return Outcome.REFUSED if reason.fault is Fault.CALLER or reason in _REFUSALS else Outcome.FAILED


def close(trail: Trail, outcome: Outcome, reason: str, now_ns: int, region: str) -> Record:
    """The Record of a Request that has ended."""
    settled = trail.settled if outcome is Outcome.SERVED else None
    by_row = settled.by_row if settled is not None else None
    last = len(trail.made) - 1
    if last == 0 and settled is not None:
        attempts = (attempt_of(trail.made[0], trail.made[0].rows),)
    elif settled is None:
        attempts = tuple([attempt_of(made, 0) for made in trail.made])
    elif by_row is None:
        attempts = tuple([attempt_of(made, made.rows if at == last else 0) for at, made in enumerate(trail.made)])
    else:
        attempts = tuple([attempt_of(made, by_row.count(at)) for at, made in enumerate(trail.made)])
    if (trail.why or trail.choice is not None) and attempts:
        first = msgspec.structs.replace(attempts[0], why=trail.why, choice=trail.choice)
        attempts = (first, *attempts[1:])
    return Record(
        trail.id,
        trail.at_ns,
        trail.caller.tenant,
        trail.caller.key,
        trail.route[:_NAME_CHARS],
        outcome,
        reason,
        trail.rows,
        now_ns - trail.started_ns,
        attempts[0].pico_usd if last == 0 else sum([attempt.pico_usd for attempt in attempts]),
        attempts,
        () if settled is None else _predictions(trail, by_row),
        by_row if by_row is not None and len(set(by_row)) > 1 else (),
        trail.request_id[:_HEADER_CHARS],
        trail.traceparent[:_HEADER_CHARS],
        settled.degraded.word if settled is not None and settled.degraded is not None else "",
        region,
        trail.arms,
    )


def attempt_of(made: Made, answered: int) -> Attempt:
    """What the Record, or a late line, says of it."""
    called, tier = made.called, made.tier
    if made.left:
        outcome, reason = Outcome.ABANDONED, ""
    elif called.failure:
        outcome, reason = outcome_of(_BY_WORD[called.failure]), called.failure
    else:
        outcome, reason = Outcome.SERVED, ""
    return Attempt(
        made.role,
        tier.name,
        tier.model,
        tier.version,
        made.rows,
        answered,
        called.busy_ns,
        busy_price(called.busy_ns, tier.target.pico_per_hour) + called.pico_usd,
        outcome,
        reason,
        called.estimated,
        "",
        called.tokens,
        called.first_ns,
        called.answered_as,
        None,
        made.took_ns,
        tier.arm,
        tier.accept,
        _measured(called, tier.measures) if tier.measures else (),
    )


def _measured(called: Called, names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """The mean over the rows of each of these outputs; of one that isn't finite, nothing."""
    means: list[tuple[str, float]] = []
    for name in names:
        array = called.outputs.get(name)
        if array is not None and array.size and array.dtype.kind in "buif":
            mean = float(np.mean(array, dtype=np.float64))
            if math.isfinite(mean):
                means.append((name, mean))
    return tuple(means)


_BY_WORD = {reason.word: reason for reason in Reason}


def _predictions(trail: Trail, by_row: Rows | None) -> tuple[str | None, ...]:
    """What was told for each row, where the Model that answered it declares a prediction."""
    if by_row is None:
        made = trail.made[-1]
        if not made.tier.prediction:
            return ()
        column = made.called.outputs[made.tier.prediction].ravel().tolist()
        if trail.rows == 1 == len(column):
            return (_text(column[0]),)
        return tuple([_text(value) for value in column]) if len(column) == trail.rows else ()
    if not any(made.tier.prediction for made in trail.made):
        return ()
    columns: dict[int, list[object]] = {}
    told: list[str | None] = []
    for row, at in enumerate(by_row):
        made = trail.made[at]
        if not made.tier.prediction:
            told.append(None)
            continue
        if at not in columns:
            columns[at] = made.called.outputs[made.tier.prediction].ravel().tolist()
        place = row if made.sent is None else made.sent.index(row)
        told.append(_text(columns[at][place]) if len(columns[at]) == made.rows else None)
    return tuple(told)


def _text(value: object) -> str:
    if type(value) is int:
        return str(value)
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.encode()[:PREDICTION_BYTES].decode(errors="ignore")

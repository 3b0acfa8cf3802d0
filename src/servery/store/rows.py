"""Lines as rows of the ledger and back; the texts inside are JSON with names, for whoever reads with plain SQL. Pure."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec.structs import astuple

from servery.terms.record import (
    Assigned,
    Attempt,
    Binned,
    Choice,
    Feedback,
    Late,
    Outcome,
    Record,
    Role,
    Sketched,
    Summary,
    Uptime,
    answering,
    record_time_ns,
)
from servery.terms.text import Tokens

DAY_NS = 86_400 * 10**9
_DAY_MS = 86_400_000

# What a database driver takes and gives.
Row = tuple[Any, ...]


class NamedTokens(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Tokens as the ledger's JSON writes them."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


class NamedAttempt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An Attempt as the ledger's JSON writes it."""

    role: Role
    tier: str
    model: str
    version: str
    rows: int
    answered: int
    busy_ns: int
    pico_usd: int
    outcome: Outcome
    reason: str = ""
    estimated: bool = False
    why: str = ""
    tokens: NamedTokens | None = None
    first_ns: int = 0
    answered_as: str = ""
    choice: Choice | None = None
    took_ns: int = 0
    arm: str = ""
    accept: float | None = None
    measured: dict[str, float] = {}


class NamedArm(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The arm of a Request as the ledger's JSON writes it."""

    rollout: str
    arm: str
    propensity: float
    unit: str
    keeps: bool = False
    drawn: str = ""
    segment: str = ""


_ENCODER = msgspec.json.Encoder()
_ARMS = msgspec.json.Decoder(list[NamedArm])
_ATTEMPTS = msgspec.json.Decoder(list[NamedAttempt])
_LATE = msgspec.json.Decoder(NamedAttempt)
_PREDICTIONS = msgspec.json.Decoder(tuple[str | None, ...])
_INDICES = msgspec.json.Decoder(tuple[int, ...])
_FEATURES = msgspec.json.Decoder(tuple[Binned, ...])
_VALUE = msgspec.json.Decoder(bool | float | str)
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


def day_of(record_id: bytes) -> int:
    """The day, counted from 1970, in which the Record of this id began."""
    return record_time_ns(record_id) // DAY_NS


def record_row(record: Record) -> Row:
    """In the order of the table's columns."""
    attempts = record.attempts
    if attempts:
        answer = attempts[0] if len(attempts) == 1 else attempts[answering(attempts)]
        tier, model, version = answer.tier, answer.model, answer.version
        text = _ENCODER.encode([_named(one) for one in attempts]).decode()
    else:
        tier = model = version = ""
        text = "[]"
    predictions, answered_by = record.predictions, record.answered_by
    return (
        int.from_bytes(record.id[:6], "big") // _DAY_MS,  # `day_of`, at a third of its time
        record.id,
        record.at_ns,
        record.tenant,
        record.key,
        record.route,
        tier,
        model,
        version,
        record.outcome.value,
        record.reason,
        record.rows,
        record.duration_ns,
        record.pico_usd,
        record.degraded,
        record.request_id,
        record.traceparent,
        record.region,
        text,
        _ENCODER.encode(predictions).decode() if predictions else "[]",
        _ENCODER.encode(answered_by).decode() if answered_by else "[]",
        _ENCODER.encode([NamedArm(*astuple(one)) for one in record.arms]).decode() if record.arms else "[]",
    )


def record_of(row: Row) -> Record:
    """The Record of a row with all columns of the table."""
    (
        _, record_id, at_ns, tenant, key, route, _, _, _, outcome, reason, rows, duration_ns, pico_usd, degraded,
        request_id, traceparent, region, attempts, predictions, answered_by, arms,
    ) = row  # fmt: skip
    return Record(
        id=record_id,
        at_ns=at_ns,
        tenant=tenant,
        key=key,
        route=route,
        outcome=_OUTCOMES[outcome],
        reason=reason,
        rows=rows,
        duration_ns=duration_ns,
        pico_usd=pico_usd,
        attempts=tuple([_attempt(one) for one in _ATTEMPTS.decode(attempts)]),
        predictions=() if predictions == "[]" else _PREDICTIONS.decode(predictions),
        answered_by=() if answered_by == "[]" else _INDICES.decode(answered_by),
        request_id=request_id,
        traceparent=traceparent,
        degraded=degraded,
        region=region,
        arms=() if arms == "[]" else tuple([Assigned(*astuple(one)) for one in _ARMS.decode(arms)]),
    )  # fmt: skip


def _named(a: Attempt) -> NamedAttempt:
    return NamedAttempt(
        a.role, a.tier, a.model, a.version, a.rows, a.answered, a.busy_ns, a.pico_usd, a.outcome, a.reason,
        a.estimated, a.why, a.tokens and NamedTokens(*astuple(a.tokens)), a.first_ns, a.answered_as, a.choice,
        a.took_ns, a.arm, a.accept, dict(a.measured),
    )  # fmt: skip


def _attempt(a: NamedAttempt) -> Attempt:
    return Attempt(
        a.role, a.tier, a.model, a.version, a.rows, a.answered, a.busy_ns, a.pico_usd, a.outcome, a.reason,
        a.estimated, a.why, a.tokens and Tokens(*astuple(a.tokens)), a.first_ns, a.answered_as, a.choice,
        a.took_ns, a.arm, a.accept, tuple(a.measured.items()),
    )  # fmt: skip


def late_row(line: Late) -> Row:
    """In the order of the table's columns."""
    attempt = _ENCODER.encode(_named(line.attempt)).decode()
    return (
        day_of(line.record_id), line.record_id, line.id, line.at_ns, line.tenant, line.route, attempt, line.rows, line.alike,
    )  # fmt: skip


def late_of(row: Row) -> Late:
    _, record_id, line_id, at_ns, tenant, route, attempt, rows, alike = row
    return Late(line_id, at_ns, tenant, route, record_id, _attempt(_LATE.decode(attempt)), rows, alike)


def feedback_row(line: Feedback) -> Row:
    """In the order of the table's columns."""
    finite = not isinstance(line.value, float) or math.isfinite(line.value)
    value = _ENCODER.encode(line.value if finite else str(line.value)).decode()  # JSON has no NaN
    return (day_of(line.record_id), line.record_id, line.row, line.name, line.at_ns, line.id, line.tenant, value)


def feedback_of(row: Row) -> Feedback:
    _, record_id, number, name, at_ns, line_id, tenant, value = row
    return Feedback(line_id, at_ns, tenant, record_id, number, name, _VALUE.decode(value))


def uptime_row(line: Uptime) -> Row:
    return (line.run, line.model, line.version, line.since_ns, line.until_ns, line.pico_per_hour)


def uptime_of(row: Row) -> Uptime:
    return Uptime(*row)


def summary_row(line: Summary) -> Row:
    return (
        line.id, line.minute_ns, line.tenant, line.route, line.tier, line.model, line.version, line.outcome.value,
        line.requests, line.rows, line.answered, line.busy_ns, line.pico_usd,
    )  # fmt: skip


def summary_of(row: Row) -> Summary:
    line_id, minute, tenant, route, tier, model, version, outcome, requests, rows, answered, busy, pico = row
    return Summary(
        line_id, minute, tenant, route, tier, model, version, _OUTCOMES[outcome], requests, rows, answered, busy, pico
    )  # fmt: skip


def sketch_row(line: Sketched) -> Row:
    features = _ENCODER.encode(line.features).decode()
    return (line.model, line.until_ns, line.id, line.since_ns, line.version, line.tenant, features)


def sketch_of(row: Row) -> Sketched:
    model, until_ns, line_id, since_ns, version, tenant, features = row
    return Sketched(line_id, since_ns, until_ns, model, version, tenant, _FEATURES.decode(features))


def value_of(text: str) -> bool | float | str:
    """What Feedback says, as the table has it."""
    return _VALUE.decode(text)


def predictions_of(text: str) -> tuple[str | None, ...]:
    """What was predicted, as the table has it."""
    return () if text == "[]" else _PREDICTIONS.decode(text)

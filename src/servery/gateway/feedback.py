"""Feedback: a later fact about a Record. It is accepted here and joined where Records are stored."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from servery.gateway.pipeline import Pipeline
from servery.identity.keys import SEAL_BYTES
from servery.terms.manifest import Manifest
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Feedback, new_record_id, parse_record_id
from servery.terms.request import Caller

_SEAL = slice(6, 6 + SEAL_BYTES)


class FeedbackBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is posted. `row` counts from 0; without it the fact is about the whole Record."""

    record_id: str
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    value: bool | int | float | Annotated[str, Meta(max_length=4096)]
    row: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    experiment: Annotated[str, Meta(max_length=128)] = (
        ""  # that it is meant for: one that doesn't look at it refuses it
    )


class Accepted(msgspec.Struct, frozen=True):
    id: str


_decode = msgspec.json.Decoder(FeedbackBody).decode


def _check_meant(manifest: Manifest, fact: FeedbackBody) -> None:
    """Whether the Experiment that it is meant for looks at it. Refusal."""
    design = manifest.experiments.get(fact.experiment)
    if design is None:
        known = ", ".join(f"'{name}'" for name in manifest.experiments) or "none"
        message = f"no experiment is called '{fact.experiment}'; there is {known}"
        raise Refusal(Reason.INVALID_REQUEST, message)
    names = [one.name for one in (design.primary, *design.guardrails) if one.metric == "feedback"]
    if fact.name not in names:
        looked_at = ", ".join(f"'{name}'" for name in names) or "none"
        message = f"the experiment '{fact.experiment}' doesn't look at feedback named '{fact.name}', but at {looked_at}"
        raise Refusal(Reason.INVALID_REQUEST, message)


def take_feedback(pipeline: Pipeline, caller: Caller, body: bytes) -> Accepted:
    """Remember a fact about one of the caller's own Records.

    An id of another tenant is NOT_FOUND. An id that nobody has is taken: its Record may be on its way.
    """
    try:
        fact = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(
            Reason.INVALID_REQUEST,
            f"feedback is a JSON object with record_id, name, value and, for one row of many, row: {error}",
        ) from None
    record_id = parse_record_id(fact.record_id)
    if record_id is None:
        raise Refusal(
            Reason.INVALID_REQUEST,
            "record_id must be the 52 hex digits that the reply's header servery-record-id gave",
        )
    if record_id[_SEAL] != caller.seal and record_id[_SEAL] in pipeline.table.keyring.seals:
        raise Refusal(Reason.NOT_FOUND, "this tenant has no such record")
    if fact.experiment:
        _check_meant(pipeline.table.manifest, fact)
    if not pipeline.lines.room:
        raise Refusal(Reason.RECORDS_FULL, "there is no room for feedback now; send it again later", retry_after_s=5.0)
    now = pipeline.clock.wall_ns()
    own_id = new_record_id(caller.seal, now, pipeline.dice.bits(16))
    try:
        value = float(fact.value) if type(fact.value) is int else fact.value
    except OverflowError:
        raise Refusal(Reason.INVALID_REQUEST, "value is too large a number; at most 1.8e308 is kept") from None
    row = -1 if fact.row is None else fact.row
    pipeline.lines.append(Feedback(own_id, now, caller.tenant, record_id, row, fact.name, value))
    return Accepted(own_id.hex())

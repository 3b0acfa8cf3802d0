"""The Record: the one line remembered per Request, with its Attempts; and what is joined to it later."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

import msgspec

from servery.terms.text import Tokens

# 6 bytes of time (ms since 1970, big-endian), 4 of the tenant's seal, 16 random: sorted by time, unguessable.
RECORD_ID_BYTES = 26
_RECORD_ID = re.compile(rf"[0-9a-f]{{{2 * RECORD_ID_BYTES}}}")

PREDICTION_BYTES = 256


class Role(enum.Enum):
    """Why an Attempt was made."""

    SERVE = "serve"
    RETRY = "retry"
    HEDGE = "hedge"
    FALLBACK = "fallback"
    CHECK = "check"
    SHADOW = "shadow"


class Outcome(enum.Enum):
    """How a Request or an Attempt ended."""

    SERVED = "served"
    REFUSED = "refused"
    FAILED = "failed"
    ABANDONED = "abandoned"


class Line(msgspec.Struct, frozen=True, array_like=True, tag_field="line", gc=False):
    """What a worker appends to its spool."""


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A Tier at the moment of the choice, with what a call of it was thought to cost and to take.

    `unfit` is why it couldn't be asked ("": it could). `latency_ns` is its time at the quantile of the route's promise (0: unknown).
    """

    tier: str
    unfit: str = ""
    pico_usd: int = 0
    latency_ns: int = 0


class Choice(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How the first Tier of a Request came to be asked, complete enough to say what another policy would have done.

    `propensity` is the probability with which it was asked first: that of the whole path, as the steps after it leave nothing
    to chance. `explored`: a draw chose it, not the policy.
    """

    propensity: float
    candidates: tuple[Candidate, ...]
    score: float | None = None
    thresholds: tuple[float, ...] = ()
    explored: bool = False


class Assigned(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The arm that a Request was given in a Rollout. `unit` is a digest of whom it was drawn for; "" where nobody knows that,
    and then it has the incumbent, and is no part of the comparison.

    `keeps`: the unit comes again, and keeps its arm. `drawn` is the ledger's word of what such a Request tells: "" for the first one
    of its unit; "after/2" where the unit had the incumbent in step 2, and now was drawn once more; else "again", and it isn't compared. `segment`: of an Experiment that has such, what the Request said of it.
    """

    rollout: str
    arm: str
    propensity: float
    unit: str
    keeps: bool = False
    drawn: str = ""
    segment: str = ""


class Attempt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call of one Version for one Request."""

    role: Role
    tier: str
    model: str
    version: str  # the Version's name
    rows: int  # rows sent
    answered: int  # rows whose answer the caller got from this Attempt
    busy_ns: int
    pico_usd: int
    outcome: Outcome = Outcome.SERVED
    reason: str = ""  # a Reason's word, where the outcome isn't served
    estimated: bool = False  # its dollars: by busy time up to the moment it was given up, or by tokens counted by us
    why: str = ""  # what chose the tier, where the policy chooses: "static:subscription=gold"
    tokens: Tokens | None = None  # of a language model; with `estimated` they are counted by us, not by the vendor
    first_ns: int = 0  # from its start to the first of its answer, where that is streamed
    answered_as: str = ""  # what the vendor says answered
    choice: Choice | None = None  # of the first one, where there were several language models to choose from
    took_ns: int = 0  # from its start to its end, with what it waited for
    arm: str = ""  # where its Model is being rolled out: "ROLLOUT/STEP/candidate", or another arm
    accept: float | None = None  # the confidence below which rows went on, where that follows the traffic
    measured: tuple[tuple[str, float], ...] = ()  # outputs that a guard watches: each one's mean over the rows


class Record(Line, frozen=True, array_like=True, tag="record", gc=False):
    """One Request as it is remembered. Times are ns since 1970 (`at_ns`) and durations in ns."""

    id: bytes
    at_ns: int
    tenant: str
    key: str
    route: str
    outcome: Outcome
    reason: str  # a Reason's word, "" when served
    rows: int
    duration_ns: int
    pico_usd: int
    attempts: tuple[Attempt, ...]
    predictions: tuple[str | None, ...] = ()  # by row, where the Model declares one
    answered_by: tuple[int, ...] = ()  # by row: index into attempts; empty when one Attempt answered all
    request_id: str = ""
    traceparent: str = ""
    degraded: str = ""  # why the answer is less sure than the policy wants: a Reason's word
    region: str = ""
    arms: tuple[Assigned, ...] = ()


class Feedback(Line, frozen=True, array_like=True, tag="feedback", gc=False):
    """A later fact about a Record, or a row of it (row -1: the whole Record)."""

    id: bytes
    at_ns: int
    tenant: str
    record_id: bytes
    row: int
    name: str
    value: bool | float | str


class Late(Line, frozen=True, array_like=True, tag="late", gc=False):
    """An Attempt that ended after its Request: joined to the Record by `record_id`. `rows` of both answers were compared, of which
    `alike` said the same; 0: none could be.
    """

    id: bytes
    at_ns: int  # of its end
    tenant: str
    route: str
    record_id: bytes
    attempt: Attempt
    rows: int = 0
    alike: int = 0


class Uptime(Line, frozen=True, array_like=True, tag="uptime", gc=False):
    """From when to when a worker kept a Version ready: the bill that busy time is taken from."""

    run: str  # the worker's run
    model: str
    version: str
    since_ns: int
    until_ns: int
    pico_per_hour: int


class Summary(Line, frozen=True, array_like=True, tag="summary", gc=False):
    """Requests of one minute folded together, because the spool was full: detail is lost, counts and money are not."""

    id: bytes
    minute_ns: int
    tenant: str
    route: str
    tier: str
    model: str
    version: str
    outcome: Outcome
    requests: int
    rows: int
    answered: int
    busy_ns: int
    pico_usd: int


class Binned(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How many values of a feature lie in which bins. `ordered`: the bins are those of numbers."""

    feature: str
    ordered: bool
    bins: tuple[int, ...]
    counts: tuple[int, ...]


class Sketched(Line, frozen=True, array_like=True, tag="sketched", gc=False):
    """What a Version was asked by a tenant and said, from about `since_ns` to `until_ns`, as counts: no value, and no Request."""

    id: bytes
    since_ns: int
    until_ns: int
    model: str
    version: str
    tenant: str
    features: tuple[Binned, ...]


AnyLine = Record | Feedback | Late | Uptime | Summary | Sketched


def with_late(record: Record, late: Sequence[Attempt]) -> Record:
    """A Record with the Attempts that ended after its Request, and with what they cost."""
    if not late:
        return record
    cost = record.pico_usd + sum(one.pico_usd for one in late)
    return msgspec.structs.replace(record, attempts=(*record.attempts, *late), pico_usd=cost)


def answering(attempts: Sequence[Attempt]) -> int:
    """Index of the Attempt that answered most rows (of equals, and of none, the last); -1 without Attempts. One that came late
    answered nobody.
    """
    best = len(attempts) - 1
    while best > 0 and attempts[best].role is Role.SHADOW:
        best -= 1
    for index in range(best - 1, -1, -1):
        if attempts[index].answered > attempts[best].answered:
            best = index
    return best


def new_record_id(seal: bytes, wall_ns: int, bits: bytes) -> bytes:
    """Time in ms (6 bytes), the tenant's seal (4) and 128 random bits."""
    return (wall_ns // 1_000_000).to_bytes(6, "big") + seal + bits


def parse_record_id(text: str) -> bytes | None:
    """The id that `text` writes (52 lower-case hex digits), or None when it is malformed."""
    return bytes.fromhex(text) if _RECORD_ID.fullmatch(text) else None


def record_time_ns(record_id: bytes) -> int:
    """When the Record of this id began, to the millisecond, in ns since 1970."""
    return int.from_bytes(record_id[:6], "big") * 1_000_000


def same(prediction: str, label: bool | float | str) -> bool:
    """Whether a prediction, kept as text, says what the label says: 3, "3" and 3.0 are the same, and so are true and 1."""
    if isinstance(label, bool):
        return prediction.strip().lower() in (("true", "1", "1.0") if label else ("false", "0", "0.0"))
    if isinstance(label, str) and prediction.strip() == label.strip():
        return True
    try:
        return float(prediction) == float(label)
    except ValueError:
        return isinstance(label, str) and prediction.strip().lower() == label.strip().lower() in ("true", "false")

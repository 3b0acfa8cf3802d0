"""Execute: perform what routing.next returns, call it again, and join the rows in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from servery.gateway.admit import Left
from servery.gateway.allowances import Paid
from servery.gateway.holdings import UNBOUND, Bound
from servery.gateway.quotas import come, leave
from servery.gateway.receive import Ask
from servery.gateway.table import Entry, Job, TierEntry
from servery.gateway.trail import Made, Trail
from servery.host.clock import Clock
from servery.routing import next as routing
from servery.routing.confidence import confidences
from servery.routing.next import Decision, Facts, Refuse, Rows, Settle, Tried, Try
from servery.terms.money import busy_price
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Answer, Array, Call, Called, Request, Tensor, by_count

log = logging.getLogger("servery.gateway")

# Failures that the log explains; the others say themselves why.
_BY_THE_MODEL = {Reason.MODEL_FAILED, Reason.WRONG_ANSWER}

_BY_WORD = {reason.word: reason for reason in Reason}


async def execute(
    request: Request, entry: Entry, facts: Facts, decision: Decision, trail: Trail, clock: Clock, ask: Ask
) -> Answer:
    """The Answer for all rows. Raises Refusal when routing gives up, and Left when the caller does."""
    tried: list[Tried] = []
    if entry.watch is not None:
        trail.watched = (entry.watch, tried, not facts.closed)
    wanted = [output.name for output in request.inference.wanted] if request.inference.wanted else None
    while isinstance(decision, Try):
        tier = entry.tiers[decision.step]
        rows, feeds, fetch = request.rows, request.feeds, tier.fetch_all
        if decision.rows is not None:
            rows, feeds = len(decision.rows), only(feeds, entry, decision.rows)
        if wanted:
            fetch = [*wanted, *(name for name in tier.judged if name not in wanted)]
        target = tier.target
        now_ns = clock.steady_ns()
        trail.tries(decision.role, tier, rows, now_ns)
        unbound = tier.bound is UNBOUND
        if unbound and target.inline(rows):
            called, left = target.call(fetch, feeds, rows), False
        else:
            caller = request.caller
            priority = tier.priority + caller.priority
            call = Call(
                fetch, feeds, rows, request.deadline_ns, caller.tenant, priority, caller.alone,
                request.inference.parameters,
            )  # fmt: skip
            call_it = _call_elsewhere if unbound else _call_within
            called, left = await call_it(decision, tier, call, clock, trail, ask)
        called, sure = _judge(decision, entry, tier, fetch, rows, called)
        ended_ns = clock.steady_ns()
        trail.made.append(Made(decision.role, tier, rows, called, decision.rows, left, ended_ns - now_ns))
        if left:
            raise Left
        if called.failure == Reason.INVALID_REQUEST.word:  # what was sent would fail in every tier
            raise Refusal(Reason.INVALID_REQUEST, called.message)
        failure = _BY_WORD[called.failure] if called.failure else None
        if failure in _BY_THE_MODEL:
            log.warning("record %s: %s: %s: %s", request.id.hex(), target.version.model, failure.word, called.message)
        tried.append(Tried(decision.step, decision.rows, failure, sure))
        decision = routing.next(entry.plan, tried, facts, ended_ns)
    if isinstance(decision, Refuse):
        raise _refusal(decision.reason, entry, request, trail)
    assert isinstance(decision, Settle), "there is nothing to wait for: one call at a time"
    trail.settled = decision
    return _answer(request, entry, trail, decision, wanted or entry.output_names)


def only(feeds: dict[str, Array], entry: Entry, rows: Rows) -> dict[str, Array]:
    """What is sent of these rows."""
    index = list(rows)
    return {
        name: array[index] if entry.inputs[name].shape[:1] == (-1,) else array  # rows are copied only where they differ
        for name, array in feeds.items()
    }


async def _call_elsewhere(
    decision: Try, tier: TierEntry, call: Call, clock: Clock, trail: Trail, ask: Ask
) -> tuple[Called, bool]:
    """What a call off the event loop gave, or what to book for giving it up; and whether the caller has left.

    A cancelled one is booked on the trail here: nobody else will know what it cost.
    """
    target = tier.target
    job: Job | None = target.submit(call)
    if job is None:
        refusal = target.refusal
        if refusal is not None:
            return Called({}, 0, refusal.word, target.unready), False
        return Called({}, 0, Reason.NO_ROOM.word, "its queue is full"), False
    if job.future.done():  # too late for it
        return job.future.result(), False
    gone = asyncio.ensure_future(ask.left())
    wait_s = max(call.deadline_ns - clock.steady_ns(), 0) / 1e9
    try:
        await asyncio.wait((job.future, gone), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if job.future.done():
            return job.future.result(), False
        return target.give_up(job), gone.done()
    except asyncio.CancelledError:
        called = job.future.result() if job.future.done() else target.give_up(job)
        trail.made.append(Made(decision.role, tier, call.rows, called, decision.rows, left=True))
        raise
    finally:
        gone.cancel()


async def _call_within(
    decision: Try, tier: TierEntry, call: Call, clock: Clock, trail: Trail, ask: Ask
) -> tuple[Called, bool]:
    """The same for a model with limits: what is over one of them is another tier's turn."""
    bound, target, before = tier.bound, tier.target, len(trail.made)
    try:
        paid = await _let_in(bound, clock, call.deadline_ns)
    except Refusal as refusal:
        trail.over = refusal
        return Called({}, 0, refusal.reason.word, refusal.message), False
    called: Called | None = None
    try:
        if target.inline(call.rows):
            called, left = target.call(call.fetch, call.feeds, call.rows), False
        else:
            called, left = await _call_elsewhere(decision, tier, call, clock, trail, ask)
        return called, left
    finally:
        leave(bound.quotas)
        if called is None and len(trail.made) > before:  # it was cancelled, and booked
            called = trail.made[-1].called
        if paid is not None:
            paid.settle(0 if called is None else busy_price(called.busy_ns, target.pico_per_hour))


async def _let_in(bound: Bound, clock: Clock, until_ns: int) -> Paid | None:
    """Count a call of a model on its limits; what is put aside for it. Refusal."""
    await come(bound.quotas, clock, until_ns)
    try:
        return None if bound.allowance is None else await bound.allowance.reserve(0, None, until_ns)
    except BaseException:
        leave(bound.quotas)
        raise


def _judge(
    decision: Try, entry: Entry, tier: TierEntry, fetch: Sequence[str], rows: int, called: Called
) -> tuple[Called, Sequence[float] | None]:
    """What was called, a wrong answer turned into a failure; and how sure it was of each row, where that is asked."""
    called = checked(entry, fetch, rows, called)
    if called.failure:
        return called, None
    outputs = called.outputs
    if tier.confidence is None or entry.plan.steps[decision.step].accept is None:
        return called, None
    output = outputs[tier.confidence.output]
    sure = confidences(output, tier.confidence, rows)
    if sure is None:
        message = f"'{tier.confidence.output}' in shape {output.shape} doesn't say how sure it is of {rows} rows"
        return _wrong(called, message), None
    return called, sure


def checked(entry: Entry, fetch: Sequence[str], rows: int, called: Called) -> Called:
    """What was called, a wrong answer turned into a failure."""
    if called.failure:
        return called
    outputs = called.outputs
    for name in fetch:
        if name not in outputs:
            return _wrong(called, f"it gave no output '{name}'")
    for name in entry.by_row:
        if name in outputs and outputs[name].shape[:1] != (rows,):
            return _wrong(called, f"it gave '{name}' in shape {outputs[name].shape} for {rows} rows")
    return called


def _wrong(called: Called, message: str) -> Called:
    return Called({}, called.busy_ns, Reason.WRONG_ANSWER.word, message)


def _answer(request: Request, entry: Entry, trail: Trail, settled: Settle, names: Sequence[str]) -> Answer:
    rows, by_row = request.rows, settled.by_row
    degraded = settled.degraded.word if settled.degraded else ""
    datatypes = entry.datatypes
    if by_row is None:
        made = trail.made[-1]
        outputs = made.called.outputs
        tensors = [Tensor(name, datatypes[name], outputs[name]) for name in names]
        counts = [(made.tier, rows)]
    else:
        tensors = [Tensor(name, datatypes[name], _join(name, entry, trail, by_row)) for name in names]
        counts = [(trail.made[at].tier, by_row.count(at)) for at in dict.fromkeys(by_row)]
    if rows == 1:
        tier = counts[0][0]
        return Answer(tensors, tier.name, tier.model, tier.version, degraded)
    return Answer(
        tensors,
        by_count((tier.name, count) for tier, count in counts),
        by_count((tier.model, count) for tier, count in counts),
        by_count((tier.version, count) for tier, count in counts),
        degraded,
    )


def _join(name: str, entry: Entry, trail: Trail, by_row: Rows) -> Array:
    """One output over all rows in order, each from the Attempt whose answer stands."""
    owners = np.asarray(by_row)
    joined: Array | None = None
    for at in dict.fromkeys(by_row):
        made = trail.made[at]
        part = made.called.outputs[name]
        rows = np.flatnonzero(owners == at)
        if len(rows) == len(by_row) and made.sent is None:
            return part
        if joined is None:
            joined = np.empty((len(by_row), *part.shape[1:]), part.dtype)
        if part.shape[1:] != joined.shape[1:]:
            raise Refusal(Reason.WRONG_ANSWER, f"tiers of '{entry.name}' gave output '{name}' in different shapes")
        joined[rows] = part[rows if made.sent is None else np.searchsorted(made.sent, rows)]
    assert joined is not None
    return joined


def _refusal(reason: Reason, entry: Entry, request: Request, trail: Trail) -> Refusal:
    if trail.over is not None and trail.over.reason is reason:
        return trail.over
    where = f"the log has the error under record {request.id.hex()}"
    match reason:
        case Reason.DEADLINE_EXCEEDED:
            allowed_ms = (request.deadline_ns - request.started_ns) / 1e6
            message = f"no answer from '{entry.name}' within {allowed_ms:g} ms; ask for more time or for fewer rows"
        case Reason.NO_CANDIDATE:
            message = f"no tier of '{entry.name}' runs in a region that this tenant's data may flow to"
        case Reason.NO_ROOM:
            message = f"the models of '{entry.name}' have full queues"
        case Reason.WARMING | Reason.SLEEPING | Reason.MODEL_UNAVAILABLE:
            message = f"'{entry.name}' can't answer: {entry.unready}"
        case Reason.WRONG_ANSWER:
            said = next(made.called.message for made in reversed(trail.made) if made.called.failure == reason.word)
            message = f"the model behind '{entry.name}' gave an answer of the wrong form: {said}; {where}"
        case _:
            message = f"the model behind '{entry.name}' failed; {where}"
    return Refusal(reason, message)

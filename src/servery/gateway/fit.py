"""Choose, for text: which tiers can answer a prompt at all, and which of them is asked first."""

from __future__ import annotations

import msgspec

from servery.gateway.holder import Over
from servery.gateway.holdings import least
from servery.gateway.texts import Speaker, TextEntry, TextTier
from servery.gateway.trail import Trail
from servery.routing.next import Facts, Kind, explored, first_step
from servery.routing.static import By, Static, pick
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Candidate, Choice
from servery.terms.request import Scalar
from servery.terms.text import Prompt, Tokens

NS = 1_000_000_000
_NOTHING_CLOSED: frozenset[int] = frozenset()
_UNFIT = {
    "tools": "it can't call tools",
    "images": "it can't see images",
    "json_schema": "it can't keep to a JSON schema",
    "logprobs": "it gives no log-probabilities",
    "completions": "it has nothing for /v1/completions",
    "embeddings": "it has nothing for /v1/embeddings",
    "responses": "it doesn't offer /v1/responses",
    "moderations": "it doesn't offer /v1/moderations",
    "context": "the prompt and its answer would be too long for it",
    "cost": "it would cost more than max_usd_per_inference, or a usd_per_request",
    "resting": "its endpoints take no calls for now",
    "slow": "it would probably not be done by the deadline",
}


class Moment(msgspec.Struct, frozen=True, gc=False):
    """What a choice depends on beside the prompt: `until_ns` is the deadline (steady), `most_pico` what all may cost (0:
    anything), `draw` and `lot` from 0 to 1; `over` is a limit that leaves the tiers that are cheaper than what would be asked.
    """

    now_ns: int
    until_ns: int
    most_pico: int
    draw: float
    lot: float
    over: Over | None = None


def facts_of(prompt: Prompt, entry: TextEntry, trail: Trail, speaker: Speaker, moment: Moment) -> Facts:
    """What is so for this Request: who should be asked first, and who can't be. Refusal where nobody can."""
    first, score = 0, None
    if entry.scored is not None:
        score = entry.scored.score(prompt.text)
        for threshold in entry.scored.thresholds:
            first += score > threshold
        trail.why = f"complexity:{score:.4f}"
    elif entry.static is not None:
        picked = pick(entry.static, _said(entry.static, prompt, trail, speaker))
        first, trail.why = picked.step, picked.why
    barred = closed = entry.closed.get(trail.caller.tenant, _NOTHING_CLOSED)
    candidates = tuple([_candidate(prompt, tier, entry, moment) for tier in entry.tiers])
    unfit = {step: candidate.unfit for step, candidate in enumerate(candidates) if candidate.unfit}
    if unfit:
        closed = _without(unfit, closed, entry, trail, moment)
    facts = Facts(1, moment.until_ns, closed, first, moment.draw, _hedges(prompt, entry))
    if moment.over is not None:
        facts, candidates = _cheaper(entry, facts, candidates, moment.over)
        closed = facts.closed
        trail.why = f"{trail.why} cheaper".strip()
    if len(candidates) == 1 or len(closed) == len(candidates):
        return facts
    if barred:
        replace = msgspec.structs.replace
        candidates = tuple([replace(one, unfit="region") if at in barred else one for at, one in enumerate(candidates)])
    facts, propensity, drawn = explored(entry.plan, facts, entry.explore, moment.lot)
    if drawn:
        trail.why = f"{trail.why} explored".strip()
    thresholds = () if entry.scored is None else entry.scored.thresholds
    trail.choice = Choice(propensity, candidates, score, thresholds, drawn)
    return facts


def _said(static: Static, prompt: Prompt, trail: Trail, speaker: Speaker) -> Scalar | None:
    """What a `static` policy goes by."""
    if static.by is By.SUBSCRIPTION:
        return trail.caller.subscription
    if static.by is By.HEADER:
        return speaker.header(static.name)
    return scalar(prompt.fields.get(static.name))


def _candidate(prompt: Prompt, tier: TextTier, entry: TextEntry, moment: Moment) -> Candidate:
    """A tier, with what a call of it may cost and take, and why it can't be asked: a key of _UNFIT, "" where it can."""
    target = tier.target
    forecast = target.forecast(prompt)
    pico_usd = target.price.of(forecast)
    late_ns = target.late_ns(entry.promised, False)
    unfit = beyond(prompt, tier, forecast)
    if unfit:
        return Candidate(tier.name, unfit, pico_usd, late_ns)
    if (most_pico := least(moment.most_pico, tier.bound.most_pico)) and pico_usd > most_pico:
        unfit = "cost"
    elif target.rest_ns(moment.now_ns):
        unfit = "resting"
    elif late_ns and moment.now_ns + late_ns > moment.until_ns:
        unfit = "slow"
    return Candidate(tier.name, unfit, pico_usd, late_ns)


def beyond(prompt: Prompt, tier: TextTier, forecast: Tokens) -> str:
    """What of a prompt is more than the tier's model can do: a key of _UNFIT, "" where it can all of it."""
    if tier.lacks and (missing := prompt.needs & tier.lacks):
        return min(missing)
    return "context" if tier.window and forecast.input + prompt.most > tier.window else ""


def _without(
    unfit: dict[int, str], closed: frozenset[int], entry: TextEntry, trail: Trail, moment: Moment
) -> frozenset[int]:
    """The steps that can't be asked. One that is merely slow is, where there is no better. Refusal."""
    every = set(range(len(entry.tiers)))
    if not every - closed - unfit.keys():
        unfit = {step: why for step, why in unfit.items() if why != "slow"}
    if unfit:
        skipped = ",".join(f"{entry.tiers[step].name}:{why}" for step, why in unfit.items())
        trail.why = f"{trail.why} without {skipped}".strip()
    if every - closed - unfit.keys():
        return closed | unfit.keys()
    told = "; ".join(f"'{entry.tiers[step].name}': {_UNFIT[why]}" for step, why in unfit.items())
    message = f"no tier of '{entry.name}' can answer this: {told}"
    resting = [entry.tiers[step].target.rest_ns(moment.now_ns) for step, why in unfit.items() if why == "resting"]
    if resting:
        raise Refusal(Reason.UPSTREAM_BUSY, message, retry_after_s=min(resting) / NS)
    if unfit:
        able = [names for need in set(unfit.values()) if (names := entry.capable.get(need))]
        others = sorted(set(able[0]).intersection(*able[1:]) - {entry.name})[:20] if able else []
        raise Refusal(Reason.NOT_CAPABLE, f"{message}; those can: {', '.join(others)}" if others else message)
    return closed


def _cheaper(
    entry: TextEntry, facts: Facts, candidates: tuple[Candidate, ...], over: Over
) -> tuple[Facts, tuple[Candidate, ...]]:
    """What is so where only tiers may be asked that are cheaper than what would have been: than the one that the policy
    chose, or in a cascade than the dearest; the dearest of them first. Over where there is none.
    """
    step = first_step(entry.plan, facts)
    open_ = [at for at in range(len(candidates)) if at not in facts.closed]
    if not open_:
        return facts, candidates
    if entry.plan.kind is Kind.CASCADE:
        step = max(open_, key=lambda at: candidates[at].pico_usd)
    left = [at for at in open_ if step is not None and candidates[at].pico_usd < candidates[step].pico_usd]
    if not left:
        raise over
    told = tuple(
        msgspec.structs.replace(one, unfit="limit") if at in open_ and at not in left else one
        for at, one in enumerate(candidates)
    )
    closed = frozenset(range(len(candidates))) - frozenset(left)
    first = max(left, key=lambda at: candidates[at].pico_usd)
    if entry.plan.kind is Kind.CASCADE:
        first = left[0]
    return msgspec.structs.replace(facts, closed=closed, first=first, denied=over.reason), told


def _hedges(prompt: Prompt, entry: TextEntry) -> tuple[int, ...]:
    """By step, how long an answer is waited for before the same is asked once more."""
    hedge = entry.hedge
    if hedge is None:
        return ()
    return tuple(
        hedge.after_ns or tier.target.late_ns(hedge.quantile, prompt.stream and tier.check is None)
        for tier in entry.tiers
    )


def scalar(raw: msgspec.Raw | None) -> Scalar | None:
    """A field of a prompt, where it is there and has no parts."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=bool | int | float | str)
    except (msgspec.DecodeError, RecursionError):
        return None

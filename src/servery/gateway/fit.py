"""Choose, for text: which tiers can answer a prompt at all, and which of them is asked first."""

from __future__ import annotations

import msgspec

from servery.gateway.texts import Speaker, TextEntry, TextTier
from servery.gateway.trail import Trail
from servery.routing.next import Facts
from servery.routing.static import By, pick
from servery.terms.reasons import Reason, Refusal
from servery.terms.text import Prompt

NS = 1_000_000_000
_NOTHING_CLOSED: frozenset[int] = frozenset()
_UNFIT = {
    "tools": "it can't call tools",
    "images": "it can't see images",
    "json_schema": "it can't keep to a JSON schema",
    "logprobs": "it gives no log-probabilities",
    "context": "the prompt and its answer would be too long for it",
    "cost": "it would cost more than max_usd_per_inference, or the tenant's usd_per_request",
    "resting": "its endpoints take no calls for now",
    "slow": "it would probably not be done by the deadline",
}


class Moment(msgspec.Struct, frozen=True, gc=False):
    """What a choice depends on beside the prompt: `until_ns` is the deadline (steady), `most_pico` what all may cost (0:
    anything), `draw` from 0 to 1.
    """

    now_ns: int
    until_ns: int
    most_pico: int
    draw: float


def facts_of(prompt: Prompt, entry: TextEntry, trail: Trail, speaker: Speaker, moment: Moment) -> Facts:
    """What is so for this Request: who should be asked first, and who can't be. Refusal where nobody can."""
    first = 0
    if entry.scored is not None:
        score = entry.scored.score(prompt.text)
        for threshold in entry.scored.thresholds:
            first += score > threshold
        trail.why = f"complexity:{score:.4f}"
    elif entry.static is not None:
        static, said = entry.static, None
        if static.by is By.SUBSCRIPTION:
            said = trail.caller.subscription
        elif static.by is By.HEADER:
            said = speaker.header(static.name)
        elif static.name in prompt.fields:
            said = _scalar(prompt.fields[static.name])
        picked = pick(static, said)
        first, trail.why = picked.step, picked.why
    closed = entry.closed.get(trail.caller.tenant, _NOTHING_CLOSED)
    unfit: dict[int, str] | None = None
    for step, tier in enumerate(entry.tiers):
        if why := _unfit(prompt, tier, entry, moment):
            unfit = {} if unfit is None else unfit
            unfit[step] = why
    if unfit:
        closed = _without(unfit, closed, entry, trail, moment)
    return Facts(1, moment.until_ns, closed, first, moment.draw, _hedges(prompt, entry))


def _unfit(prompt: Prompt, tier: TextTier, entry: TextEntry, moment: Moment) -> str:
    """Why a tier can't be asked, a key of _UNFIT; "" where it can."""
    if tier.lacks and prompt.needs:
        missing = prompt.needs & tier.lacks
        if missing:
            return min(missing)
    target = tier.target
    if tier.window or moment.most_pico:
        forecast = target.forecast(prompt)
        if tier.window and forecast.input + prompt.most > tier.window:
            return "context"
        if moment.most_pico and target.price.of(forecast) > moment.most_pico:
            return "cost"
    if target.rest_ns(moment.now_ns):
        return "resting"
    late_ns = target.late_ns(entry.promised, False)
    return "slow" if late_ns and moment.now_ns + late_ns > moment.until_ns else ""


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
        raise Refusal(Reason.NOT_CAPABLE, message)
    return closed


def _hedges(prompt: Prompt, entry: TextEntry) -> tuple[int, ...]:
    """By step, how long an answer is waited for before the same is asked once more."""
    hedge = entry.hedge
    if hedge is None:
        return ()
    return tuple(
        hedge.after_ns or tier.target.late_ns(hedge.quantile, prompt.stream and tier.check is None)
        for tier in entry.tiers
    )


def _scalar(raw: msgspec.Raw) -> bool | int | float | str | None:
    try:
        return msgspec.json.decode(raw, type=bool | int | float | str)
    except msgspec.DecodeError:
        return None

"""What another policy would have been worth on recorded Requests of a Route, from the propensities in their Records.

A choice is the tier that is asked first; what follows it leaves nothing to chance, so a Record is worth as much to every policy
that would have begun there. Where a Record's choice was certain, that choice alone was tried; else every tier that could be asked.
Requests for which the other policy might choose what wasn't tried have no support: nothing can be said about them, and they
are left out and counted. That depends on what was known before the choice alone, so the rest is still a fair sample of itself.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np

from servery.learning.judged import Floats
from servery.learning.lines import RIGHT
from servery.learning.recorded import COMPARED, TRIED, Chunk, was_compared, was_tried
from servery.routing.next import Facts, Plan, chances
from servery.stats.offpolicy import Logged, Valued, evaluate, refusal
from servery.terms.record import Choice, Outcome, Record

_FOLDS = 5
_LEAST = 20  # Records of a tier before anything but their mean is foretold
_RIDGE = 1e-3


class Measure(enum.Enum):
    """What a Request is judged by: dollars (a million Requests), errors (share), latency (ms, mean), or Feedback."""

    COST = "cost"
    ERRORS = "errors"
    LATENCY = "latency"
    FEEDBACK = "feedback"


class Another(msgspec.Struct, frozen=True):
    """The other policy. `models` are those of the plan's steps, by tier; `before` those of the tiers that were recorded.

    `score` gives a Record's prompt its score, where `thresholds` need one (None: it isn't known). `picks` is the first step by
    tenant, where the policy goes by that. `controls` are the arms of Experiments, by id and name, in which the Route is as it is.
    """

    plan: Plan
    models: Mapping[str, str]
    before: Mapping[str, str]
    explore: float = 0.0
    thresholds: tuple[float, ...] = ()
    score: Callable[[Record], float | None] = lambda _: 0.0
    picks: Mapping[str, int] = {}
    controls: frozenset[tuple[str, str]] = frozenset()


class Replayed(msgspec.Struct, frozen=True):
    """`unsupported` of `usable` Records had no support; `left_out` says how many others told nothing, and why."""

    records: int
    usable: int
    unsupported: int
    left_out: dict[str, int]
    names: dict[str, int]  # Feedback that there is
    value: Valued | None
    refusal: str = ""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A Record that tells something: the features of a choice by tier, the other policy's chances by tier, and what was seen."""

    tier: str
    propensity: float
    chances: dict[str, float]
    features: dict[str, tuple[float, ...]]
    worth: float
    fold: int
    supported: bool


UNCHOSEN = "had no choice between tiers"
LIMITED = "were over a limit, which narrows the choice"
MOVED = "began at a model that the tier doesn't have now"
UNSCORED = "have no score by this policy, and no Content to compute it from"
UNJUDGED = "have no such Feedback"
UNCLEAR = "have Feedback that is no number, true or false"
LOST = "can be asked of no tier by the other policy"


def replay(chunks: Iterable[Chunk], another: Another, measure: Measure, name: str = "") -> Replayed:
    """The value of `another` by a `measure`; `name` is that of the Feedback, where it is Feedback."""
    seen: list[Seen] = []
    left_out: Counter[str] = Counter()
    names: Counter[str] = Counter()
    records = 0
    for chunk in chunks:
        names.update(line.name for line in chunk.feedback)
        said = {line.record_id: line.value for line in chunk.feedback if line.name == name and line.row <= 0}
        records += len(chunk.records)
        for record in chunk.records:
            found = _seen(record, another, measure, said)
            if isinstance(found, Seen):
                seen.append(found)
            else:
                left_out[found] += 1
    supported = [one for one in seen if one.supported]
    counts = (records, len(seen), len(seen) - len(supported), dict(left_out), dict(names))
    if not supported:
        return Replayed(*counts, None, _nothing(len(seen)))
    logged = _logged(supported, measure)
    why = refusal(logged)
    return Replayed(*counts, None, why) if why is not None else Replayed(*counts, evaluate(logged))


def _nothing(usable: int) -> str:
    if not usable:
        return "no Record tells anything"
    return "the other policy chooses nothing that was tried: every choice was certain, or its tiers had no traffic"


def _seen(record: Record, another: Another, measure: Measure, said: Mapping[bytes, bool | float | str]) -> Seen | str:
    """What a Record tells, or why it tells nothing."""
    first = record.attempts[0] if record.attempts else None
    choice = None if first is None else first.choice
    if first is None or choice is None or not 0 < choice.propensity <= 1:
        return UNCHOSEN
    if was_tried(record):
        return TRIED
    if was_compared(record, another.controls):
        return COMPARED
    if any(candidate.unfit == "limit" for candidate in choice.candidates):
        return LIMITED
    if another.before.get(first.tier, first.model) != first.model:
        return MOVED
    worth = _worth(record, measure, said)
    if isinstance(worth, str):
        return worth
    open_ = _open(choice)
    score = another.score(record)
    if score is None:
        return UNSCORED
    wanted = _chances(record, choice, open_, another, score)
    if not any(wanted.values()):
        return LOST
    tried = open_ if choice.propensity < 1 else {first.tier}
    kept = {tier for tier in tried if another.models.get(tier) == another.before.get(tier)}
    supported = all(tier in kept for tier, chance in wanted.items() if chance)
    features = {one.tier: _features(one.pico_usd, one.latency_ns, choice) for one in choice.candidates}
    fold = record.id[-1] % _FOLDS
    return Seen(first.tier, choice.propensity, wanted, features, worth, fold, supported)


def _open(choice: Choice) -> set[str]:
    """The tiers that could be asked; those that are merely slow can be where there is no other."""
    fit = {one.tier for one in choice.candidates if not one.unfit}
    return fit or {one.tier for one in choice.candidates if one.unfit == "slow"}


def _chances(record: Record, choice: Choice, open_: set[str], another: Another, score: float) -> dict[str, float]:
    """By tier, the other policy's chance to begin there. A tier that the Record doesn't know is taken to be fit."""
    known = {one.tier for one in choice.candidates}
    steps = another.plan.steps
    closed = frozenset(at for at, step in enumerate(steps) if step.tier in known and step.tier not in open_)
    first = another.picks.get(record.tenant, 0) + sum(score > threshold for threshold in another.thresholds)
    by_step = chances(another.plan, Facts(1, 0, closed, first), another.explore)
    return {step.tier: chance for step, chance in zip(steps, by_step, strict=True)}


def _worth(record: Record, measure: Measure, said: Mapping[bytes, bool | float | str]) -> float | str:
    match measure:
        case Measure.COST:
            return record.pico_usd / 1e6
        case Measure.LATENCY:
            return record.duration_ns / 1e6
        case Measure.ERRORS:
            return float(record.outcome in (Outcome.FAILED, Outcome.REFUSED))
        case Measure.FEEDBACK:
            if record.id not in said:
                return UNJUDGED
            value = said[record.id]
            number = RIGHT.get(value.strip().lower()) if isinstance(value, str) else float(value)
            return UNCLEAR if number is None or not np.isfinite(number) else number


def _features(pico_usd: int, latency_ns: int, choice: Choice) -> tuple[float, ...]:
    """What was known of a candidate before it was asked."""
    return (1.0, choice.score or 0.0, float(np.log1p(pico_usd)), float(np.log1p(latency_ns)))


def _logged(seen: Sequence[Seen], measure: Measure) -> Logged:
    """The Records as numbers, with what is foretold of each by Records of the other folds."""
    models = {fold: _fitted([one for one in seen if one.fold != fold]) for fold in {one.fold for one in seen}}
    predicted = [models[one.fold](one.tier, one.features[one.tier]) for one in seen]
    expected = [
        sum([chance * models[one.fold](tier, one.features[tier]) for tier, chance in one.chances.items() if chance])
        for one in seen
    ]
    return Logged(
        np.array([one.worth for one in seen]),
        np.array([one.propensity for one in seen]),
        np.array([one.chances.get(one.tier, 0.0) for one in seen]),
        np.array(predicted),
        np.array(expected),
        bounds=(0.0, 1.0) if measure is Measure.ERRORS else None,
    )


def _fitted(seen: Sequence[Seen]) -> Callable[[str, tuple[float, ...]], float]:
    """What a tier's worth is expected to be: least squares on its features, within what was seen; its mean where little was."""
    if not seen:
        return lambda _tier, _features: 0.0
    every = float(np.mean([one.worth for one in seen]))
    by_tier: dict[str, tuple[Floats, float, float]] = {}
    for tier in {one.tier for one in seen}:
        worth = np.array([one.worth for one in seen if one.tier == tier])
        features = np.array([one.features[tier] for one in seen if one.tier == tier])
        if len(worth) < _LEAST:
            weights = np.array([float(worth.mean()), 0.0, 0.0, 0.0])
        else:
            bend = _RIDGE * len(worth) * np.diag([0.0, 1.0, 1.0, 1.0])
            weights = np.linalg.lstsq(features.T @ features + bend, features.T @ worth, rcond=None)[0].astype(
                np.float64
            )
        by_tier[tier] = (weights, float(worth.min()), float(worth.max()))

    def foretell(tier: str, features: tuple[float, ...]) -> float:
        if tier not in by_tier:
            return every
        weights, low, high = by_tier[tier]
        return min(max(float(weights @ features), low), high)

    return foretell

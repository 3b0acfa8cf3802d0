"""Judged prompts from Records: which tier was asked first, with which probability, and what Feedback says of the answer.

What is compared are the ways that begin with a tier: what was answered when the prompt began there, by that tier or by those that
stood in for it or were asked after it. That is what a policy chooses, and what the propensity in a Record is the probability of.
A Record tells how one of the ways ends, never both, also where a cascade asked several tiers: the caller got one answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import msgspec
import numpy as np

from servery.learning.estimated import Asked
from servery.learning.examples import Unusable
from servery.learning.judged import Floats, Judged
from servery.learning.lines import RIGHT
from servery.learning.prompts import LEAST, Answered
from servery.routing.assignment import Arm
from servery.terms.experiments import BEFORE, EXCLUDED, is_experiment
from servery.terms.record import Feedback, Outcome, Record

EXPLORE = "`policy: {explore: 0.1}` of the route has a tenth of the first tiers drawn"


class Wanted(msgspec.Struct, frozen=True):
    """What is learned from: Records of a `route` that could begin at the tiers `cheap` and `strong`, judged by the Feedback `name`.

    A number at or above `right_from` says that the answer was right.
    """

    route: str
    cheap: str
    strong: str
    name: str
    right_from: float = 0.5


class Chunk(Protocol):
    """Some Records, and the Feedback on them in the order in which it came."""

    @property
    def records(self) -> Sequence[Record]: ...
    @property
    def feedback(self) -> Sequence[Feedback]: ...


class Fact(msgspec.Struct, frozen=True, gc=False):
    """What a Record tells: which tier its Request began with, by which chance, whether the answer was right, and what it cost."""

    record_id: bytes
    tenant: str
    first: str
    propensity: float
    right: float
    pico_usd: int


class Found(msgspec.Struct, frozen=True):
    """What was found of a route: so many Records, those that tell something, how often others don't and why, and the names of
    Feedback on them.
    """

    records: int
    facts: tuple[Fact, ...]
    left_out: Counter[str]
    names: Counter[str]


UNANSWERED = "had no answer"
UNFIT = "could not have begun at both tiers"
TRIED = "were given the new version in a rollout"
COMPARED = "were in an arm of an experiment"
UNJUDGED = "have no such Feedback"
UNCLEAR = "have Feedback that says neither right nor wrong"
CERTAIN = "began where the policy always begins (propensity 1)"


def find_facts(chunks: Iterable[Chunk], wanted: Wanted) -> Found:
    """The facts in Records of the route."""
    facts: list[Fact] = []
    left_out: Counter[str] = Counter()
    names: Counter[str] = Counter()
    records = 0
    for chunk in chunks:
        names.update(line.name for line in chunk.feedback)
        said = {line.record_id: line.value for line in chunk.feedback if line.name == wanted.name and line.row <= 0}
        records += len(chunk.records)
        for record in chunk.records:
            fact = _fact(record, said, wanted)
            if isinstance(fact, Fact):
                facts.append(fact)
            else:
                left_out[fact] += 1
    return Found(records, tuple(facts), left_out, names)


def _fact(record: Record, said: dict[bytes, bool | float | str], wanted: Wanted) -> Fact | str:
    """What it tells, or why it tells nothing."""
    if record.outcome is not Outcome.SERVED or not record.attempts:
        return UNANSWERED
    first = record.attempts[0]
    if first.choice is None:
        return UNFIT
    fit = {candidate.tier for candidate in first.choice.candidates if not candidate.unfit}
    if not {wanted.cheap, wanted.strong} <= fit:
        return UNFIT
    if was_tried(record):
        return TRIED
    if was_compared(record):
        return COMPARED
    if record.id not in said:
        return UNJUDGED
    right = _right(said[record.id], wanted.right_from)
    if right is None:
        return UNCLEAR
    if not 0 < first.choice.propensity < 1:
        return CERTAIN
    return Fact(record.id, record.tenant, first.tier, first.choice.propensity, right, record.pico_usd)


def was_tried(record: Record) -> bool:
    """Whether it was given the new Version in a Rollout: a tier is another one with it.

    That goes by what was assigned, before any tier was chosen. By what answered, the choices of one tier would be left out, and those of
    another kept, and no propensity would be true any more.
    """
    return any(one.arm == Arm.CANDIDATE.word for one in record.arms)


def was_compared(record: Record, controls: Collection[tuple[str, str]] = ()) -> bool:
    """Whether it was in an arm of an Experiment: its tiers may be others. Only the Experiment knows which arms (by its id and their
    names) are the Route as it is: `controls`.
    """
    return any(
        is_experiment(one.rollout) and one.arm not in (BEFORE, EXCLUDED) and (one.rollout, one.arm) not in controls
        for one in record.arms
    )


def _right(value: bool | float | str, right_from: float) -> float | None:
    if isinstance(value, str):
        return RIGHT.get(value.strip().lower())
    return float(value >= right_from) if isinstance(value, float) else float(value)


def with_prompts(
    found: Found, wanted: Wanted, prompt_of: Callable[[bytes], str | None]
) -> tuple[Answered, tuple[Fact, ...]]:
    """What the facts say of their prompts, with tenants as groups, and the facts that are left.

    `prompt_of` gives the prompt of a Record, None where there is none. Unusable where too few are left.
    """
    _check_found(found, wanted)
    texts = [(fact, prompt_of(fact.record_id)) for fact in found.facts]
    known = [(fact, text) for fact, text in texts if text is not None]
    if not known:
        raise Unusable(
            f"none of the {len(texts):,} judged Records has Content, so nothing is known of their prompts: declare a policy, such as "
            "`content: {keep_days: 30}` of the tenant, and wait"
        )
    facts = tuple([fact for fact, _ in known])
    _check_facts(facts, wanted)
    right, weight = np.array([fact.right for fact in facts]), np.array([1 / fact.propensity for fact in facts])
    cheap, strong = (np.array([fact.first == tier for fact in facts], float) for tier in (wanted.cheap, wanted.strong))
    judged, asked = Judged(right * cheap, right * strong), Asked(weight * cheap, weight * strong)
    answered = Answered(tuple([text for _, text in known]), judged, tuple([fact.tenant for fact in facts]), asked)
    return answered, facts


def usd_per_million(facts: Sequence[Fact], weights: Floats) -> float:
    """What a million prompts that begin at a tier cost, by the weights of these facts for it."""
    pico = np.array([fact.pico_usd for fact in facts], float)
    return float(np.average(pico, weights=weights)) / 1e6


def _check_found(found: Found, wanted: Wanted) -> None:
    """Whether anything can be learned from what was found. Unusable says what is missing, and what to do."""
    left = found.records
    if not left:
        raise Unusable(
            f"there are no Records of the route {wanted.route!r}; `servery report` names those that there are"
        )
    for why in (UNANSWERED, UNFIT, TRIED, COMPARED, UNJUDGED, UNCLEAR, CERTAIN):
        before, left = left, left - found.left_out[why]
        if not left:
            raise Unusable(_nothing_left(why, before, found, wanted))


def _nothing_left(why: str, before: int, found: Found, wanted: Wanted) -> str:
    both = f"`{wanted.cheap}` and `{wanted.strong}`"
    if why == UNJUDGED:
        there = ", ".join(f"`{name}` ({count:,})" for name, count in found.names.most_common(8)) or "none at all"
        return f"none of {before:,} Records has the Feedback {wanted.name!r}; there is {there}"
    if why == CERTAIN:
        return (
            f"all {before:,} judged Records began where the policy always begins (propensity 1): nothing says what would have come "
            f"of them with the other one of {both}. {EXPLORE}"
        )
    if why == UNFIT:
        return f"none of {before:,} Records could have begun at both {both}: name two tiers that can answer the same prompts"
    return f"all {before:,} Records that could tell something {why}"


def _check_facts(facts: Sequence[Fact], wanted: Wanted) -> None:
    for tier in (wanted.cheap, wanted.strong):
        right = [fact.right for fact in facts if fact.first == tier]
        if len(right) < LEAST:
            raise Unusable(
                f"of {len(facts):,} judged Records with Content {len(right):,} began at `{tier}`; at least {LEAST} are needed. {EXPLORE}"
            )
        if len(set(right)) < 2:
            raise Unusable(
                f"all {len(right):,} judged answers that began at `{tier}` are {'right' if right[0] else 'wrong'}; there is nothing to "
                "learn. Where Feedback is a number, --right-from says from which on an answer was right"
            )

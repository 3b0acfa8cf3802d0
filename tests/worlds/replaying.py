"""A world in which it is known what every policy is worth: prompts whose hardness a score half knows, and three tiers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import msgspec

from servery.learning.replay import Another
from servery.routing.next import Facts, Kind, Plan, Step, chances, explored
from servery.terms.record import Attempt, Candidate, Choice, Feedback, Outcome, Record, Role

TIERS = ("cheap", "mid", "dear")
PRICES = (1.0, 6.0, 30.0)  # µ$ for a token
PLAN = Plan(Kind.COMPLEXITY, tuple(Step(tier) for tier in TIERS))
MODELS = {tier: f"model-{tier}" for tier in TIERS}


class Prompt(msgspec.Struct, frozen=True):
    """What is drawn of a Request before anybody chooses. Right, failing and lengths are those of each tier."""

    score: float
    forecast: int  # tokens
    closed: frozenset[int]
    right: tuple[float, ...]
    fails: tuple[float, ...]
    tokens: tuple[int, ...]


class Chunk(msgspec.Struct, frozen=True):
    records: list[Record]
    feedback: list[Feedback]


def prompts(dice: random.Random, count: int) -> Iterator[Prompt]:
    for _ in range(count):
        hard = dice.random()
        score = min(max(hard + dice.gauss(0, 0.2), -1), 1)
        forecast = round(dice.lognormvariate(6, 0.7)) + 20
        closed = frozenset({2}) if dice.random() < 0.1 else frozenset[int]()
        right = tuple(
            min(max(base - slope * hard, 0.02), 0.98) for base, slope in ((0.95, 0.8), (0.95, 0.5), (0.96, 0.2))
        )
        fails = (0.01, 0.02, 0.05 + 0.05 * hard)
        tokens = tuple(round(forecast * dice.lognormvariate(0, 0.3)) for _ in TIERS)
        yield Prompt(score, forecast, closed, right, fails, tokens)


def facts(prompt: Prompt, thresholds: Sequence[float]) -> Facts:
    return Facts(1, 10**12, prompt.closed, sum(prompt.score > threshold for threshold in thresholds))


def recorded(dice: random.Random, count: int, thresholds: tuple[float, ...], explore: float) -> Chunk:
    """What a server with these thresholds would have recorded, and what callers said of it."""
    records: list[Record] = []
    said: list[Feedback] = []
    for prompt in prompts(dice, count):
        told, propensity, drawn = explored(PLAN, facts(prompt, thresholds), explore, dice.random())
        first = told.first if told.first not in prompt.closed else 0
        candidates = tuple(
            Candidate(tier, "context" if at in prompt.closed else "", round(prompt.forecast * PRICES[at] * 1e6), 10**8)
            for at, tier in enumerate(TIERS)
        )
        choice = Choice(propensity, candidates, prompt.score, thresholds, drawn)
        pico = round(prompt.tokens[first] * PRICES[first] * 1e6)
        failed = dice.random() < prompt.fails[first]
        outcome = Outcome.FAILED if failed else Outcome.SERVED
        tier = TIERS[first]
        attempt = Attempt(Role.SERVE, tier, MODELS[tier], "v", 1, 1, 10**6, pico, outcome, choice=choice)
        made = Record(dice.randbytes(26), 0, "acme", "k", "chat", outcome, "", 1, 10**8 * (1 + first), pico, (attempt,))
        records.append(made)
        said.append(Feedback(b"", 0, "acme", made.id, -1, "good", dice.random() < prompt.right[first]))
    return Chunk(records, said)


def true(dice: random.Random, count: int, thresholds: tuple[float, ...], explore: float) -> dict[str, float]:
    """What a policy is worth to this world, by measure."""
    sums = dict.fromkeys(("cost", "errors", "latency", "feedback"), 0.0)
    for prompt in prompts(dice, count):
        for at, chance in enumerate(chances(PLAN, facts(prompt, thresholds), explore)):
            sums["cost"] += chance * prompt.tokens[at] * PRICES[at]
            sums["errors"] += chance * prompt.fails[at]
            sums["latency"] += chance * 100 * (1 + at)
            sums["feedback"] += chance * prompt.right[at]
    return {name: total / count for name, total in sums.items()}


def another(thresholds: tuple[float, ...], explore: float = 0.0) -> Another:
    return Another(PLAN, MODELS, MODELS, explore, thresholds, _score)


def _score(record: Record) -> float | None:
    choice = record.attempts[0].choice
    return None if choice is None else choice.score

"""What Records tell of two ways to begin, and what is said where they tell nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from lines import attempt, feedback, record
from servery.learning.examples import Unusable
from servery.learning.recorded import Fact, Found, Wanted, find_facts, usd_per_million, with_prompts
from servery.terms.experiments import experiment_id
from servery.terms.record import Assigned, Candidate, Choice, Feedback, Outcome, Record

WANTED = Wanted("chat", "cheap", "dear", "good")
BOTH = (Candidate("cheap"), Candidate("dear"), Candidate("mid", "tools"))


class Chunk(msgspec.Struct, frozen=True):
    records: list[Record]
    feedback: list[Feedback]


def told(
    first: str = "cheap", propensity: float = 0.5, candidates: tuple[Candidate, ...] = BOTH, **more: Any
) -> Record:
    one = msgspec.structs.replace(attempt(first), choice=Choice(propensity, candidates))
    return record(one, route="chat", **more)


def found(*judged: tuple[Record, Any], wanted: Wanted = WANTED) -> Found:
    given = [feedback(one, value, name="good") for one, value in judged if value is not None]
    return find_facts([Chunk([one for one, _ in judged], given)], wanted)


@pytest.mark.parametrize(
    ("value", "right"),
    [(True, 1), (False, 0), (1.0, 1), (0.0, 0), (0.5, 1), (0.49, 0), ("yes", 1), (" No ", 0), ("1", 1)],
)
def test_feedback_says_right_or_wrong(value: Any, right: float) -> None:
    one = told("dear", 0.05)
    assert found((one, value)).facts == (Fact(one.id, "acme", "dear", 0.05, right, one.pico_usd),)


def test_the_last_feedback_counts_and_stars_are_right_from_a_number_on() -> None:
    one = told()
    stars = msgspec.structs.replace(WANTED, right_from=4)
    lines = [feedback(one, float(value), name="good") for value in (5, 3)]
    other = feedback(one, 5.0, name="other")
    (fact,) = find_facts([Chunk([one], [*lines, other])], stars).facts
    assert fact.right == 0
    (fact,) = find_facts([Chunk([one], lines[::-1])], stars).facts
    assert fact.right == 1


def tried(arm: str) -> Record:
    return msgspec.structs.replace(told(), arms=(Assigned("r1", arm, 0.5, "u"),))


def test_what_the_old_version_answers_in_a_rollout_counts() -> None:
    assert len(found((tried("incumbent"), True), (tried("control"), False)).facts) == 2


def compared(arm: str) -> Record:
    return msgspec.structs.replace(told(), arms=(Assigned(experiment_id("1"), arm, 0.5, "u"),))


def test_those_without_a_unit_in_an_experiment_count() -> None:
    assert len(found((compared("excluded"), True), (compared("before"), False)).facts) == 2


LEFT_OUT = [
    (told(outcome=Outcome.FAILED), True, "had no answer"),
    (record(route="chat"), True, "had no answer"),
    (compared("new"), True, "were in an arm of an experiment"),
    (record(attempt("cheap"), route="chat"), True, "could not have begun at both tiers"),
    (told(candidates=(Candidate("cheap"), Candidate("dear", "context"))), True, "could not have begun at both tiers"),
    (told(candidates=(Candidate("cheap"), Candidate("mid"))), True, "could not have begun at both tiers"),
    (told(), None, "have no such Feedback"),
    (told(), "maybe", "have Feedback that says neither right nor wrong"),
    (tried("candidate"), True, "were given the new version in a rollout"),
    (told(propensity=1.0), True, "began where the policy always begins (propensity 1)"),
]


@pytest.mark.parametrize(("one", "value", "why"), LEFT_OUT)
def test_what_tells_nothing_is_left_out_and_counted(one: Record, value: Any, why: str) -> None:
    whole = told("dear")
    seen = found((one, value), (whole, True))
    assert [fact.record_id for fact in seen.facts] == [whole.id]
    assert (seen.records, dict(seen.left_out)) == (2, {why: 1})


def many(cheap: int = 60, dear: int = 60, right: Callable[[int], bool] = lambda at: at % 2 == 0, **more: Any) -> Found:
    tiers = ["cheap"] * cheap + ["dear"] * dear
    return found(*[(told(tier, **more), right(at)) for at, tier in enumerate(tiers)])


def test_each_way_is_known_where_it_was_taken_and_counts_by_how_rare_that_is() -> None:
    seen = found(
        *[(told("dear" if at % 4 == 0 else "cheap", 0.25 if at % 4 == 0 else 0.75), at % 3 == 0) for at in range(240)]
    )
    answered, facts = with_prompts(seen, WANTED, lambda record_id: record_id.hex())
    assert answered.texts == tuple(fact.record_id.hex() for fact in facts)
    assert answered.groups == ("acme",) * 240
    asked = answered.asked
    assert asked is not None
    for at, fact in enumerate(facts):
        here, there = (asked.strong, asked.cheap) if fact.first == "dear" else (asked.cheap, asked.strong)
        right = answered.judged.strong if fact.first == "dear" else answered.judged.cheap
        assert (here[at], there[at], right[at]) == (pytest.approx(1 / fact.propensity), 0, fact.right)
    assert asked.cheap.sum() == pytest.approx(asked.strong.sum()) == pytest.approx(240)


def test_a_tier_that_is_not_compared_says_nothing_of_either() -> None:
    third = (Candidate("cheap"), Candidate("dear"), Candidate("mid"))
    seen = many()
    other = found((told("mid", 0.3, third), True))
    answered, _ = with_prompts(msgspec.structs.replace(seen, facts=seen.facts + other.facts), WANTED, lambda _: "x")
    assert answered.asked is not None
    assert (answered.asked.cheap[-1], answered.asked.strong[-1]) == (0, 0)


def test_what_a_way_costs_counts_the_rare_more() -> None:
    facts = [Fact(b"", "", "cheap", 1, 1, 10**9), Fact(b"", "", "cheap", 1, 1, 4 * 10**9)]
    assert usd_per_million(facts, np.array([2.0, 1.0])) == pytest.approx(2_000)


REFUSED = [
    (found, "there are no Records of the route 'chat'"),
    (lambda: found((told(outcome=Outcome.FAILED), True)), "all 1 Records that could tell something had no answer"),
    (lambda: found((record(attempt("cheap"), route="chat"), True)), "could have begun at both `cheap` and `dear`"),
    (lambda: found((told(), None)), "none of 1 Records has the Feedback 'good'; there is none at all"),
    (lambda: many(propensity=1.0), r"all 120 judged Records began where the policy always begins .*explore: 0.1"),
    (lambda: many(dear=12), r"of 72 judged Records with Content 12 began at `dear`; at least 50 are needed.*explore"),
    (lambda: many(right=lambda _: True), r"all 60 judged answers that began at `cheap` are right; .*--right-from"),
    (lambda: many(right=lambda at: at < 60 and at % 2 == 0), "that began at `dear` are wrong"),
]


@pytest.mark.parametrize(("make", "said"), REFUSED)
def test_what_is_missing_is_said_with_what_to_do(make: Callable[[], Found], said: str) -> None:
    with pytest.raises(Unusable, match=said):
        with_prompts(make(), WANTED, lambda _: "x")


def test_other_names_of_feedback_are_told() -> None:
    one = told()
    seen = find_facts([Chunk([one], [feedback(one, 1.0, name="stars"), feedback(one, 2.0, name="stars")])], WANTED)
    with pytest.raises(Unusable, match=r"has the Feedback 'good'; there is `stars` \(2\)"):
        with_prompts(seen, WANTED, lambda _: "x")


def test_records_without_content_are_no_use() -> None:
    with pytest.raises(Unusable, match=r"none of the 120 judged Records has Content.*keep_days"):
        with_prompts(many(), WANTED, lambda _: None)

"""What a guard says: by bounds that hold at every look, and nothing where nothing is known."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from servery.control.evidence import Draw, Evidence, Seen, Totals
from servery.control.judge import Judge, Means, State, looked, named
from servery.stats.windows import Bounds, Sums
from servery.terms.folds import Told
from servery.terms.rollouts import Guard, RolloutPolicy, RolloutStep, Unit, Verdict

ERRORS = Guard("errors", 0.02)
COST = Guard("cost", 0.2, most_usd=0.01)
QUALITY = Guard("feedback", 0.05, name="label", better="equal")
SCORE = Guard("feedback", 0.5, name="stars", bounds=(1, 5))


def policy(*guards: Guard) -> RolloutPolicy:
    return RolloutPolicy("canary", None, (RolloutStep(0.5),), guards)


def totals(calls: int = 0, errors: int = 0, pico: int = 0, told: dict[str, Told] | None = None) -> Totals:
    made = Totals(0, calls, errors, told=told or {})
    for _ in range(calls if pico else 0):
        made.prices.add(pico)
    return made


def verdicts(guard: Guard, *looks: tuple[Totals, Totals]) -> list[Verdict]:
    """What is said at each look at these totals."""
    judge = Judge(policy(guard))
    return [judge.look({Draw(0): Seen(*arms)})[0].verdict for arms in looks]


def slowly(guard: Guard, arms: tuple[Totals, Totals]) -> Verdict:
    """What is said in the end where they come in ten parts of a size."""

    def part(whole: Totals, of: int) -> Totals:
        told = {
            name: msgspec.convert(
                {field: getattr(one, field) * of / 10 for field in ("n", "total", "squares")}
                | {field: getattr(one, field) * of // 10 for field in ("judged", "right")}
                | {"low": one.low, "high": one.high},
                Told,
                strict=False,
            )
            for name, one in whole.told.items()
        }
        prices = [value for value, count in whole.prices.values() for _ in range(count * of // 10)]
        made = Totals(0, whole.calls * of // 10, whole.errors * of // 10, told=told)
        for value in prices:
            made.prices.add(value)
        return made

    return verdicts(guard, *[(part(arms[0], of), part(arms[1], of)) for of in range(1, 11)])[-1]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.03, 0.2, Verdict.WORSE),
        (0.02, 0.2, Verdict.WORSE),
        (-0.1, 0.019, Verdict.NO_DIFFERENCE),
        (-0.1, -0.01, Verdict.BETTER),
        (0.01, 0.03, Verdict.NOT_YET),
        (-1, 1, Verdict.NOT_YET),
    ],
)
def test_bounds_against_the_margin(low: float, high: float, verdict: Verdict) -> None:
    assert looked("errors", 0.02, Bounds(low, high), 10, 10).verdict is verdict


def test_no_data_is_never_good_news() -> None:
    assert looked("errors", 0.02, Bounds(-1, -0.5), 10, 0).verdict is Verdict.NOT_YET
    assert verdicts(ERRORS, (totals(), totals()), (totals(5_000), totals())) == [Verdict.NOT_YET] * 2
    assert Judge(policy(ERRORS)).look({})[0].verdict is Verdict.NOT_YET


def test_errors() -> None:
    alike = totals(5_000, 50), totals(5_000, 50)
    worse = totals(5_000, 50), totals(5_000, 400)
    better = totals(5_000, 1_000), totals(5_000, 50)
    assert [slowly(ERRORS, arms) for arms in (alike, worse, better)] == [
        Verdict.NO_DIFFERENCE,
        Verdict.WORSE,
        Verdict.BETTER,
    ]


def test_cost_is_held_against_a_part_of_the_incumbents() -> None:
    usd = 10**12
    same = totals(3_000, pico=usd // 1_000), totals(3_000, pico=usd // 1_000)
    tenth = totals(3_000, pico=usd // 1_000), totals(3_000, pico=usd * 11 // 10_000)
    double = totals(3_000, pico=usd // 1_000), totals(3_000, pico=usd // 500)
    said = [slowly(COST, arms) for arms in (same, tenth, double)]
    assert said[0] in (Verdict.BETTER, Verdict.NO_DIFFERENCE)
    assert said[2] is Verdict.WORSE
    assert said[1] is not Verdict.WORSE


def test_cost_decides_soon() -> None:
    """Bets are sized by the margin's part of what the incumbent costs, not by the cap, which is five times that."""
    draws, judge = np.random.default_rng(1), Judge(policy(Guard("cost", 0.1, most_usd=0.005)))
    judge.learn(priced(draws, 1_000, 10**9))
    alike, twice = ((priced(draws, n, 10**9), priced(draws, n, cost)) for n, cost in ((1_000, 10**9), (60, 2 * 10**9)))
    assert (
        Judge(policy(Guard("cost", 0.1, most_usd=0.005)), judge.state()).look({Draw(0): Seen(*alike)})[0].verdict
        is Verdict.NO_DIFFERENCE
    )
    assert judge.look({Draw(0): Seen(*twice)})[0].verdict is Verdict.WORSE


def priced(draws: np.random.Generator, calls: int, mean: float) -> Totals:
    """Calls of one row whose price scatters by half of itself."""
    made = Totals(0, calls)
    for value in draws.uniform(0.5, 1.5, calls) * mean:
        made.prices.add(round(value))
        assert made.priced is not None
        made.priced = made.priced.plus(Sums(1, round(value), float(round(value)) ** 2))
    return made


def test_prices_are_exact_until_one_is_above_the_cap() -> None:
    """A bin of the sketch is 2 % wide: prices at its ends would look as if they differed."""
    harmless = Guard("cost", 0.001, most_usd=0.001)
    judge = Judge(policy(harmless))
    one, other = (exactly(200, pico) for pico in (10**8, 10**8 + 5_000))
    judge.look({Draw(0): Seen(one, other)})
    followed = msgspec.msgpack.decode(judge.state(), type=State).guards[0]
    assert isinstance(followed, Means)
    assert followed.harm.candidate.total == pytest.approx(200 * (10**8 + 5_000) / 1.001 / 1e9)
    one.prices.add(2 * 10**9)  # above the cap
    one.calls += 1
    one.priced = Sums(201, 200 * 10**8 + 2 * 10**9, 200 * 1e16 + 4e18)
    judge.look({Draw(0): Seen(one, other)})
    followed = msgspec.msgpack.decode(judge.state(), type=State).guards[0]
    assert isinstance(followed, Means)
    assert followed.harm.incumbent.n == 201
    assert followed.harm.incumbent.total == pytest.approx(200 * 0.1 + 1)
    assert followed.exact == {}


def exactly(calls: int, pico: int) -> Totals:
    made = totals(calls, pico=pico)
    made.priced = Sums(calls, calls * pico, calls * float(pico) ** 2)
    return made


def test_quality_by_labels_and_by_scores() -> None:
    right, wrong = Told(judged=2_000, right=1_900), Told(judged=2_000, right=1_400)
    arms = [totals(2_000, told={"label": told}) for told in (right, wrong)]
    assert slowly(QUALITY, (arms[0], arms[1])) is Verdict.WORSE
    assert slowly(QUALITY, (arms[1], arms[0])) is Verdict.BETTER
    good, bad = Told(800, 3_200.0, 13_000.0, 1, 5), Told(800, 1_800.0, 4_500.0, 1, 5)
    arms = [totals(800, told={"stars": told}) for told in (good, bad)]
    assert slowly(SCORE, (arms[0], arms[1])) is Verdict.WORSE


def test_values_outside_of_what_was_declared_are_invalid() -> None:
    odd = totals(10, told={"stars": Told(10, 60.0, 400.0, 1, 9)})
    judge = Judge(policy(SCORE))
    (look,) = judge.look({Draw(0): Seen(totals(10), odd)})
    assert look.verdict is Verdict.INVALID
    assert "outside of 1 to 5" in look.said


def test_feedback_that_is_corrected_waits_for_more() -> None:
    judge = Judge(policy(QUALITY))
    arms = [[Told(judged=judged, right=right) for judged, right in pairs] for pairs in (
        ((10, 8), (10, 8)), ((10, 8), (10, 9)), ((400, 390), (400, 392)))]  # fmt: skip
    looks = [
        judge.look({Draw(0): Seen(totals(400, told={"label": old}), totals(400, told={"label": new}))})[0]
        for old, new in arms
    ]
    assert (looks[-1].incumbents, looks[-1].candidates) == (400, 400)


def test_too_many_calls_without_a_unit_are_invalid() -> None:
    few, many = (Seen(totals(500), totals(490), excluded) for excluded in (9, 11))
    assert Judge(policy(ERRORS)).look({Draw(0): few})[0].guard == "errors"
    (look,) = Judge(policy(ERRORS)).look({Draw(0): many})
    assert (look.guard, look.verdict) == ("units", Verdict.INVALID)


def test_a_split_that_is_not_the_declared_one_is_invalid() -> None:
    judge, uneven = Judge(policy(ERRORS)), (Totals(5_000, 5_000), Totals(3_000, 3_000))
    (look,) = judge.look({Draw(0): Seen(*uneven)})
    assert (look.guard, look.verdict) == ("split", Verdict.INVALID)
    alike = Totals(5_000, 5_000), Totals(5_000, 5_000)
    assert Judge(policy(ERRORS)).look({Draw(0): Seen(*alike)})[0].guard == "errors"


def test_units_that_had_the_incumbent_are_drawn_anew_from_those_that_are_left() -> None:
    """Of a share of 0.5 after 0.2 they get the candidate in 3 of 8 cases."""
    steps = (RolloutStep(0.2), RolloutStep(0.5))
    judge = Judge(RolloutPolicy("canary", Unit("x-user"), steps, (ERRORS,)))
    fresh, drawn = (Seen(Totals(n, n), Totals(m, m)) for n, m in ((800, 200), (5_000, 3_000)))
    assert judge.look({Draw(0): fresh, Draw(1, 0): drawn})[0].guard == "errors"
    (look,) = judge.look({Draw(0): fresh, Draw(1, 0): Seen(Totals(9_000, 9_000), Totals(9_000, 9_000))})
    assert (look.guard, look.verdict) == ("split", Verdict.INVALID)


def test_a_controller_that_starts_again_goes_on_from_what_was_judged() -> None:
    judge = Judge(policy(ERRORS, COST))
    first: Evidence = {Draw(0): Seen(totals(900, 9, 10**9), totals(900, 30, 10**9))}
    second: Evidence = {Draw(0): Seen(totals(2_000, 20, 10**9), totals(2_000, 90, 10**9))}
    judge.look(first)
    again = Judge(policy(ERRORS, COST), judge.state())
    assert again.look(second) == judge.look(second)
    assert again.look(second) == judge.look(second)  # nothing new: the same


def test_guards_have_names() -> None:
    assert [named(guard) for guard in (ERRORS, COST, QUALITY, Guard("latency", 0.1, 0.999))] == [
        "errors",
        "cost",
        "feedback label",
        "latency p99.9",
    ]
    assert msgspec.json.encode(Judge(policy(ERRORS)).look({}))

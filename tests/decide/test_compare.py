"""What an experiment comes to: verdicts of each metric, what makes it invalid, and what is concluded of them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from servery.control.compare import Arrived, Split, arrived_of, by_segment, compare, conclusion, estimated, flaws
from servery.stats.asymptotic import UnitSums
from servery.terms.experiments import Arm, Conclusion, Design, Metric
from servery.terms.rollouts import Verdict

ERRORS = Metric("errors", 0.02)
COST = Metric("cost", 0.1)
LABEL = Metric("feedback", 0.05, name="label")
DESIGN = Design("r", (Arm("old", 0.5), Arm("new", 0.5)), ERRORS)
replace = msgspec.structs.replace


def units(n: int, share: float, visits: int = 4, seed: int = 1) -> UnitSums:
    """n units of so many requests, of which this share are hits."""
    x = np.random.default_rng(seed).binomial(visits, share, n).astype(float)
    return UnitSums(n, x=x.sum(), y=visits * n, xx=float(x @ x), yy=visits * visits * n, xy=visits * x.sum())


def verdict(metric: Metric, old: UnitSums, new: UnitSums, **changed: Any) -> Verdict:
    (found,) = compare(replace(DESIGN, primary=metric, **changed), [{"old": old, "new": new}])
    return found.verdict


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (units(5000, 0.1), units(5000, 0.2), Verdict.WORSE),
        (units(5000, 0.2), units(5000, 0.1), Verdict.BETTER),
        (units(5000, 0.1), units(5000, 0.1, seed=2), Verdict.NO_DIFFERENCE),
        (units(600, 0.1), units(600, 0.11, seed=2), Verdict.NOT_YET),
        (units(400, 0.0), units(400, 1.0), Verdict.NOT_YET),  # of 1,000 units
        (UnitSums(), units(5000, 0.5), Verdict.NOT_YET),
        (units(5000, 0.0), units(5000, 0.0), Verdict.NO_DIFFERENCE),
        (units(500, 0.0), units(500, 0.0), Verdict.NO_DIFFERENCE),
    ],
)
def test_the_primary_metric_decides_by_its_bounds(old: UnitSums, new: UnitSums, expected: Verdict) -> None:
    assert verdict(ERRORS, old, new) is expected


def test_segments_are_told_with_corrected_bounds_and_decide_nothing() -> None:
    bad, good = units(5000, 0.2), units(5000, 0.1)
    (whole,) = compare(DESIGN, [{"old": good, "new": bad}])
    harmed, same = by_segment(DESIGN, {"pro": [{"old": good, "new": bad}], "other": [{"old": good, "new": good}]})
    assert (harmed.segment, harmed.verdict, same.segment, same.verdict) == (
        "pro", Verdict.WORSE, "other", Verdict.NO_DIFFERENCE,
    )  # fmt: skip
    assert harmed.low < whole.low < whole.high < harmed.high
    (half,) = compare(replace(DESIGN, false_winners=DESIGN.false_winners / 2), [{"old": good, "new": bad}])
    assert (harmed.low, harmed.high) == (half.low, half.high)
    (open_,) = compare(DESIGN, [{"old": units(600, 0.1), "new": units(600, 0.11, seed=2)}])
    assert conclusion(DESIGN, [open_, harmed], "") == (None, "", "")
    assert conclusion(DESIGN, [whole, same], "")[0] is Conclusion.KEEP
    assert by_segment(DESIGN, {}) == ()


def test_what_is_better_when_higher_is_harmed_by_less() -> None:
    assert verdict(LABEL, units(5000, 0.2), units(5000, 0.4)) is Verdict.BETTER
    assert verdict(replace(LABEL, better="lower"), units(5000, 0.2), units(5000, 0.4)) is Verdict.WORSE
    assert verdict(replace(LABEL, better="equal"), units(5000, 0.4), units(5000, 0.2)) is Verdict.WORSE


def test_nothing_seen_is_not_no_harm() -> None:
    """Without a single error in both arms one may still have come next: the bounds stay apart, and shrink with what is seen."""
    few, many = (compare(DESIGN, [{"old": units(n, 0.0), "new": units(n, 0.0)}])[0] for n in (600, 6000))
    assert few.low < -0.001 < many.low < 0 < many.high < 0.001 < few.high


def test_what_units_did_before_makes_bounds_narrower_and_moves_nothing() -> None:
    draws = np.random.default_rng(5)

    def arm(known: bool) -> UnitSums:
        z = draws.gamma(0.3, 3.0, 4000)
        x = draws.poisson(z).astype(float)
        z = z - z.mean() if known else z * 0
        n = len(x)
        return UnitSums(
            n,
            float(x.sum()),
            n,
            float(z.sum()),
            float(x @ x),
            n,
            float(z @ z),
            float(x.sum()),
            float(x @ z),
            float(z.sum()),
        )

    told = [compare(DESIGN, [{"old": arm(known), "new": arm(known)}])[0] for known in (False, True)]
    widths = [one.high - one.low for one in told]
    assert widths[1] < 0.7 * widths[0]
    assert told[1].low < 0 < told[1].high


def test_a_fixed_price_is_compared_exactly() -> None:
    cheap, dear = (
        UnitSums(1000, x=price * 1000, y=1000, xx=price**2 * 1000, yy=1000, xy=price * 1000) for price in (1, 2)
    )
    assert verdict(COST, cheap, dear) is Verdict.WORSE
    assert verdict(COST, dear, cheap) is Verdict.BETTER
    assert verdict(COST, cheap, cheap) is Verdict.NO_DIFFERENCE
    harm = estimated(COST, cheap, dear)
    assert harm is not None
    assert harm.value == pytest.approx(1.0)


def test_a_guardrail_passes_what_harms_by_less_than_its_margin() -> None:
    design = replace(DESIGN, guardrails=(replace(LABEL, better="lower", margin=0.05),))
    same = {"old": units(5000, 0.1), "new": units(5000, 0.1, seed=2)}

    def passed(share: float) -> Verdict:
        of = {"old": units(5000, 0.1), "new": units(5000, share, seed=2)}
        return compare(design, [same, of])[1].verdict

    assert [passed(share) for share in (0.05, 0.1, 0.12, 0.2)] == [
        Verdict.BETTER, Verdict.NO_DIFFERENCE, Verdict.NO_DIFFERENCE, Verdict.WORSE,
    ]  # fmt: skip


def test_more_arms_take_more_to_win() -> None:
    arms = (Arm("old", 0.25), Arm("new", 0.25), Arm("a", 0.25), Arm("b", 0.25))
    pair = {"old": units(2000, 0.1), "new": units(2000, 0.12)}
    two = compare(DESIGN, [pair])[0]
    four = next(one for one in compare(replace(DESIGN, arms=arms), [pair]) if one.arm == "new")
    assert four.low < two.low < two.high < four.high


def test_requests_without_a_unit_and_an_uneven_split_make_it_invalid() -> None:
    fair, none = Arrived((500, 505), 3000), Split()
    assert flaws(DESIGN, fair, none.after(DESIGN, fair.units)) == ""
    assert "3.2% of the requests" in flaws(DESIGN, Arrived((500, 505), 3000, 100), none)
    assert flaws(DESIGN, Arrived((500, 505), 9900, 100), none) == ""
    uneven = Arrived((500, 700), 3000)
    assert "their shares of the units (old 500, new 700)" in flaws(DESIGN, uneven, none.after(DESIGN, uneven.units))


def test_the_split_is_looked_at_by_what_is_new() -> None:
    split = Split()
    for look in range(1, 200):
        split = split.after(DESIGN, (look * 50, look * 50 + look % 7))
        split = split.after(DESIGN, (look * 50, look * 50 + look % 7))
    assert split.ratio.p > 0.01
    assert split.seen == (199 * 50, 199 * 50 + 3)


def test_counts_are_put_in_the_order_of_arms() -> None:
    counts = {"new": (3, 9), "excluded": (0, 4), "old": (2, 5)}
    assert arrived_of(DESIGN, counts) == Arrived((2, 3), 14, 4)


def test_conclusions() -> None:
    design = replace(
        DESIGN, arms=(Arm("old", 0.4), Arm("new", 0.3), Arm("odd", 0.3)), guardrails=(replace(LABEL, better="lower"),)
    )

    def found(new: tuple[float, float], odd: tuple[float, float]) -> tuple[Conclusion | None, str]:
        """By the errors, and what the guardrail has, of both arms; the control has 0.1 of both."""
        sums = [
            {"old": units(9000, 0.1), "new": units(9000, new[at], seed=2), "odd": units(9000, odd[at], seed=3)}
            for at in (0, 1)
        ]
        return conclusion(design, compare(design, sums), "")[:2]

    assert found((0.05, 0.1), (0.1, 0.1)) == (Conclusion.SHIP, "new")
    assert found((0.05, 0.1), (0.01, 0.1)) == (Conclusion.SHIP, "odd")
    assert found((0.05, 0.3), (0.1, 0.1)) == (Conclusion.NO_DIFFERENCE, "")
    assert found((0.2, 0.1), (0.1, 0.3)) == (Conclusion.KEEP, "")
    assert found((0.2, 0.1), (0.1, 0.1)) == (Conclusion.NO_DIFFERENCE, "")
    assert conclusion(design, (), "the split") == (Conclusion.INVALID, "", "the split")
    assert conclusion(design, (), "") == (None, "", "")

"""Compare: what an Experiment's arms are like, metric by metric, by bounds that hold at every look. Pure.

The chance of a false winner is split evenly over the arms that are held against the control; it needn't be split over looks.
A guardrail asks whether an arm is worse by less than its margin: each may err with its own risk, as all have to pass. That an
arm breaks a guardrail is said with the risk of false winners again, split over arms and guardrails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from servery.stats.asymptotic import Estimate, UnitSums, bounds, mean_difference, ratio_difference, relative
from servery.stats.ratio_check import RatioCheck
from servery.stats.unit_quantiles import Tallied, quantile_of, slower, slower_bounds
from servery.stats.windows import Bounds
from servery.terms.experiments import EXCLUDED, Conclusion, Design, Looked, Metric
from servery.terms.rollouts import Verdict

UNEVEN = 0.001  # a split with a smaller p-value is not the declared one
NAMELESS = 0.01  # of the requests may come without their unit


class Arrived(msgspec.Struct, frozen=True):
    """How many units have come to each arm, and how many requests they made; `nameless` are those without a unit."""

    units: tuple[int, ...]
    requests: int = 0
    nameless: int = 0


class Split(msgspec.Struct, frozen=True):
    """Whether arms get their shares of the units; a value that is kept between looks."""

    ratio: RatioCheck = RatioCheck()
    seen: tuple[int, ...] = ()

    def after(self, design: Design, units: Sequence[int]) -> Split:
        """With the units that have come since the last look."""
        before = self.seen or tuple(0 for _ in units)
        fresh = tuple(now - then for now, then in zip(units, before, strict=True))
        if min(fresh) < 0 or not any(fresh):
            return self
        shares = [arm.share for arm in design.arms]
        whole = sum(shares)
        return Split(self.ratio.after([share / whole for share in shares], fresh), tuple(units))


def flaws(design: Design, arrived: Arrived, split: Split) -> str:
    """Why nothing that is compared would hold; "" where it does."""
    every = arrived.requests + arrived.nameless
    if arrived.nameless > NAMELESS * every:
        share = arrived.nameless / every
        return f"{share:.1%} of the requests came without their unit, and at most {NAMELESS:.0%} may"
    if split.ratio.p < UNEVEN:
        told = ", ".join(f"{arm.name} {units}" for arm, units in zip(design.arms, arrived.units, strict=True))
        return f"the arms don't have their shares of the units ({told}): what is compared isn't alike"
    return ""


Exactly = Callable[[Metric, str, tuple[float, float]], Bounds | None]


def _in_the_limit(*_: object) -> None:
    """No bounds but those in the limit."""


def compare(
    design: Design, sums: Sequence[Mapping[str, UnitSums]], exactly: Exactly = _in_the_limit
) -> tuple[Looked, ...]:
    """What each metric, the primary one first, says of each arm. `sums` are by metric, and by arm.

    `exactly` gives bounds of a metric and an arm, with two risks, that need no limit, where there are such.
    """
    control = design.arms[0].name
    rivals = design.arms[1:]
    found: list[Looked] = []
    for at, (metric, of) in enumerate(zip((design.primary, *design.guardrails), sums, strict=True)):
        worse = design.false_winners / len(rivals) / (2 if at == 0 else len(design.guardrails))
        passed = worse if at == 0 else design.false_passes
        for arm in rivals:
            arms = of.get(control, UnitSums()), of.get(arm.name, UnitSums())
            if metric.quantile is not None:
                known = _slower(design, metric.quantile, arms, (worse, passed))
            else:
                exact = exactly(metric, arm.name, (worse, passed))
                harm = estimated(metric, *arms)
                known = harm, exact or bounds(harm, worse, passed, tuned=design.units, least=design.min_units)
            found.append(_looked(design, metric, arm.name, arms, known))
    return tuple(found)


def by_segment(design: Design, sums: Mapping[str, Sequence[Mapping[str, UnitSums]]]) -> tuple[Looked, ...]:
    """What each metric says of each arm in each Segment. The risks are those of the whole once more, split over Segments."""
    replace = msgspec.structs.replace
    parts = max(len(sums), 1)
    split = replace(design, false_winners=design.false_winners / parts, false_passes=design.false_passes / parts)
    return tuple(replace(one, segment=name) for name, of in sums.items() for one in compare(split, of))


def _slower(
    design: Design, quantile: float, arms: tuple[UnitSums, UnitSums], risks: tuple[float, float]
) -> tuple[Estimate | None, Bounds | None]:
    """The harm to a quantile, and what is known of it."""
    control, arm = (one if isinstance(one, Tallied) else Tallied() for one in arms)
    limits = slower_bounds(control, arm, quantile, risks, tuned=design.units, least=design.min_units)
    return slower(control, arm, quantile), limits


def _looked(
    design: Design,
    metric: Metric,
    arm: str,
    arms: tuple[UnitSums, UnitSums],
    known: tuple[Estimate | None, Bounds | None],
) -> Looked:
    harm, found = known
    primary = metric is design.primary
    control, value = (value_of(metric, one) for one in arms)
    units, name = arms[0].n + arms[1].n, metric.called
    if found is None or harm is None:
        verdict, low, high = Verdict.NOT_YET, -1.0, 1.0
        said = f"{units} units of {design.min_units} that it takes to say anything"
        if units >= design.min_units:
            said = "can't be told yet: too few answers to know what is beyond it, or none to compare with"
    else:
        low, high = found.low, found.high
        verdict, said = _verdict(metric, primary, low, high)
    told = 0.0 if harm is None else harm.value
    return Looked(arm, name, primary, verdict, told, low, high, metric.margin, control, value, units, f"{name} {said}")


def _verdict(metric: Metric, primary: bool, low: float, high: float) -> tuple[Verdict, str]:
    margin = metric.margin
    if low > 0 if primary else low >= margin:
        return Verdict.WORSE, f"is worse by {low:.4g} to {high:.4g}"
    if high < 0:
        return Verdict.BETTER, f"is better by {-high:.4g} to {-low:.4g}"
    if high <= margin and (not primary or low >= -margin):
        return Verdict.NO_DIFFERENCE, f"differs by {low:.4g} to {high:.4g}, and {margin:.4g} matters"
    return Verdict.NOT_YET, f"is between {-low:.4g} better and {high:.4g} worse: not yet decided"


def estimated(metric: Metric, control: UnitSums, arm: UnitSums) -> Estimate | None:
    """The harm of an arm: above 0 it is worse."""
    ratio = metric.per == "request"
    found = ratio_difference(control, arm) if ratio else mean_difference(control, arm)
    if found is not None and metric.rare:
        # Where nothing went wrong yet, the variance that was seen is none: as if one more had been seen in each arm.
        unseen = [metric.rare / (one.y if ratio else one.n) for one in (control, arm)]
        found = msgspec.structs.replace(found, error=math.hypot(found.error, *unseen))
    if metric.relative:
        found = relative(found, value_of(metric, control), _own_error(metric, control))
    if found is not None and metric.metric == "feedback" and metric.better != "lower":
        found = msgspec.structs.replace(found, value=-found.value)
    return found


def value_of(metric: Metric, sums: UnitSums) -> float:
    """What an arm has, in the metric's own units; 0 where it has nothing yet."""
    if metric.quantile is not None:
        return quantile_of(sums, metric.quantile) if isinstance(sums, Tallied) else 0.0
    by = sums.y if metric.per == "request" else sums.n
    return sums.x / by if by else 0.0


def _own_error(metric: Metric, control: UnitSums) -> float:
    """The standard error of the control's own value: beside an arm that has none."""
    if metric.per == "request":
        alone = ratio_difference(control, UnitSums(2, x=1.0, y=1.0, xx=0.5, yy=0.5, xy=0.5))
    else:
        alone = mean_difference(control, UnitSums(2))
    return 0.0 if alone is None else alone.error


def conclusion(design: Design, looks: Sequence[Looked], flaw: str) -> tuple[Conclusion | None, str, str]:
    """What it has come to by now (None: nothing yet), the arm that is meant, and why."""
    if flaw:
        return Conclusion.INVALID, "", flaw
    whole = [one for one in looks if not one.segment]
    of = {arm.name: [one for one in whole if one.arm == arm.name] for arm in design.arms[1:]}
    passing = (Verdict.BETTER, Verdict.NO_DIFFERENCE)
    won = [
        (min(one.harm for one in mine if one.primary), arm)
        for arm, mine in of.items()
        if mine and all(one.verdict is Verdict.BETTER if one.primary else one.verdict in passing for one in mine)
    ]
    if won:
        arm = min(won)[1]
        return Conclusion.SHIP, arm, "; ".join(one.said for one in of[arm])
    worse = {arm: [one for one in mine if one.verdict is Verdict.WORSE] for arm, mine in of.items()}
    if all(worse.values()):
        said = "; ".join(f"{arm}: {one.said}" for arm, those in worse.items() for one in those)
        return Conclusion.KEEP, "", said
    left = [one for arm, mine in of.items() if not worse[arm] for one in mine if one.primary]
    if left and all(one.verdict is Verdict.NO_DIFFERENCE for one in left):
        return Conclusion.NO_DIFFERENCE, "", "; ".join(f"{one.arm}: {one.said}" for one in left)
    return None, "", ""


def arrived_of(design: Design, counts: Mapping[str, tuple[int, int]]) -> Arrived:
    """From units and requests by arm, as they are stored."""
    units = tuple(counts.get(arm.name, (0, 0))[0] for arm in design.arms)
    requests = sum(counts.get(arm.name, (0, 0))[1] for arm in design.arms)
    return Arrived(units, requests, counts.get(EXCLUDED, (0, 0))[1])

"""Bounds without a limit theorem, where each request is a unit of its own and its values have bounds: they hold from the first one on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from servery.stats.asymptotic import UnitSums
from servery.stats.mean_harm import MeanHarm
from servery.stats.windows import Bounds, Sums, Window
from servery.terms.experiments import Arm, Design, Metric


class Followed(msgspec.Struct, frozen=True):
    """One metric of one arm: its sequence, and the sums of the control and of the arm that it has seen."""

    harm: MeanHarm
    control: Sums = Sums()
    arm: Sums = Sums()


Exact = dict[str, Followed]  # by `key`; kept between looks


def bounds_of(kept: Mapping[str, Followed], metric: Metric, arm: str, risks: tuple[float, float]) -> Bounds | None:
    """What is known of the harm with these risks of calling it worse, and of calling it better or passed; None where nothing is."""
    found = kept.get(key(arm, metric))
    if found is None or not (found.control.n and found.arm.n):
        return None
    return found.harm.bounds(*risks)


def key(arm: str, metric: Metric) -> str:
    """What tells a comparison from the others."""
    return f"{metric.called}\0{arm}"


def bounded(design: Design) -> Iterator[tuple[Metric, bool]]:
    """The metrics that these bounds are for, each with whether it is the primary one."""
    for at, metric in enumerate((design.primary, *design.guardrails)):
        if design.unit is None and metric.per == "request" and metric.metric in ("errors", "feedback"):
            yield metric, at == 0


def followed(design: Design, kept: Mapping[str, Followed], sums: Sequence[Mapping[str, UnitSums]]) -> Exact:
    """With what is new in these sums, which are by metric and by arm."""
    metrics, found = (design.primary, *design.guardrails), dict(kept)
    control = design.arms[0]
    for metric, primary in bounded(design):
        of = sums[metrics.index(metric)]
        for arm in design.arms[1:]:
            before = kept.get(key(arm.name, metric)) or Followed(_begun(metric, primary))
            now = [_values(metric, of.get(one.name, UnitSums())) for one in (control, arm)]
            found[key(arm.name, metric)] = _after(before, metric, control, arm, now)
    return found


def _after(before: Followed, metric: Metric, control: Arm, arm: Arm, now: Sequence[Sums]) -> Followed:
    fresh = [one.less(then) for one, then in zip(now, (before.control, before.arm), strict=True)]
    if not all(one.fits(metric.rare) for one in fresh):
        return before  # what was corrected takes back more than it adds: it comes with what comes next
    share = arm.share / (control.share + arm.share)
    return Followed(before.harm.after(Window(share, *fresh)), *now)


def _begun(metric: Metric, primary: bool) -> MeanHarm:
    if primary:
        return MeanHarm(0.0, effect=metric.margin, cap=metric.rare)
    return MeanHarm(metric.margin, cap=metric.rare)


def _values(metric: Metric, sums: UnitSums) -> Sums:
    """Values from 0 to the cap: the greater, the worse."""
    if metric.metric == "errors":
        return Sums(sums.y, sums.x, sums.xx)
    least = 0.0 if metric.better == "equal" else metric.bounds[0]
    moved = Sums(sums.y, sums.x - sums.y * least, sums.xx - 2 * least * sums.x + sums.y * least * least)
    return moved if metric.better == "lower" else moved.flipped(metric.rare)

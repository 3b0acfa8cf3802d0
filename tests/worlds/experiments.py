"""Experiments of known harm on a virtual clock: units arrive, come again and are told of late; arms are drawn, compared and concluded by
the code that does it in production, at every look.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.control.compare import Split, arrived_of, compare, conclusion, flaws
from servery.routing.arms import draw, draw_of
from servery.routing.assignment import digest_of
from servery.stats.asymptotic import UnitSums
from servery.stats.sketch import RATIO
from servery.stats.unit_quantiles import Tallied, bin_of
from servery.terms.experiments import Arm, Conclusion, Design, Experiment, Looked, Metric
from servery.terms.rollouts import Verdict

Values = NDArray[np.float64]
ARMS = (Arm("control", 0.5), Arm("new", 0.5))
THREE = (Arm("control", 0.4), Arm("new", 0.3), Arm("other", 0.3))


class Family(NamedTuple):
    """What units are like: each comes a few times, as often as it likes, and what happens then is its own way too.

    `late`: what is told of a request comes so much later, in parts of the whole time, and sooner where it is bad news.
    """

    name: str
    design: Design
    base: float
    late: float = 0.0

    def visits(self, draws: np.random.Generator, units: int, harm: float) -> Values:
        """Of each unit the sums of x over its first, second … visit; one row each."""
        metric = self.design.primary
        like = draws.gamma(2, 0.5, (units, 1))  # a unit's own way, 1 on average
        if metric.metric == "latency":
            worse = 1 + harm * metric.margin
            return np.cumsum(like * worse * draws.lognormal(-2, 0.9, (units, _VISITS)), axis=1)
        if metric.metric == "cost":
            worse = 1 + harm * metric.margin
            return np.cumsum(like * worse * draws.lognormal(-0.72, 1.2, (units, _VISITS)), axis=1)
        share = np.clip(self.base * like, 0, 1) + harm * metric.margin
        return np.cumsum(draws.random((units, _VISITS)) < share, axis=1).astype(float)


_VISITS = 8
ERRORS = Design("r", ARMS, Metric("errors", 0.02), units=6000)
FAMILIES = (
    Family("errors: 3 %, users come 1 to 8 times", ERRORS, 0.03),
    Family("rare errors: 0.05 %, margin 0.2 %", msgspec.structs.replace(ERRORS, primary=Metric("errors", 0.002)), 0.0005),
    Family("cost: lognormal, users differ, margin 10 %", msgspec.structs.replace(ERRORS, primary=Metric("cost", 0.1)), 1.0),
    Family(
        "latency p95: lognormal, users differ, margin 10 %",
        msgspec.structs.replace(ERRORS, primary=Metric("latency", 0.1, quantile=0.95)), 1.0,
    ),
    Family("three arms: errors of 3 %", msgspec.structs.replace(ERRORS, arms=THREE), 0.03),
    Family(
        "late labels: complaints of 10 %",
        msgspec.structs.replace(ERRORS, primary=Metric("feedback", 0.04, name="bad", better="lower")), 0.1, 0.2,
    ),
)  # fmt: skip


class Ended(NamedTuple):
    """What a world came to: at which look the first arm was called better or worse (0: never), and the last looks."""

    decided: int
    conclusion: Conclusion | None
    looks: tuple[Looked, ...]


def world(family: Family, harm: float, seed: int, units: int = 6000, looks: int = 40) -> Ended:
    """One experiment; all arms but the control do this harm, in margins."""
    draws, design = np.random.default_rng(seed), family.design
    of = draw_of(Experiment(f"x{seed}", "try", design, 0))
    arm = np.array([draw(of, digest_of(of.experiment, str(number).encode()))[0] for number in range(units)])
    x = np.where((arm > 0)[:, None], family.visits(draws, units, harm), family.visits(draws, units, 0.0))
    came = np.sort(
        draws.random((units, _VISITS)) ** 1.5, axis=1
    )  # when each visit was; the first is the unit's arrival
    came[:, 1:] = np.where(draws.random((units, 1)) < 0.4, 2.0, came[:, 1:])  # many come once only
    known = came + family.late * draws.exponential(0.5, came.shape)
    split, decided, found = Split(), 0, ()
    for look in range(1, looks + 1):
        now = look / looks
        here, told = (came <= now).sum(axis=1), (known <= now) & (came <= now)
        counts = {one.name: (int((here[arm == at] > 0).sum()), 1) for at, one in enumerate(design.arms)}
        arrived = arrived_of(design, counts)
        split = split.after(design, arrived.units)
        sums = {
            one.name: _sums(design.primary, x, told, (arm == at) & (here > 0)) for at, one in enumerate(design.arms)
        }
        found = compare(design, [sums])
        if flaw := flaws(design, arrived, split):
            return Ended(decided, conclusion(design, found, flaw)[0], found)
        if any(one.verdict in (Verdict.BETTER, Verdict.WORSE) for one in found):
            decided = decided or look
    return Ended(decided, conclusion(design, found, "")[0], found)


def _sums(metric: Metric, x: Values, told: NDArray[np.bool_], mine: NDArray[np.bool_]) -> UnitSums:
    """Of what is known of these units' visits: x is a running sum over them."""
    each = np.diff(x[mine], axis=1, prepend=0.0)
    if metric.quantile is not None:
        index = np.ceil(np.log(each * 1e9) / np.log(RATIO)).astype(int)
        bins = tuple(zip(*(one.tolist() for one in np.unique(index[told[mine]], return_counts=True)), strict=True))
        each = (index >= bin_of(bins, metric.quantile)).astype(float) if bins else each
    else:
        bins = None
    a, b = (each * told[mine]).sum(axis=1), told[mine].sum(axis=1).astype(float)
    found = UnitSums(int(mine.sum()), x=a.sum(), y=b.sum(), xx=a @ a, yy=b @ b, xy=a @ b)
    return found if bins is None else Tallied(**msgspec.structs.asdict(found), bins=bins)

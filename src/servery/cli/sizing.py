"""How many units an experiment needs, and how long that takes: by Records, or by what is said to be normal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import typer

from servery.cli.reach import fail
from servery.control.declare import declare
from servery.control.sizes import Baseline, Size, baseline_of, sizes
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.stats.asymptotic import UnitSums
from servery.store.ledger import Chunk, Ledger, WrongLedger
from servery.store.unit_sums import Seen, fold
from servery.terms.experiments import Design, Metric, experiment_id
from servery.terms.record import Assigned, Record, same

_DAY_NS = 86_400 * 10**9
_RUNS, _LOOKS = 1000, 400


class Normal(msgspec.Struct, frozen=True):
    """What is said of units without the experiment; None: it is asked of Records."""

    mean: float | None
    deviation: float | None
    units_a_day: float | None


def size_of(name: str, manifest: Path, data: DataFolder, days: float, power: float, normal: Normal) -> None:
    """Print it. What a user can get wrong ends the command."""
    if not 0 < power < 1:
        fail(f"--power is a chance between 0 and 1, such as 0.8, not {power:g}")
    design = _designed(name, manifest)
    if design.primary.quantile is not None:
        fail(
            f"the size of an experiment on a quantile can't be forecast: in a copy of {manifest} remove `quantile` from the primary "
            "metric, ask again for what the mean takes, and declare `units` by that"
        )
    if normal.mean is not None and normal.deviation is not None and normal.units_a_day is not None:
        baseline, told = Baseline(normal.mean, normal.deviation**2, normal.units_a_day), "by what is said of units"
    elif (normal.mean, normal.deviation, normal.units_a_day) != (None, None, None):
        fail("--mean, --deviation and --units-per-day belong together: what one unit has, and how many come")
    else:
        baseline, told = _seen(design, data, days)
        if design.unit is not None:
            told += (
                "; each request was taken for a unit, as Records don't say who asked: users who come often are fewer, and "
                "more alike in what they do. Say --mean, --deviation and --units-per-day of them where they are known"
            )
    try:
        found = sizes(design, baseline, power, np.random.default_rng(1).standard_normal((_RUNS, _LOOKS)))
    except ValueError as error:
        fail(str(error))
    for one in found:
        typer.echo(_line(design, one, power))
    most = max(one.most for one in found)
    typer.echo(f"Forecast {told}.")
    if not 0.5 < design.units / most < 2:
        typer.echo(
            f"Bounds are narrowest where they are needed with `units: {_round(most)}`, instead of {design.units}."
        )


def _line(design: Design, one: Size, power: float) -> str:
    waits = "never, as nobody comes" if math.isinf(one.days) else f"{one.days:.3g} days"
    return (
        f"{one.arm}: a difference of {one.gap:.4g} in {design.primary.called} is seen with {one.most:,} units of it and the control "
        f"({power:.0%} of the cases; {one.mean:,} on average; {one.fixed:,} with one look at the end): {waits}"
    )


def _designed(name: str, manifest: Path) -> Design:
    found = declare(manifest)
    for problem in found.problems:
        typer.echo(str(problem), err=True)
    if found.manifest is None:
        fail("the manifest has problems")
    if name not in found.manifest.experiments:
        known = ", ".join(found.manifest.experiments) or "none"
        fail(f"no experiment is called {name!r} in {manifest}; it declares {known}")
    return found.manifest.experiments[name]


def _seen(design: Design, data: DataFolder, days: float) -> tuple[Baseline, str]:
    """Of the route's Records of these days, each a unit."""
    now_ns = Clock().wall_ns() + 1
    since_ns = now_ns - round(days * _DAY_NS)
    try:
        ledger = Ledger(data.ledger)
    except WrongLedger as error:
        fail(f"{error}; or say what is normal: --mean, --deviation and --units-per-day")
    try:
        sums = summed(_values(ledger.read(since_ns, now_ns, design.route), design.primary))
    finally:
        ledger.close()
    try:
        baseline = baseline_of(design.primary, sums, days)
    except ValueError as error:
        fail(f"{error}: {design.route} has {sums.n} requests of {days:g} days in {data.ledger}")
    return baseline, f"by the {sums.n:,} requests of the last {days:g} days"


def _values(chunks: Iterable[Chunk], metric: Metric) -> Iterator[tuple[float, float]]:
    """What a metric measures of each Record by itself, and what that is divided by."""
    for chunk in chunks:
        told: dict[bytes, dict[int, bool | float | str]] = {}
        for fact in chunk.feedback:  # in the order in which they came: the last counts
            if fact.name == metric.name:
                told.setdefault(fact.record_id, {})[fact.row] = fact.value
        for record in chunk.records:
            alone = msgspec.structs.replace(record, arms=(Assigned(experiment_id(""), "", 1.0, "unit"),))
            for seen in fold([alone]).values():
                yield _value(record, seen, metric, told.get(record.id, {}))


def _value(record: Record, seen: Seen, metric: Metric, told: dict[int, bool | float | str]) -> tuple[float, float]:
    match metric.metric:
        case "errors":
            return seen.errors, seen.requests
        case "cost":
            return seen.pico_usd / 1e12, seen.rows
        case "latency":
            return seen.ns / 1e9, seen.served
        case "feedback" if metric.better == "equal":
            pairs = [(record.predictions[max(row, 0)], value) for row, value in told.items() if record.predictions]
            right = [same(predicted, value) for predicted, value in pairs if predicted is not None]
            return sum(right), len(right)
        case "feedback":
            values = [float(value) for value in told.values() if not isinstance(value, str)]
            return sum(values), len(values)


def summed(pairs: Iterable[tuple[float, float]]) -> UnitSums:
    """Over units of two values each."""
    n, x, y, xx, yy, xy = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    for one, by in pairs:
        n, x, y, xx, yy, xy = n + 1, x + one, y + by, xx + one * one, yy + by * by, xy + one * by
    return UnitSums(n, x=x, y=y, xx=xx, yy=yy, xy=xy)


def _round(units: int) -> int:
    """To two digits."""
    step = 10 ** max(len(str(units)) - 2, 0)
    return math.ceil(units / step) * step

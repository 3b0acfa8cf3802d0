"""How long guards take to decide beside tests with one look, and how often repeated thresholds are wrong; see README.md beside this file.

python benchmarks/sequences.py [--worlds 100] [--alarms 300] [--into FOLDER]

The streams are the families of tests/worlds/verdicts.py, with known harms and seeds; nothing here depends on the machine but the time.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

import machine
from servery.control.evidence import Draw, Seen, Totals
from servery.control.judge import Judge
from servery.terms.folds import Told
from servery.terms.rollouts import Guard, RolloutPolicy, RolloutStep, Verdict

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from worlds.verdicts import Cost, Errors, Family, Labels, Latency, Quality  # noqa: E402

POWER, SHARE, RISK, GUARDS = 0.8, 0.5, 0.05, 4
ALPHA = RISK / GUARDS  # as where four guards share the risk
PASSED = (Verdict.BETTER, Verdict.NO_DIFFERENCE)
FINE, HORIZON = 40, 6  # windows in one look's number of calls; so many times that number at most
INTERVALS, EACH = 10, 4  # of the worlds in which thresholds are compared, and the windows in each
FAMILIES: tuple[Family, ...] = (Errors(), Latency(), Latency("latency: p95, lognormal σ 1.5, margin 25 %", tail=0.0), Cost(), Labels(), Quality())  # fmt: skip


class Arms(NamedTuple):
    """Both arms' calls."""

    incumbent: Totals
    candidate: Totals


def one_look(family: Family, harm: float) -> float:
    """Calls of both arms for a test with one look that tells this harm (in margins) from the margin, at ALPHA and POWER."""
    draws, many = np.random.default_rng(0), 400_000
    below, above = Totals(), Totals()
    for totals, of in ((below, 0.0), (above, harm)):
        totals.calls = many
        family.call(totals, draws, of, many)
    guard, wanted = family.guard, NormalDist().inv_cdf(1 - ALPHA) + NormalDist().inv_cdf(POWER)
    if guard.metric == "latency":
        values = sorted(below.times.values())
        logs = np.repeat(np.log([value for value, _ in values]), [count for _, count in values])
        density = 0.02 / (np.quantile(logs, guard.quantile + 0.01) - np.quantile(logs, guard.quantile - 0.01))
        variance = guard.quantile * (1 - guard.quantile) / density**2  # Bahadur (1966), of the logarithm
        gap = math.log((1 + harm * guard.margin) / (1 + guard.margin))
        return wanted**2 * variance * (1 / SHARE + 1 / (1 - SHARE)) / gap**2
    (n, first, square), (_, second, other) = (moments(guard, one) for one in (below, above))
    if guard.metric == "cost":
        second, other = second / (1 + guard.margin), other / (1 + guard.margin) ** 2
    gap = second - first - (0.0 if guard.metric == "cost" else guard.margin)
    variances = (square - first**2) / (1 - SHARE) + (other - second**2) / SHARE
    return wanted**2 * variances / gap**2 * many / n


def moments(guard: Guard, totals: Totals) -> tuple[float, float, float]:
    """How many values there are, their mean and mean square: the greater, the worse."""
    if guard.metric == "errors":
        rate = totals.errors / max(totals.calls, 1)
        return totals.calls, rate, rate
    if guard.metric == "cost":
        n = max(totals.prices.count, 1)
        values = [(min(value, 1e9) / 1e9, count) for value, count in totals.prices.values()]
        return (
            n,
            sum(value * count for value, count in values) / n,
            sum(value**2 * count for value, count in values) / n,
        )
    told = totals.told.get(guard.name, Told())
    if guard.better == "equal":
        rate = 1 - told.right / max(told.judged, 1)
        return max(told.judged, 1), rate, rate
    n = max(told.n, 1)
    return n, 1 - told.total / n, 1 - 2 * told.total / n + told.squares / n


def window(family: Family, draws: np.random.Generator, harm: float, calls: float) -> Arms:
    """So many calls on average."""
    n = int(draws.poisson(calls))
    exposed = int(draws.binomial(n, SHARE))
    arms = Arms(Totals(), Totals())
    for totals, of, size in ((arms.incumbent, 0.0, n - exposed), (arms.candidate, harm, exposed)):
        totals.requests = totals.calls = size
        family.call(totals, draws, of, size)
    return arms


def add(totals: Totals, more: Totals) -> None:
    totals.requests += more.requests
    totals.calls += more.calls
    totals.errors += more.errors
    totals.times.merge(more.times)
    totals.prices.merge(more.prices)
    totals.priced = more.priced
    for name, told in more.told.items():
        totals.told.setdefault(name, Told()).merge(told)


def begun(family: Family, draws: np.random.Generator, risk: float) -> tuple[Judge, Arms]:
    """A Judge that has learned from a thousand calls of the incumbent."""
    judge = Judge(RolloutPolicy("canary", None, (RolloutStep(SHARE),), (family.guard,), risk, risk))
    before = Totals(1_000, 1_000)
    family.call(before, draws, 0.0, 1_000)
    judge.learn(before)
    return judge, Arms(Totals(), Totals())


def delay(family: Family, harm: float, n: float, seed: int) -> float:
    """Calls until the right verdict, in multiples of n; of those that never come, the horizon."""
    draws = np.random.default_rng((seed, round(10 * harm)))
    judge, arms = begun(family, draws, ALPHA)
    wanted = PASSED if harm < 1 else (Verdict.WORSE,)
    for look in range(1, FINE * HORIZON + 1):
        for totals, more in zip(arms, window(family, draws, harm, n / FINE), strict=True):
            add(totals, more)
        if judge.look({Draw(0): Seen(*arms)})[0].verdict in wanted:
            return look / FINE
    return float(HORIZON)


class Alarms(NamedTuple):
    """What ever raised an alarm in one world without harm: the guard, a test repeated at each window, a threshold at each interval."""

    guard: bool
    test: bool
    over: bool


def alarms(family: Family, n: float, seed: int) -> Alarms:
    draws = np.random.default_rng((seed, 99))
    judge, arms = begun(family, draws, RISK)
    guard = test = over = False
    interval = Arms(Totals(), Totals())
    for look in range(1, INTERVALS * EACH + 1):
        for totals, part, more in zip(arms, interval, window(family, draws, 0.0, n / EACH / INTERVALS), strict=True):
            add(totals, more)
            add(part, more)
        guard |= judge.look({Draw(0): Seen(*arms)})[0].verdict is Verdict.WORSE
        test |= z(family.guard, arms) > NormalDist().inv_cdf(1 - RISK)
        if look % EACH == 0:
            over |= is_over(family.guard, interval)
            interval = Arms(Totals(), Totals())
    return Alarms(guard, test, over)


def z(guard: Guard, arms: Arms) -> float:
    """Of the usual test of "no worse than the incumbent", for means."""
    if guard.metric == "latency":
        return -math.inf
    (n, first, square), (m, second, other) = (moments(guard, one) for one in arms)
    spread = (square - first**2) / n + (other - second**2) / m
    return (second - first) / math.sqrt(spread) if spread > 0 else 0.0


def is_over(guard: Guard, arms: Arms) -> bool:
    """The candidate by itself is worse by more than the margin, as a threshold has it."""
    if guard.metric == "latency":
        first, second = (one.times.quantile(guard.quantile) or 0.0 for one in arms)
        return second > (1 + guard.margin) * first
    first, second = (moments(guard, one)[1] for one in arms)
    return second > (1 + guard.margin) * first if guard.metric == "cost" else second - first > guard.margin


def _delays(worlds: int) -> Iterable[str]:
    yield from (
        "", "## Delays", "",
        f"Calls of both versions until the verdict, on average over {worlds} worlds, in multiples of what a test with one look needs ({POWER:.0%} power, the same",
        f"α of {RISK:g}/{GUARDS}; that number in brackets). Looked at {FINE} times in that number; what isn't decided within {HORIZON} × counts as {HORIZON}.", "",
        "| Metric | no harm: passed | harm 2 margins: worse | 3 margins: worse | 5 margins: worse |", "|---|---|---|---|---|",
    )  # fmt: skip
    for family in FAMILIES:
        cells: list[str] = []
        for harm in (0.0, 2.0, 3.0, 5.0):
            n = one_look(family, harm)
            taken = [delay(family, harm, n, seed) for seed in range(worlds)]
            cells.append(f"{np.mean(taken):.2f} ± {1.96 * np.std(taken) / math.sqrt(worlds):.2f} ({n:,.0f})")
        yield f"| {family.name} | {' | '.join(cells)} |"


def _alarms(worlds: int) -> Iterable[str]:
    yield from (
        "", "## False alarms without harm", "",
        f"{worlds} worlds of each, with twice the calls of one look at the end, in {INTERVALS * EACH} windows, half of them the candidate's. *Guard*: rolled back, {RISK:.0%} declared.",
        f"*Test*: a one-sided z-test at {RISK:.0%}, repeated at each window. *Threshold*: in one of {INTERVALS} intervals the candidate by itself is worse than the margin.", "",
        "| Metric | guard | test, repeated | threshold at every interval |", "|---|---|---|---|",
    )  # fmt: skip
    for family in FAMILIES:
        found = [alarms(family, 2 * one_look(family, 0.0), seed) for seed in range(worlds)]
        guard, test, over = (f"{np.mean([one[at] for one in found]):.1%}" for at in range(3))
        yield f"| {family.name} | {guard} | {'–' if family.guard.metric == 'latency' else test} | {over} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Delays and false alarms of guards, beside one look and thresholds.")
    parser.add_argument("--worlds", type=int, default=100, help="for each delay")
    parser.add_argument("--alarms", type=int, default=300, help="worlds for false alarms")
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the page")
    given = parser.parse_args()
    began = time.monotonic()
    lines = [
        f"# Guards beside one look, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "",
        f"`python benchmarks/sequences.py --worlds {given.worlds} --alarms {given.alarms}`", "",
        "```", *machine.facts(HERE.parent), "```",
    ]  # fmt: skip
    for part in (_alarms(given.alarms), _delays(given.worlds)):
        for line in part:
            print(line, flush=True)
            lines.append(line)
    lines += ["", f"All of it took {time.monotonic() - began:.0f} s.", ""]
    path = given.into / f"{datetime.now(UTC):%Y-%m-%d}-sequences.md"
    path.write_text("\n".join(lines))
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

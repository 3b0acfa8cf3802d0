"""How often sequences that are watched all the time are wrong, and how long they take, beside tests that are simply repeated.

python benchmarks/sequences.py [--worlds 2000] [--delays 200] [--into FOLDER]

The streams are those of tests/streams.py, with known harms and seeds; nothing here depends on the machine but the time it takes.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

import machine
from servery.stats.mean_harm import MeanHarm
from servery.stats.power import Plan, forecast
from servery.stats.sketch import Sketch
from servery.stats.windows import Sums, Window

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from streams import STREAMS, Drawn, Errors, Stream, after, surely, watch  # noqa: E402

ALPHA = 0.05
LOOKS = 90
TENTH = 10
SHARES = tuple(share for share in (0.05, 0.2, 0.5) for _ in range(LOOKS // 3))
TWO_SIDED = NormalDist().inv_cdf(1 - ALPHA / 2)
GAPS = ((-1, 1), (1, 1), (1, 2), (1, 4))


class Found(NamedTuple):
    """What was ever found in one world: by the sequence, by a z-test after each window, by comparing each tenth with the margin."""

    worse: bool
    passed: bool
    tested: bool
    compared: bool


def one_world(stream: Stream, harm: float, size: int, run: int) -> Found:
    draws = np.random.default_rng((1, run))
    sequence, wanted = stream.begin(draws), math.log(1 / ALPHA)
    arms = (Sums(), Sums())
    worse = passed = tested = compared = False
    tenth: list[Drawn] = []
    for look, share in enumerate(SHARES, 1):
        drawn = stream.drawn(draws, harm, size, share)
        sequence = after(sequence, drawn)
        worse |= sequence.evidence(1) >= wanted
        passed |= sequence.evidence(-1) >= wanted
        tenth.append(drawn)
        if look % TENTH == 0:
            compared |= over(tenth, stream.margin)
            tenth = []
        if isinstance(drawn, Window):
            arms = arms[0].plus(drawn.incumbent), arms[1].plus(drawn.candidate)
            tested |= abs(z(*arms)) > TWO_SIDED
    return Found(worse, passed, tested, compared)


def z(incumbent: Sums, candidate: Sums) -> float:
    """Of the usual test of two means."""
    if min(incumbent.n, candidate.n) < 2:
        return 0.0
    means = [one.total / one.n for one in (incumbent, candidate)]
    spread = sum(
        (one.squares / one.n - mean**2) / one.n for one, mean in zip((incumbent, candidate), means, strict=True)
    )
    return (means[1] - means[0]) / math.sqrt(spread) if spread > 0 else 0.0


def over(drawn: list[Drawn], margin: float) -> bool:
    """These windows alone look worse than the margin allows."""
    sketches, arms = (Sketch(), Sketch()), (Sums(), Sums())
    for one in drawn:
        if isinstance(one, Window):
            arms = arms[0].plus(one.incumbent), arms[1].plus(one.candidate)
        else:
            sketches[0].merge(one.incumbent)
            sketches[1].merge(one.candidate)
    first, second = (one.quantile(0.95) for one in sketches)
    if first is not None and second is not None:
        return second > (1 + margin) * first
    means = [one.total / one.n if one.n else math.nan for one in arms]
    return means[1] - means[0] > margin


def one_delay(stream: Stream, sign: int, gap: int, plan: Plan, run: int) -> float:
    """Observations until it is found, in multiples of what one look needs; 40 windows of one look's number each make one."""
    harm = stream.margin + sign * gap * stream.margin
    n = stream.fixed_n(plan, harm)
    size = math.ceil(n / 40)
    found = watch(stream, np.random.default_rng((2, run)), harm, size, (plan.share,) * 320, plan.alpha, sign)
    return ((found.worse if sign > 0 else found.passed) or 320 * size) / n


def thirty_looks(run: int) -> tuple[bool, bool]:
    """Equal arms looked at daily for a month: ever different by the z-test at 5 %, by the sequence with 2.5 % a side."""
    draws, stream = np.random.default_rng((3, run)), Errors(0.2, 0.0)
    sequence, arms = MeanHarm(0.0, effect=0.02), (Sums(), Sums())
    tested = found = False
    for _ in range(30):
        window = stream.drawn(draws, 0.0, 400, 0.5)
        sequence = sequence.after(window)
        arms = arms[0].plus(window.incumbent), arms[1].plus(window.candidate)
        tested |= abs(z(*arms)) > TWO_SIDED
        found |= max(sequence.evidence(1), sequence.evidence(-1)) >= math.log(2 / ALPHA)
    return tested, found


def main() -> int:
    parser = argparse.ArgumentParser(description="False verdicts and delays of sequences, beside repeated tests.")
    parser.add_argument("--worlds", type=int, default=2000, help="for false verdicts, each")
    parser.add_argument("--delays", type=int, default=200, help="worlds for each delay")
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the page")
    given = parser.parse_args()
    began = time.monotonic()
    lines = [f"# Sequences, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "", "```", *machine.facts(HERE.parent), "```"]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for part in (_looking(given.worlds, pool), _false(given.worlds, pool), _delays(given.delays, pool)):
            print("\n".join(part), flush=True)
            lines += part
    lines += ["", f"All of it took {time.monotonic() - began:.0f} s.", ""]
    path = given.into / f"{datetime.now(UTC):%Y-%m-%d}-sequences.md"
    path.write_text("\n".join(lines))
    print(f"written to {path}")
    return 0


def _looking(worlds: int, pool: ProcessPoolExecutor) -> list[str]:
    found = np.array(list(pool.map(thirty_looks, range(worlds), chunksize=20)))
    tested, sequence = 100 * found.mean(axis=0)
    return [
        "", "## Thirty daily looks at two equal arms", "",
        f"A z-test at 5 %, repeated daily, finds a difference in {tested:.1f} % of {worlds:,} worlds; a sequence in {sequence:.1f} %.",
    ]  # fmt: skip


def _false(worlds: int, pool: ProcessPoolExecutor) -> list[str]:
    lines = [
        "", "## False verdicts", "",
        f"{worlds:,} worlds of {LOOKS} windows each, the candidate's share rising from 5 to 20 to 50 %; declared: {100 * ALPHA:.0f} %. In brackets",
        "what the true rate surely (99.9 %) exceeds. *z-test*: two-sided at 5 %, repeated after each window. *Over*: of the nine intervals of ten",
        "windows there is one in which the candidate, by itself, is worse than the incumbent by more than the margin.", "",
        "| Stream | no harm: worse | passed | z-test | over | harm = margin: worse | passed | over |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for stream in STREAMS:
        size = math.ceil(4 * stream.fixed_n(Plan(ALPHA), 0.0) / LOOKS)
        cells: list[str] = []
        for harm in (0.0, stream.margin):
            found = list(pool.map(partial(one_world, stream, harm, size), range(worlds), chunksize=20))
            cells.append(_rate([one.worse for one in found]))
            cells.append(_rate([one.passed for one in found]) if harm else _percent([one.passed for one in found]))
            if not harm:
                cells.append("–" if "p95" in stream.name else _percent([one.tested for one in found]))
            cells.append(_percent([one.compared for one in found]))
        lines.append(f"| {stream.name} | " + " | ".join(cells) + " |")
    return lines


def _percent(flags: Iterable[bool]) -> str:
    return f"{100 * np.mean(list(flags)):.1f} %"


def _rate(flags: list[bool]) -> str:
    return f"{_percent(flags)} ({100 * surely(sum(flags), len(flags)):.1f})"


def _delays(worlds: int, pool: ProcessPoolExecutor) -> list[str]:
    lines = [
        "", "## Delays", "",
        f"Observations of both arms until the verdict, on average over {worlds} worlds, in multiples of what one look at the end needs (80 %, the",
        "same risk α; that number in brackets). *Passed*: no harm. *Worse by k×*: the harm is k margins above the margin. The first lines are the",
        "limit of small effects, by `power.forecast`.", "",
        "| Stream | share | α | passed | worse by 1× | worse by 2× | worse by 4× |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    draws = np.random.default_rng(4).standard_normal((4000, 800))
    for alpha in (0.05, 0.005):
        told = [forecast(Plan(alpha), sign, gap, draws).mean for sign, gap in GAPS]
        lines.append(f"| the limit | any | {alpha:g} | " + " | ".join(f"{one:.2f}" for one in told) + " |")
    for stream in STREAMS:
        for share in (0.05, 0.5):
            for alpha in (0.05, 0.005):
                plan, cells = Plan(alpha, share=share), list[str]()
                for sign, gap in GAPS:
                    taken = list(pool.map(partial(one_delay, stream, sign, gap, plan), range(worlds), chunksize=5))
                    n = stream.fixed_n(plan, stream.margin + sign * gap * stream.margin)
                    cells.append(f"{np.mean(taken):.2f} ({n:,.0f})")
                lines.append(f"| {stream.name} | {100 * share:.0f} % | {alpha:g} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())

"""Two servers on one core, measured in turn: throughput drifts on a shared machine, the ratio of neighbours doesn't."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import msgspec

from artifacts import Ask
from books import Books, Settled
from load import Run, run
from processes import Tree


class Row(msgspec.Struct, frozen=True):
    """One line of the table. `bar` is a least ratio of throughput, or a greatest ratio of p50 where `latency`."""

    name: str
    ask: Ask
    in_flight: int
    bar: float | None = None
    latency: bool = False


class Side(msgspec.Struct, frozen=True):
    """A server under load; `books` where it keeps Records. `answer` holds what it must answer, where that is looked at;
    `stands_still`: while it is not its turn, so that what it does when idle costs the other nothing."""

    name: str
    tree: Tree
    port: int
    books: Books | None = None
    answer: Path | None = None
    stands_still: bool = False

    def idle(self) -> AbstractContextManager[None]:
        return self.tree.still() if self.stands_still else nullcontext()


class Measured(msgspec.Struct, frozen=True):
    """One run of one side; `idle_cpu_s` is what the other side used meanwhile."""

    run: Run
    settled: Settled | None
    idle_cpu_s: float

    @property
    def fault(self) -> str:
        return self.run.fault or (self.settled.fault if self.settled else "")


class Pair(msgspec.Struct, frozen=True):
    """The floor's run and its neighbour's."""

    floor: Measured
    other: Measured

    @property
    def fault(self) -> str:
        return self.floor.fault or self.other.fault


class Result(msgspec.Struct, frozen=True):
    """A row and the pairs that count; `faults` of those that don't."""

    row: Row
    pairs: tuple[Pair, ...]
    faults: tuple[str, ...]

    def ratios(self) -> list[float]:
        """The other's throughput (or p50) over the floor's, by pair."""
        if self.row.latency:
            return [pair.other.run.p50_us / pair.floor.run.p50_us for pair in self.pairs]
        return [pair.other.run.per_second / pair.floor.run.per_second for pair in self.pairs]

    def median(self, value: Callable[[Pair], float]) -> float:
        return statistics.median(value(pair) for pair in self.pairs) if self.pairs else float("nan")


def measure(
    row: Row,
    floor: Side,
    other: Side,
    *,
    pairs: int,
    seconds: float,
    say: Callable[[str], None],
    warm_s: float = 2.0,
) -> Result:
    """Warm both up, then `pairs` runs of each; which goes first alternates, so that a steady drift cancels."""
    for side in (floor, other) if warm_s else ():
        _one(row, side, side, min(warm_s, seconds))
    kept: list[Pair] = []
    faults: list[str] = []
    for number in range(pairs):
        if number % 2:
            second = _one(row, other, floor, seconds)
            pair = Pair(_one(row, floor, other, seconds), second)
        else:
            pair = Pair(_one(row, floor, other, seconds), _one(row, other, floor, seconds))
        if pair.fault:
            faults.append(f"pair {number + 1} does not count: {pair.fault}")
            say(f"  {row.name}: {faults[-1]}")
        else:
            kept.append(pair)
            say(f"  {row.name}: {_line(pair)}")
    return Result(row, tuple(kept), tuple(faults))


def _one(row: Row, side: Side, idle: Side, seconds: float) -> Measured:
    since_ns = time.time_ns()
    ask = msgspec.structs.replace(row.ask, answer=side.answer)
    with idle.idle() if idle is not side else nullcontext():
        idle_before = idle.tree.cpu_s()
        seen = run(side.tree, side.port, ask, row.in_flight, seconds)
        idle_cpu_s = idle.tree.cpu_s() - idle_before
        settled = side.books.settle(side.tree, since_ns, seen.requests, row.in_flight) if side.books else None
    return Measured(seen, settled, idle_cpu_s)


def _line(pair: Pair) -> str:
    floor, other = pair.floor.run, pair.other.run
    caught_up = f", caught up in {pair.other.settled.seconds:.2f} s" if pair.other.settled else ""
    return (
        f"{other.per_second:,.0f}/s against {floor.per_second:,.0f}/s, "
        f"p50 {other.p50_us} against {floor.p50_us} µs{caught_up}"
    )


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and greatest; NaN when there is nothing."""
    if not values:
        return math.nan, math.nan, math.nan
    return statistics.median(values), min(values), max(values)

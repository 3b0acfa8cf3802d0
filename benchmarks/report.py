"""Results as text. A bar is printed beside its figure as met or missed, and never asserted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

from pairs import Measured, Pair, Result, spread

HEAD = (
    "row",
    "floor/s",
    "other/s",
    "ratio",
    "min",
    "max",
    "bar",
    "CPU µs",
    "other",
    "+late",
    "core %",
    "wrk %",
    "p50 µs",
    "other",
)


class Figure(msgspec.Struct, frozen=True):
    """One number beside the table, with the bar that it should stay under or over."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    note: str = ""


def table(results: Sequence[Result]) -> list[str]:
    """A line for each row, and below the lines that don't fit: catch-up, idle use, faults."""
    lines = [HEAD, *(_cells(result) for result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    printed = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    printed.insert(1, "-" * len(printed[0]))
    for result in results:
        printed.extend(f"{result.row.name}: {note}" for note in _notes(result))
    return printed


def figures(measured: Sequence[Figure]) -> list[str]:
    """A line for each figure."""
    lines: list[str] = []
    for figure in measured:
        bar = "" if figure.at_most is None else f"  (≤ {figure.at_most:g}: {_word(figure.value <= figure.at_most)})"
        lines.append(
            f"{figure.name:<44}{figure.value:>10,.2f} {figure.unit}{bar}{'  ' + figure.note if figure.note else ''}"
        )
    return lines


def _cells(result: Result) -> tuple[str, ...]:
    median, least, most = spread(result.ratios())
    return (
        result.row.name,
        f"{result.median(lambda pair: pair.floor.run.per_second):,.0f}",
        f"{result.median(lambda pair: pair.other.run.per_second):,.0f}",
        f"{median:.3f}",
        f"{least:.3f}",
        f"{most:.3f}",
        _bar(result, median),
        f"{result.median(lambda pair: pair.floor.run.cpu_us):.1f}",
        f"{result.median(lambda pair: pair.other.run.cpu_us):.1f}",
        f"{result.median(_late_us):.1f}",
        f"{result.median(lambda pair: 100 * pair.other.run.cpu_s / pair.other.run.seconds):.0f}",
        f"{result.median(lambda pair: 100 * pair.floor.run.wrk_cpu_s / pair.floor.run.seconds):.0f}",
        f"{result.median(lambda pair: pair.floor.run.p50_us):.0f}",
        f"{result.median(lambda pair: pair.other.run.p50_us):.0f}",
    )


def _bar(result: Result, median: float) -> str:
    if result.row.bar is None or math.isnan(median):
        return "–"
    met = median <= result.row.bar if result.row.latency else median >= result.row.bar
    return f"{'≤' if result.row.latency else '≥'} {result.row.bar:.2f} {_word(met)}"


def _notes(result: Result) -> list[str]:
    settled = [pair.other.settled for pair in result.pairs if pair.other.settled]
    notes = list(result.faults)
    if settled:
        median, least, most = spread([after.seconds for after in settled])
        records = sum(after.records for after in settled)
        answers = sum(after.requests for after in settled)
        notes.append(
            f"{records:,} Records for {answers:,} answers; the ledger had caught up {median:.2f} s after the end "
            f"({least:.2f} to {most:.2f})"
        )
        if not result.row.latency:
            notes.append(f"ratio with the CPU of catching up counted in: {statistics.median(_whole(result.pairs)):.3f}")
    idle = max((_idle(one) for pair in result.pairs for one in (pair.floor, pair.other)), default=0.0)
    if idle > 0.01:
        notes.append(f"the idle neighbour used up to {100 * idle:.1f} % of the core")
    return notes


def _late_us(pair: Pair) -> float:
    """CPU that came after the end of the run, per request."""
    settled = pair.other.settled
    return settled.cpu_s * 1e6 / max(pair.other.run.requests, 1) if settled else 0.0


def _whole(pairs: Sequence[Pair]) -> list[float]:
    """Ratios of throughput as if no run had ended before its Records were in the ledger."""
    return [
        pair.other.run.requests
        / (pair.other.run.seconds + (pair.other.settled.cpu_s if pair.other.settled else 0.0))
        / pair.floor.run.per_second
        for pair in pairs
    ]


def _idle(one: Measured) -> float:
    return one.idle_cpu_s / one.run.seconds


def _word(met: bool) -> str:
    return "met" if met else "missed"

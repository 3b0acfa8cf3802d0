"""Servery against the floor, on one core each; see README.md beside this file.

python benchmarks/bench.py [--pairs 7] [--seconds 5] [--rows TEXT] [--other servery|floor] [--into FOLDER]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import artifacts
import machine
import report
import servers
from artifacts import Artifacts
from books import Books
from figures import beside
from pairs import Result, Row, Side, measure
from processes import Failed, Tree

HERE = Path(__file__).parent
SERVER_CORE, WRK_CORE = 0, 1


class Plan(msgspec.Struct, frozen=True):
    """How much is measured; `rows` selects by a part of the row's name."""

    pairs: int
    seconds: float
    rows: str
    other: str
    into: Path


def main() -> int:
    plan = _plan()
    os.sched_setaffinity(0, {WRK_CORE})  # wrk, and everything else that isn't the server, inherits it
    lines = [f"Servery's benchmark, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {' '.join(sys.argv[1:]) or 'all rows'}"]
    lines += machine.facts(HERE.parent)
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(prefix="servery-bench-") as folder:
        made = artifacts.make(Path(folder))
        results = _section(plan, made, _rows(plan, made), "process")
        results += _section(plan, made, _power_rows(plan, made), "power")
        results += _section(plan, made, _grpc_rows(plan, made), "process", grpc=True)
        measured = beside(made, SERVER_CORE) if plan.other == "servery" and not plan.rows else []
    text = ["", f"{plan.pairs} pairs of {plan.seconds:g} s; other is {plan.other}", "", *report.table(results), ""]
    text += report.figures(measured)
    print("\n".join(text))
    path = plan.into / f"{datetime.now(UTC):%Y-%m-%d}-bench.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, *text]) + "\n")
    print(f"\nwritten to {path}")
    return 1 if any(result.faults or not result.pairs for result in results) else 0


def say(line: str) -> None:
    """Progress, as it happens."""
    print(line, flush=True)


def _plan() -> Plan:
    parser = argparse.ArgumentParser(description="Servery against the floor, on one core each.")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rows", default="", help="only rows with this in their name")
    parser.add_argument("--other", choices=("servery", "floor"), default="servery", help="floor: what noise looks like")
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the text file")
    given = parser.parse_args()
    return Plan(given.pairs, given.seconds, given.rows, given.other, given.into)


def _rows(plan: Plan, made: Artifacts) -> list[Row]:
    rows = [
        Row("JSON row, 16 in flight", made.json_row, 16, bar=0.70),
        Row("JSON row, 64 in flight", made.json_row, 64, bar=0.70),
        Row("JSON row, 1 in flight, p50", made.json_row, 1, bar=1.25, latency=True),
        Row("600 KB binary, 4 in flight", made.binary, 4, bar=0.80),
    ]
    if plan.other == "floor":
        rows = [msgspec.structs.replace(row, bar=None) for row in rows]
    return [row for row in rows if plan.rows in row.name]


def _power_rows(plan: Plan, made: Artifacts) -> list[Row]:
    rows = [Row(f"power: JSON row, {count} in flight", made.json_row, count) for count in (16, 64)]
    return [row for row in rows if plan.rows in row.name and plan.other == "servery"]


def _grpc_rows(plan: Plan, made: Artifacts) -> list[Row]:
    bar = 0.90 if plan.other == "servery" else None
    rows = [
        Row("gRPC row, 16 in flight", made.message, 16, bar=bar),
        Row("gRPC row, 64 in flight", made.message, 64, bar=bar),
        Row("gRPC row, 1 in flight, p50", made.message, 1, latency=True),
    ]
    return [row for row in rows if plan.rows in row.name]


def _section(plan: Plan, made: Artifacts, rows: list[Row], durability: str, grpc: bool = False) -> list[Result]:
    """Both servers up, then the rows one after the other."""
    if not rows:
        return []
    floor_port, other_port = servers.free_port(), servers.free_port()
    grpc_port = servers.free_port() if grpc else None
    data = made.folder / f"data-{durability}{'-grpc' if grpc else ''}"
    if plan.other == "servery":
        command, books = (
            servers.servery(artifacts.manifest(made, other_port, durability, grpc_port), data),
            Books(data / "ledger.db"),
        )
    else:
        command, books = servers.floor(made, other_port, grpc), None
    log = made.folder / f"{plan.other}-{durability}.log"
    with (
        Tree(servers.floor(made, floor_port, grpc), SERVER_CORE, made.folder / "floor.log", made.folder) as floor_tree,
        Tree(command, SERVER_CORE, log, made.folder) as other_tree,
    ):
        floor_tree.wait_until(lambda: servers.answers(floor_port), "the floor")
        other_tree.wait_until(lambda: servers.answers(other_port, "/v2/health/ready" if books else ""), plan.other)
        if books:
            other_tree.wait_until(books.ready, "the ledger")
        if (cores := floor_tree.cores() | other_tree.cores()) != {SERVER_CORE}:
            raise Failed(f"a thread may run on the cores {sorted(cores)}, not only on {SERVER_CORE}")
        asked_port = grpc_port if grpc_port is not None and books else other_port
        floor, other = Side("floor", floor_tree, floor_port), Side(plan.other, other_tree, asked_port, books)
        return [measure(row, floor, other, pairs=plan.pairs, seconds=plan.seconds, say=say) for row in rows]


if __name__ == "__main__":
    sys.exit(main())

"""Servery against other model servers, each on the same core, in turn; see README.md beside this file.

python benchmarks/bench_peers.py [--only NAMES] [--rounds 4] [--seconds 2] [--into FOLDER]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import artifacts
import machine
import peer_report
import servers
from artifacts import KEY, Artifacts
from books import Books
from contenders import CONTENDERS, Contender, install, version_of, words
from open_loop import Seen
from pairs import Result, Row, Side, measure
from peer_report import Block, Opened
from processes import Failed, Tree
from truth import INFER, Truth

HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = 0, 1
IN_FLIGHT = (1, 16, 64)
SHARES = (0.3, 0.6, 0.9)


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    rounds: int
    seconds: float
    contenders: tuple[Contender, ...]
    into: Path


def main() -> int:
    plan, began = _plan(), time.monotonic()
    os.sched_setaffinity(0, {CLIENT_CORE})  # the clients, and everything else that isn't a server, inherit it
    facts = [f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {plan.rounds} rounds of {plan.seconds:g} s", ""]
    facts += ["```", *machine.facts(HERE.parent), "```"]
    say("\n".join(facts))
    missing = {name: install(name) for name in dict.fromkeys(one.environment for one in plan.contenders)}
    blocks: list[Block] = []
    for contender in plan.contenders:
        blocks.append(_block(plan, contender, missing[contender.environment]))
        if blocks[-1].missing:
            say(f"{contender.name} IS MISSING: {blocks[-1].missing}")
    took = f"All of it took {(time.monotonic() - began) / 60:.0f} minutes."
    text = "\n".join([*peer_report.page(blocks, facts), "", took])
    path = plan.into / f"peers-{datetime.now(UTC):%Y-%m-%d}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    say(f"\n{text}\n\nwritten to {path}")
    return 1 if any(block.faults for block in blocks) else 0


def say(line: str) -> None:
    """Progress, as it happens."""
    print(line, flush=True)


def _plan() -> Plan:
    parser = argparse.ArgumentParser(description="Servery against other model servers, each on the same core, in turn.")
    parser.add_argument("--only", default="", help="contenders with one of these in their names, with commas between")
    parser.add_argument("--rounds", type=int, default=4, help="an even number, so that each is first as often")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each cell of each round")
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the page")
    given = parser.parse_args()
    parts = given.only.lower().split(",")
    chosen = tuple(one for one in CONTENDERS if any(part in one.name.lower() for part in parts))
    return Plan(given.rounds, given.seconds, chosen, given.into)


def _block(plan: Plan, contender: Contender, missing: str) -> Block:
    """Everything about one contender; a reason where it can't be had on this machine."""
    if missing:
        return Block(contender.name, words(contender), missing=missing)
    version = version_of(contender)
    say(f"{contender.name} {version}")
    with tempfile.TemporaryDirectory(prefix="servery-peers-", ignore_cleanup_errors=True) as folder:
        try:
            return _measure(plan, contender, version, Path(folder))
        except Exception as error:  # one contender's trouble ends no other's run
            reason = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            return Block(contender.name, words(contender), version, missing=reason)


def _measure(plan: Plan, contender: Contender, version: str, folder: Path) -> Block:
    """Both servers up, then the cells one after the other."""
    made = artifacts.make(folder)
    made.json_row.body.write_bytes(made.json_row.body.read_bytes().replace(b"{", b'{"id":"1",', 1))  # or some make one
    port, grpc_port, ours, our_grpc = (servers.free_port() for _ in range(4))
    data, model = folder / "data", made.models["rows"]
    home = folder / "home"
    home.mkdir()
    listening = port if contender.http else grpc_port
    with (
        Tree(
            servers.servery(artifacts.manifest(made, ours, "process", our_grpc), data),
            SERVER_CORE,
            folder / "servery.log",
            folder,
        ) as our_tree,
        Tree(
            contender.command(model, listening, home),
            SERVER_CORE,
            folder / "contender.log",
            folder,
            contender.surroundings(model, port, grpc_port, home),
        ) as tree,
    ):
        books = Books(data / "ledger.db")
        our_tree.wait_until(lambda: servers.answers(ours, "/v2/health/ready"), "Servery")
        our_tree.wait_until(books.ready, "the ledger")
        both = (Side("Servery", our_tree, ours, books), Side(contender.name, tree, port, stands_still=True))
        http = _http(plan, made, both) if contender.http else ((), ())
        both = (_at(both[0], our_grpc), _at(both[1], grpc_port))
        grpc = _grpc(plan, made, both) if contender.grpc else ()
        if cores := (our_tree.cores() | tree.cores()) - {SERVER_CORE}:
            raise Failed(f"a thread may run on the cores {sorted(cores)} too, not only on {SERVER_CORE}")
        weights = tuple(sum(weight for _, weight in side.tree.memory().values()) for side in both)
        return Block(contender.name, words(contender), version, *http, grpc, weights)


def _at(side: Side, port: int) -> Side:
    return msgspec.structs.replace(side, port=port, answer=None)


def _http(plan: Plan, made: Artifacts, both: tuple[Side, Side]) -> tuple[tuple[Result, ...], tuple[Opened, ...]]:
    truth = Truth(made.models["rows"], made.json_row.body)
    sides: list[Side] = []
    for side in both:
        answer = made.folder / f"answer-{len(sides)}"
        answer.write_bytes(truth.answer(side.name, side.tree, side.port))
        sides.append(msgspec.structs.replace(side, answer=answer))
    ours, theirs = sides
    rows = [Row(f"HTTP, {count} in flight", made.json_row, count) for count in IN_FLIGHT]
    results = tuple(_cell(plan, row, theirs, ours) for row in rows)
    our_most = max(result.median(lambda pair: pair.other.run.per_second) for result in results)
    their_most = max(result.median(lambda pair: pair.floor.run.per_second) for result in results)
    opened: list[Opened] = []
    for share in SHARES:
        for side, idle, most in ((ours, theirs, our_most), (theirs, ours, their_most)):
            if most > 0:  # or nothing of it counted
                opened.append(_open(plan, made, side, idle, share * most, share))
    return results, tuple(opened)


def _grpc(plan: Plan, made: Artifacts, both: tuple[Side, Side]) -> tuple[Result, ...]:
    truth = Truth(made.models["rows"], made.json_row.body)
    for side in both:
        truth.check_grpc(side.name, side.tree, side.port, made.message.body.read_bytes())
    ours, theirs = both
    rows = [Row(f"gRPC, {count} in flight", made.message, count) for count in IN_FLIGHT]
    return tuple(_cell(plan, row, theirs, ours) for row in rows)


def _cell(plan: Plan, row: Row, theirs: Side, ours: Side) -> Result:
    warm_s = 1.0 if row.in_flight == IN_FLIGHT[0] else 0.0  # once for each face
    return measure(row, theirs, ours, pairs=plan.rounds, seconds=plan.seconds, say=say, warm_s=warm_s)


def _open(plan: Plan, made: Artifacts, side: Side, idle: Side, rate: float, share: float) -> Opened:
    """Arrivals at random moments, so many a second on the mean: a share of what the side can do."""
    assert side.answer is not None
    ask = [str(side.port), INFER, str(made.json_row.body), str(side.answer), KEY]
    script = str(HERE / "open_loop.py")
    since_ns = time.time_ns()
    with idle.idle():
        done = subprocess.run(
            [sys.executable, script, *ask, str(rate), str(plan.seconds), "1"],
            capture_output=True,
            text=True,
            timeout=plan.seconds * 5 + 30,
            check=False,
        )
        if done.returncode:
            raise Failed(f"open_loop.py against {side.name}: {done.stderr[-1000:]}")
        seen = msgspec.json.decode(done.stdout, type=Seen)
        settled = (
            side.books.settle(side.tree, since_ns, seen.answered, seen.sent - seen.answered) if side.books else None
        )
    opened = Opened(side.name, share, rate, seen, settled.fault if settled else "")
    say(f"  open loop at {100 * share:.0f} %: {peer_report.line(opened)}")
    return opened


if __name__ == "__main__":
    sys.exit(main())

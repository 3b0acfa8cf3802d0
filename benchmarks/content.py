"""What Content costs: microseconds of CPU a request, on the event loop and in the thread that encrypts; see README.md beside this file.

    python benchmarks/content.py [--requests 20000] [--rounds 7]

A worker's pipeline answers chat prompts from canned replies, without a socket and without Records: what is left is the path
of a request. The three ways take turns; the least of their rounds is told, as everything else only adds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

import msgspec

from servery.gateway.holder import Holder
from servery.gateway.holdings import Holdings
from servery.gateway.minutes import OwnMinutes
from servery.gateway.pipeline import Pipeline
from servery.gateway.table import Base, compile_table
from servery.gateway.text_face import HttpTextAsk
from servery.gateway.trained import Trained
from servery.gateway.trials import Lease
from servery.host.clock import Clock, Dice
from servery.store.content_spool import ContentSpool
from servery.store.content_writer import ContentWriter
from servery.store.inflight import InFlight
from servery.store.sealing import Sealer, new_key, parse_keys
from servery.targets.heuristic import HeuristicTarget
from servery.terms.change import Served, Snapshot, Version
from servery.terms.content import ContentPolicy
from servery.terms.limits import Limits
from servery.terms.manifest import Canned, Manifest, Model
from servery.terms.record import AnyLine
from servery.terms.text import Form, TokenPrice

POLICIES = {
    "nothing is declared": None,
    "declared, for another route": ContentPolicy(30, ("other",)),
    "kept": ContentPolicy(30),
}
PROMPT = "How would you explain to a child why the sky is blue, and why it is red in the evening? " * 6
REPLY = "Light from the sun is a mixture of all colours, and air scatters blue light more than red. " * 12
BODY = json.dumps({"model": "canned", "messages": [{"role": "user", "content": PROMPT}]}).encode()


class Took(msgspec.Struct, frozen=True):
    """Microseconds a request: on the event loop's thread, and in the process's other threads."""

    loop: float
    others: float


class Nowhere:
    """Records that are let go."""

    full = False
    room = True

    def __init__(self) -> None:
        self.slots = InFlight()

    def append(self, line: AnyLine, slot: int = 0) -> None:
        del line, slot


class NoWay:
    """A caller who stays."""

    def left(self) -> Awaitable[None]:
        return asyncio.get_running_loop().create_future()

    async def begin(self, head: bytes, part: bytes) -> None: ...
    async def part(self, part: bytes) -> None: ...
    async def end(self, part: bytes) -> None: ...


def no_budgets(holder: Holder, limits: Limits) -> None:
    """Nobody has one."""
    del holder, limits


def nobody_counts(what: str) -> None:
    """Nothing is over a limit that is only observed."""
    del what


def pipeline_of(policy: ContentPolicy | None, spool: ContentSpool) -> Pipeline:
    """A worker's path of a request, with one canned model."""
    clock, dice = Clock(), Dice()
    model = Model("heuristic", replies=(Canned(".", REPLY),))
    manifest = Manifest(1, {"canned": model}, content=policy)
    version = Version("canned", "1", "0" * 64, "", price=TokenPrice())
    snapshot = Snapshot(1, manifest, "", {"canned": Served((version,))})
    targets = {("canned", "1"): HeuristicTarget(model, version, clock, dice)}
    base = Base(b"secret", Holdings(OwnMinutes().make, no_budgets, nobody_counts), Lease(clock.steady_ns), Trained())
    table = compile_table(snapshot, targets, {}, base)
    return Pipeline(table, Nowhere(), spool, clock, dice)


async def ask(pipeline: Pipeline, requests: int) -> None:
    way = NoWay()
    caller = pipeline.identify(None)
    for number in range(requests):
        reply = await pipeline.converse(caller, HttpTextAsk(Form.CHAT, {}, BODY, way))
        assert reply.refusal is None, reply
        if number % 50 == 0:
            await asyncio.sleep(0)  # as the loop turns under load


async def one(policy: ContentPolicy | None, requests: int, folder: Path) -> Took:
    """A round of one way, with the writing down of what it keeps."""
    writer = ContentWriter(folder, f"r{time.time_ns()}", 10_000, lambda: Sealer(parse_keys(new_key())), Clock())
    spool = ContentSpool(writer, early=policy is not None)
    await spool.start()
    pipeline = pipeline_of(policy, spool)
    await ask(pipeline, 500)
    thread, process = time.thread_time(), time.process_time()
    for _ in range(0, requests, 1_000):
        await ask(pipeline, 1_000)
        await asyncio.sleep(0.06)  # until the group is on its way
    thread, process = time.thread_time() - thread, time.process_time() - process
    await spool.drain()
    return Took(thread / requests * 1e6, max(process - thread, 0) / requests * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description="What Content costs.")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    gc.set_threshold(50_000, 20, 50)  # as a worker has it
    took: dict[str, list[Took]] = {name: [] for name in POLICIES}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        for _ in range(given.rounds):
            for name, policy in POLICIES.items():
                took[name].append(asyncio.run(one(policy, given.requests, Path(place) / "content")))
    print(
        f"{len(BODY):,} bytes asked, {len(REPLY):,} answered; microseconds of CPU a request, the least of {given.rounds} rounds"
    )
    for name, rounds in took.items():
        loop, others = min(one.loop for one in rounds), min(one.others for one in rounds)
        print(f"{name:<30} {loop:>7.2f} on the event loop  {others:>7.2f} in the thread that encrypts and writes")


if __name__ == "__main__":
    main()

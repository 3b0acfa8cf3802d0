"""Where a server's CPU goes under the benchmark's load, in microseconds a request, by py-spy (pip install py-spy).

    python benchmarks/profile_worker.py [--kind worker|shipper|floor] [--in-flight 16] [--binary] [--native]

Self time is spent in the function's own lines, with --native in C functions too; total time includes what it called.
The samples pause the process: the shares are right, the throughput is a few per cent low.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import msgspec

import artifacts
import load
import servers
from artifacts import Artifacts
from processes import Failed, Tree

SERVER_CORE, OTHER_CORE = 0, 1
RATE_HZ = 400
THREAD = re.compile(r"thread \((\d+)\)(?:: (.*))?")


class Wanted(msgspec.Struct, frozen=True):
    """What is profiled, under which load, for how long."""

    kind: str
    in_flight: int
    binary: bool
    native: bool
    seconds: int
    lines: int


class Stacks(msgspec.Struct, frozen=True):
    """Samples of one thread by function: its own, and with what it called."""

    own: Counter[str]
    total: Counter[str]


class Profile(msgspec.Struct, frozen=True):
    """Shares (0 to 1) of the process's CPU: by thread, by function alone, by function with what it called."""

    samples: int
    threads: dict[str, float]
    own: dict[str, float]
    total: dict[str, float]


def main() -> None:
    wanted = _wanted()
    os.sched_setaffinity(0, {OTHER_CORE})
    with tempfile.TemporaryDirectory(prefix="servery-profile-") as folder:
        made = artifacts.make(Path(folder))
        port = servers.free_port()
        if wanted.kind == "floor":
            command, path = servers.floor(made, port), ""
        else:
            manifest = artifacts.manifest(made, port, "process")
            command, path = servers.servery(manifest, made.folder / "data"), "/v2/health/ready"
        with Tree(command, SERVER_CORE, made.folder / "server.log", made.folder) as tree:
            tree.wait_until(lambda: servers.answers(port, path), wanted.kind)
            _profile(wanted, made, tree, port)


def _profile(wanted: Wanted, made: Artifacts, tree: Tree, port: int) -> None:
    ask = made.binary if wanted.binary else made.json_row
    load.run(tree, port, ask, wanted.in_flight, 2)  # warm-up
    pid = next((pid for pid in tree.members() if servers.kind_of(tree.command(pid)) == wanted.kind), None)
    if pid is None:
        raise Failed(f"no {wanted.kind} among {[tree.command(pid) for pid in tree.members()]}")
    runs: list[load.Run] = []
    busy = threading.Thread(
        target=lambda: runs.append(load.run(tree, port, ask, wanted.in_flight, wanted.seconds + 2)), name="wrk"
    )
    before = tree.cpu_s(pid)
    busy.start()
    profile = _sample(wanted, tree, pid, made.folder / "stacks.txt")
    busy.join()
    cpu_us = (tree.cpu_s(pid) - before) * 1e6 / runs[0].requests
    print(f"{wanted.kind}: {cpu_us:.1f} µs of CPU a request, {runs[0].per_second:,.0f}/s, {profile.samples} samples")
    print(runs[0].fault or "no errors")
    for title, counted in (("thread", profile.threads), ("self", profile.own), ("total", profile.total)):
        print(f"\n{title:>8} µs   share")
        for function, share in sorted(counted.items(), key=lambda item: -item[1])[: wanted.lines]:
            print(f"{share * cpu_us:>11.2f}  {100 * share:>5.1f} %  {function}")


def _sample(wanted: Wanted, tree: Tree, pid: int, path: Path) -> Profile:
    """py-spy counts samples, and takes some waiting threads for busy ones: the kernel's CPU time weighs the threads."""
    command = [str(Path(sys.executable).with_name("py-spy")), "record", "-p", str(pid), "-d", str(wanted.seconds)]
    command += ["-r", str(RATE_HZ), "-f", "raw", "-F", "-t", "-o", str(path), *(["--native"] if wanted.native else [])]
    before = tree.threads_s(pid)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"py-spy: {done.stderr or done.stdout}")
    used = {thread: seconds - before.get(thread, 0.0) for thread, seconds in tree.threads_s(pid).items()}
    stacks = _read(path)
    known = sum(used.get(thread, 0.0) for thread, _ in stacks)
    threads: dict[str, float] = {}
    own: dict[str, float] = {}
    total: dict[str, float] = {}
    for (thread, name), counted in stacks.items():
        threads[name] = threads.get(name, 0.0) + used.get(thread, 0.0) / known
        weight = used.get(thread, 0.0) / known / counted.own.total()
        for shares, samples in ((own, counted.own), (total, counted.total)):
            for function, count in samples.items():
                shares[function] = shares.get(function, 0.0) + count * weight
    return Profile(sum(counted.own.total() for counted in stacks.values()), threads, own, total)


def _read(path: Path) -> dict[tuple[int, str], Stacks]:
    """By thread (id, name): collapsed stacks, a line each: `thread (ID): NAME;outer (file:line);inner (file:line) COUNT`."""
    threads: dict[tuple[int, str], Stacks] = {}
    for line in path.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        thread, *functions = stack.split(";")
        matched = THREAD.match(thread)
        if matched is None or not functions:
            continue
        counted = threads.setdefault((int(matched[1]), matched[2] or ""), Stacks(Counter(), Counter()))
        counted.own[functions[-1]] += int(samples)
        for function in set(functions):
            counted.total[function] += int(samples)
    return threads


def _wanted() -> Wanted:
    parser = argparse.ArgumentParser(description="Where a server's CPU goes under the benchmark's load.")
    parser.add_argument("--kind", choices=("worker", "shipper", "floor"), default="worker")
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--binary", action="store_true", help="600 KB tensors instead of a JSON row")
    parser.add_argument("--native", action="store_true", help="C functions too")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--lines", type=int, default=40)
    given = parser.parse_args()
    return Wanted(given.kind, given.in_flight, given.binary, given.native, given.seconds, given.lines)


if __name__ == "__main__":
    main()

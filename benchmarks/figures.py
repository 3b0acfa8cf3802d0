"""The figures beside the table: an idle worker's memory, `servery check`, what the shipper sustains."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import artifacts
import servers
from artifacts import Artifacts
from processes import Failed, Tree
from report import Figure

CHECKS = 9


def beside(made: Artifacts, core: int) -> list[Figure]:
    """All of them, in the order in which they are printed."""
    return [*idle_memory(made.folder, core), check_time(made.folder), *shipper_rate(made.folder)]


def idle_memory(folder: Path, core: int) -> list[Figure]:
    """Proportional set size of every process of a Servery without a model; the worker's has the bar."""
    port = servers.free_port()
    command = servers.servery(artifacts.empty_manifest(folder, port), folder / "data-empty")
    with Tree(command, core, folder / "empty.log", folder) as tree:
        tree.wait_until(lambda: servers.answers(port, "/v2/health/live"), "servery without a model")
        time.sleep(2)  # what start-up left behind is returned to the system by then
        weighed = tree.memory()
    found = [
        Figure(f"idle {kind}, PSS", megabytes, "MB", 120 if kind == "worker" else None)
        for command_line, megabytes in weighed.values()
        for kind in [servers.kind_of(command_line)]
    ]
    if not any(figure.at_most for figure in found):
        raise Failed(f"no worker among the processes {[command for command, _ in weighed.values()]}")
    return found


def check_time(folder: Path) -> Figure:
    """Wall seconds of `servery check` on the demo's manifest, trained here by `servery init`."""
    scaffold = folder / "scaffold"
    made = subprocess.run([servers.SERVERY, "init", str(scaffold)], capture_output=True, text=True, check=False)
    manifest = scaffold / "servery.yaml"
    note = "on the demo's manifest, median of 9"
    if made.returncode or not manifest.exists():
        manifest, note = artifacts.large_manifest(folder), "on a manifest with 20 MB of artifacts, median of 9"
    seconds: list[float] = []
    for _ in range(CHECKS):
        start = time.perf_counter()
        done = subprocess.run([servers.SERVERY, "check", str(manifest)], capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - start)
        if done.returncode:
            raise Failed(f"servery check {manifest}: {done.stdout}{done.stderr}")
    return Figure("servery check, wall time", statistics.median(seconds), "s", 0.7, note)


def shipper_rate(folder: Path) -> list[Figure]:
    """Records a second from a full spool into the ledger, by benchmarks/shipper.py."""
    script = Path(__file__).with_name("shipper.py")
    if not script.exists():
        return []
    done = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True, check=False)
    rate = re.search(r"([\d,]+)\s*(?:Records)?/s", done.stdout)
    if done.returncode or rate is None:
        raise Failed(f"{script.name}: {done.stdout}{done.stderr}")
    return [Figure("shipper, Records a second", float(rate[1].replace(",", "")), "/s")]

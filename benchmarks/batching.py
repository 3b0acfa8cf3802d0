"""What batching gives: Servery's rows a second beside onnxruntime's own with full batches, and the tail at 80 % load.

    python benchmarks/batching.py [--rounds 3] [--seconds 5] [--into FOLDER]

Two models of dense layers, so that a row alone waits for the weights and 32 rows together don't; each with all of Servery on one
core and the client on the other, and with one core for the Replica that runs the model and the other for everything else.
Bars: at least 0.8 of onnxruntime's rate on one core, and a p99 within 3 times the duration of a full batch.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import load
import machine
import servers
from artifacts import KEY, Ask, save, with_opsets, write_manifest
from books import Books
from open_loop import Seen
from processes import Failed, Tree

HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = 0, 1
FEATURES, BATCH = 64, 32
UNITS = (2048, 4096)
LAYERS = 3
RATE_BAR, TAIL_BAR, LOAD = 0.8, 3.0, 0.8


def main() -> int:
    parser = argparse.ArgumentParser(description="What batching gives on one core.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--into", type=Path, default=HERE / "results", help="folder for the text file")
    given = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    lines = [f"Batching on one core, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", *machine.facts(HERE.parent)]
    print("\n".join(lines), flush=True)
    text: list[str] = []
    well = True
    for units in UNITS:
        for apart in (False, True):
            with tempfile.TemporaryDirectory(prefix="servery-batching-") as folder:
                told, good = measure(Path(folder), units, apart, given.rounds, given.seconds)
            print("\n".join(["", *told, ""]), flush=True)
            text += ["", *told]
            well = well and good
    path = given.into / f"{datetime.now(UTC):%Y-%m-%d}-batching.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, *text]) + "\n")
    print(f"written to {path}")
    return 0 if well else 1


def measure(folder: Path, units: int, apart: bool, rounds: int, seconds: float) -> tuple[list[str], bool]:
    """The report, and whether every run was a good one; the bars are told, not asserted. `apart`: the Replica has a core."""
    model = folder / "dense.onnx"
    ask = _make(model, units, folder)
    session = _session(model)
    port, data = servers.free_port(), folder / "data"
    core = CLIENT_CORE if apart else SERVER_CORE
    where = "the Replica on a core of its own, the rest beside the client" if apart else "all of Servery on one core"
    title = f"{LAYERS} layers of {units} units, {where}"
    print(title, flush=True)
    with Tree(servers.servery(_manifest(model, port), data), core, folder / "servery.log", folder) as tree:
        tree.wait_until(lambda: servers.answers(port, "/v2/health/ready"), "servery")
        books = Books(data / "ledger.db")
        tree.wait_until(books.ready, "the ledger")
        tree.wait_until(lambda: bool(_replicas(tree)), "the Replica: what is slow at its warm-up moves to one")
        time.sleep(3)  # until it answers
        if apart:
            _pin(_replicas(tree), SERVER_CORE)
        alone, full, rates, tails, late, faults = [], [], [], [], [], []
        load.run(tree, port, ask, 2 * BATCH, 1)
        for at in range(rounds):
            with tree.still(), _on(SERVER_CORE):
                alone.append(_call_s(session, 1, seconds / 5))
                full.append(_call_s(session, BATCH, seconds / 2))
            since = time.time_ns()
            run = load.run(tree, port, ask, 2 * BATCH, seconds)
            settled = books.settle(tree, since, run.requests, 2 * BATCH)
            faults += [text for text in (run.fault, settled.fault) if text]
            rates.append(run.per_second)
            seen = _at(port, ask, LOAD * run.per_second, 2 * seconds, at)
            if seen.wrong or seen.broken or seen.answered != seen.sent:
                faults.append(f"open loop: {seen}")
            tails.append(seen.p99_us / 1e6)
            late.append(seen.late_p99_us)
            print(
                f"round {at + 1} of {rounds}: a batch of {BATCH} {full[-1] * 1e3:.1f} ms, Servery {rates[-1]:.0f} rows/s, "
                f"at {LOAD:.0%} p50 {seen.p50_us / 1e3:.1f} p99 {seen.p99_us / 1e3:.1f} ms",
                flush=True,
            )
    return [title, *_report(alone, full, rates, tails, late, faults)], not faults


def _replicas(tree: Tree) -> list[int]:
    return [pid for pid in tree.members() if "servery.wiring replica" in tree.command(pid).replace("\0", " ")]


def _pin(pids: list[int], core: int) -> None:
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def _report(
    alone: list[float], full: list[float], rates: list[float], tails: list[float], late: list[float], faults: list[str]
) -> list[str]:
    shares = [rate * batch_s / BATCH for rate, batch_s in zip(rates, full, strict=True)]
    times = [tail / batch_s for tail, batch_s in zip(tails, full, strict=True)]
    batch_s, rate, tail_s = statistics.median(full), statistics.median(rates), statistics.median(tails)
    alone_rate = 1 / statistics.median(alone)
    return [
        f"medians of {len(full)} rounds (least to most)",
        f"onnxruntime, 1 row a call        {alone_rate:7.0f} rows/s",
        f"onnxruntime, {BATCH} rows a call      {BATCH / batch_s:7.0f} rows/s, a call takes {batch_s * 1e3:.2f} ms",
        f"Servery, {2 * BATCH} callers of one row  {rate:7.0f} rows/s",
        f"of onnxruntime's full batches    {_held(shares, statistics.median(shares) >= RATE_BAR)} (bar {RATE_BAR})",
        f"p99 at {LOAD:.0%} of Servery's rate     {tail_s * 1e3:7.1f} ms",
        f"in full batches                  {_held(times, statistics.median(times) <= TAIL_BAR)} (bar {TAIL_BAR:g})",
        f"the client's own lag, p99        {max(late):7.0f} µs at most{'' if max(late) < 1000 else ': its times do not count'}",
        *(f"FAULT: {fault}" for fault in faults),
    ]


def _held(values: list[float], met: bool) -> str:
    spread = f"({min(values):.2f} to {max(values):.2f})"
    return f"{statistics.median(values):7.2f} {spread}: {'met' if met else 'missed'}"


def _make(model: Path, units: int, folder: Path) -> Ask:
    """The model, a request of one row, and the bytes of its answer."""
    dice = np.random.default_rng(5)
    sizes = [FEATURES, *[units] * LAYERS, 10]
    nodes, held, name = [], [], "x"
    for at, (wide, high) in enumerate(itertools.pairwise(sizes)):
        weights = dice.normal(scale=(2 / wide) ** 0.5, size=(wide, high)).astype(np.float32)
        held.append(numpy_helper.from_array(weights, f"w{at}"))
        nodes += [
            helper.make_node("MatMul", [name, f"w{at}"], [f"m{at}"]),
            helper.make_node("Relu", [f"m{at}"], [f"h{at}"]),
        ]
        name = f"h{at}"
    nodes.append(helper.make_node("ArgMax", [name], ["label"], axis=1, keepdims=0))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, FEATURES])]
    outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, [None])]
    save(with_opsets(helper.make_graph(nodes, "dense", inputs, outputs, held)), model)
    row = np.random.default_rng(7).normal(size=(1, FEATURES)).round(4).astype(np.float32)
    body, answer = folder / "row.json", folder / "answer.json"
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, FEATURES], "data": [float(str(v)) for v in row[0]]}
    body.write_bytes(msgspec.json.encode({"inputs": [tensor]}))
    label = np.asarray(_session(model).run(None, {"x": row})[0]).tolist()
    output = {"name": "label", "datatype": "INT64", "shape": [1], "data": label}
    answer.write_bytes(msgspec.json.encode({"model_name": "dense", "outputs": [output]}))
    return Ask("dense", body, answer=answer)


def _manifest(model: Path, port: int) -> Path:
    key = {"id": "k1", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    limits = {"requests_per_minute": 1_000_000_000, "concurrency_per_worker": 1000}
    declared = {
        "servery": 1,
        "server": {"http_port": port, "concurrency_per_worker": 1000},
        "models": {"dense-1": {"runtime": "onnx", "artifact": str(model), "queue": 1000, "batch": {"max_rows": BATCH}}},
        "routes": {"dense": {"tiers": [{"name": "only", "model": "dense-1"}]}},
        "tenants": {"bench": {"keys": [key], "limits": limits}},
    }
    return write_manifest(model.with_name("batching.yaml"), declared)


def _session(model: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _call_s(session: ort.InferenceSession, rows: int, seconds: float) -> float:
    """The mean duration of a call with so many rows, over `seconds`."""
    given = {"x": np.random.default_rng(8).normal(size=(rows, FEATURES)).astype(np.float32)}
    session.run(None, given)
    calls, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        session.run(None, given)
        calls += 1
    return passed / calls


@contextmanager
def _on(core: int) -> Generator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _at(port: int, ask: Ask, rate: float, seconds: float, seed: int) -> Seen:
    path = f"/v2/models/{ask.route}/infer"
    script = str(HERE / "open_loop.py")
    command = [sys.executable, script, str(port), path, str(ask.body), str(ask.answer), KEY, str(rate), str(seconds)]
    done = subprocess.run([*command, str(seed)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"open_loop.py: {done.stderr[-1000:]}")
    return msgspec.json.decode(done.stdout, type=Seen)


if __name__ == "__main__":
    sys.exit(main())

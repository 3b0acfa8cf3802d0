"""Busy and idle dollars add up to hours × price, to the pico-dollar, whatever happened to the worker."""

from __future__ import annotations

import json
import time
from pathlib import Path

from typer.testing import CliRunner

import artifacts
from living import Living, until
from server import tensor
from servery.cli.app import build
from servery.terms.money import NS_PER_HOUR, from_usd

WITHIN_NS = 2_000_000_000
PRICES = {"quick": 1.5, "slow": 0.7}


def test_the_bill_is_busy_plus_idle(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "quick.onnx")
    artifacts.slow(tmp_path / "slow.onnx")
    models = {
        name: {"runtime": "onnx", "artifact": f"{name}.onnx", "price": {"usd_per_hour": price}}
        for name, price in PRICES.items()
    }
    quick = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]}).encode()
    slow = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [60])]}).encode()
    with Living(tmp_path, {"models": models}) as server:
        first_ready = time.time_ns()
        for _ in range(40):
            assert server.infer("quick", quick).status == 200
        for _ in range(3):
            assert server.infer("slow", slow).status == 200
        idle_until = time.monotonic() + 3.5  # idle, and then killed: its hours count up to here
        until(lambda: time.monotonic() > idle_until)
        killed = time.time_ns()
        server.child("worker").kill()
        until(lambda: server.log_lines("starts again"))
        server.await_ready()
        second_ready = time.time_ns()
        assert server.infer("quick", quick).status == 200
        idle_until = time.monotonic() + 2.5
        until(lambda: time.monotonic() > idle_until)
        stopped = time.time_ns()
        assert server.stop() == 0

    lives = server.records("SELECT model, since_ns, until_ns, pico_per_hour FROM uptime ORDER BY model, since_ns")
    assert [life[0] for life in lives] == ["quick", "quick", "slow", "slow"]
    for first, second in (lives[:2], lives[2:]):
        assert abs(first[1] - first_ready) < WITHIN_NS
        assert abs(first[2] - killed) < WITHIN_NS, (first[2] - killed) / 1e9
        assert abs(second[1] - second_ready) < WITHIN_NS
        assert abs(second[2] - stopped) < WITHIN_NS

    attempts = [one for (text,) in server.records("SELECT attempts FROM records") for one in json.loads(text)]
    assert len(attempts) == 44
    done = CliRunner().invoke(build("report"), ["report", "--data", str(server.data), "--since", "all", "-o", "json"])
    report = json.loads(done.stdout)
    assert [line["model"] for line in report["idle"]] == ["quick", "slow"]
    for line in report["idle"]:
        name = line["model"]
        price = from_usd(PRICES[name])
        bill = sum(((until_ns - since_ns) * price + NS_PER_HOUR // 2) // NS_PER_HOUR
                   for model, since_ns, until_ns, _ in lives if model == name)  # fmt: skip
        assert line["bill_pico"] == bill
        assert line["busy_pico"] == sum(one["pico_usd"] for one in attempts if one["model"] == name)
        assert line["busy_pico"] + line["idle_pico"] == bill
        assert line["idle_pico"] > 0
    assert report["bill_pico"] == report["busy_pico"] + report["idle_pico"]


def test_a_replica_is_billed_once_whoever_calls_it(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "quick.onnx")
    declared = {"runtime": "onnx", "artifact": "quick.onnx", "replicas": 1, "price": {"usd_per_hour": 1.5}}
    quick = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]}).encode()

    def answers() -> bool:
        return server.infer("there", quick).status == 200

    with Living(tmp_path, {"models": {"there": declared}}) as server:
        began = time.time_ns()
        until(answers)
        server.child("worker").kill()  # the Replica lives on
        until(lambda: server.log_lines("the worker-0 ended"))
        server.await_ready()
        until(answers)
        server.replicas()[0].kill()
        killed = time.time_ns()
        until(lambda: server.log_lines("the replica there/1#0 ended"))
        until(answers, said=server.written)
        idle_until = time.monotonic() + 1.5
        until(lambda: time.monotonic() > idle_until)
        stopped = time.time_ns()
        assert server.stop() == 0

    lives = server.records("SELECT run, since_ns, until_ns FROM uptime WHERE model = 'there' ORDER BY since_ns")
    first, second = lives
    assert first[0] != second[0]
    assert abs(first[1] - began) < WITHIN_NS
    assert abs(first[2] - killed) < WITHIN_NS
    assert killed < second[1] < stopped
    assert abs(second[2] - stopped) < WITHIN_NS

"""What runs for months by itself: memory that stays, logs that stay readable and tell no secret."""

from __future__ import annotations

import json
import re
import statistics
import time
from hashlib import sha256
from pathlib import Path

import pytest

import artifacts
from living import Living, running, until
from server import tensor

KEY = "a-key-that-must-never-be-written-down"
WRONG = "a-wrong-key-that-must-not-be-written-either"
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d (supervisor|worker-0|shipper) (INFO|WARNING|ERROR) servery[.\w]*: \S"
)
SAID = re.compile(r"starting on |serving on |stopped$")


def test_an_idle_worker_is_small(tmp_path: Path) -> None:
    server = Living(tmp_path, {})
    with running(server.begin()):
        until(lambda: server.log_lines("no models are declared"), said=server.written)
        worker = server.child("worker")
        assert worker.memory_full_info().pss < 120 * 2**20
        assert server.stop() == 0


def test_an_error_storm_leaves_no_memory_behind(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "quick.onnx")
    with Living(tmp_path, {"models": {"quick": {"runtime": "onnx", "artifact": "quick.onnx"}}}) as server:
        worker = server.child("worker")
        client = server.client("quick", json.dumps({"inputs": [tensor("y", "FP32", [1, 30], [0.5] * 30)]}))
        until(lambda: len(client.answers()) > 3_000, 50, server.written)
        before = worker.memory_info().rss
        until(lambda: len(client.answers()) > 10_000, 50, server.written)
        grown = worker.memory_info().rss - before
        answers = client.stop()
        assert {answer.status for answer in answers} == {400}
        assert grown < 7_000 * 500, grown
        assert server.stop() == 0
        assert len(server.ids()) == len(answers)
        assert server.log_lines("WARNING|ERROR|Traceback") == []


def changed_for(tmp_path: Path, minutes: float) -> tuple[dict[str, list[float]], int]:
    """MiB of each process, every few rounds of loads, unloads, answers and errors; and how many rounds there were."""
    first, second = [artifacts.constant(tmp_path / f"{at}.onnx", [at, 1 - at]).read_bytes() for at in (0.25, 0.75)]
    file = tmp_path / "m" / "1" / "model.onnx"
    artifacts.constant(file, [0.5, 0.5])
    artifacts.slow(tmp_path / "slow.onnx")
    models = {"m": {"runtime": "onnx", "artifact": "m"}, "slow": {"runtime": "onnx", "artifact": "slow.onnx"}}
    good = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]})
    bad = json.dumps({"inputs": [tensor("y", "FP32", [1, 30], [0.5] * 30)]})
    taken: dict[str, list[float]] = {"worker": [], "controller": [], "shipper": []}
    with Living(tmp_path, {"models": models}) as server:
        processes = {kind: server.child(kind) for kind in taken}
        rounds, end = 0, time.monotonic() + minutes * 60
        while time.monotonic() < end:
            rounds += 1
            file.write_bytes((first, second)[rounds % 2])
            assert server.ask("POST", "/v2/repository/models/m/load", b"{}").status == 200
            for _ in range(20):
                assert server.infer("m", good.encode()).status == 200
                assert server.infer("m", bad.encode()).status == 400
            assert server.ask("POST", "/v2/repository/models/slow/unload", b"{}").status == 200
            assert server.infer("slow", bad.encode()).status in (400, 503)
            assert server.ask("POST", "/v2/repository/models/slow/load", b"{}").status == 200
            if rounds % 5 == 0:
                for kind, process in processes.items():
                    taken[kind].append(process.memory_full_info().uss / 2**20)
        assert server.stop() == 0
        assert server.log_lines("ERROR|Traceback") == []
    return taken, rounds


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_ten_minutes_of_loads_unloads_and_errors_leave_no_memory_behind(tmp_path: Path) -> None:
    taken, rounds = changed_for(tmp_path, 10)
    each = {}
    for kind, mib in taken.items():
        settled = mib[len(mib) // 3 :]  # until then the allocator fills its pools
        slope = statistics.linear_regression(range(len(settled)), settled).slope / 5
        each[kind] = slope * 1024
        print(f"{kind}: {settled[0]:.1f} to {settled[-1]:.1f} MiB, {each[kind]:.1f} KiB a round of {rounds}")
    assert max(each.values()) < 10, each  # KiB a round of two loads, an unload, 20 answers and 21 errors


def test_logs_hold_a_line_for_each_event_and_no_secret(tmp_path: Path) -> None:
    artifacts.division(tmp_path / "division.onnx")
    tenants = {"acme": {"keys": [{"id": "k1", "sha256": sha256(KEY.encode()).hexdigest()}]}}
    models = {"division": {"runtime": "onnx", "artifact": "division.onnx", "expose": True}}
    body = json.dumps({"inputs": [tensor("a", "INT64", [1], [1]), tensor("b", "INT64", [1], [0])]}).encode()
    with Living(tmp_path, {"models": models, "tenants": tenants}) as server:
        known = {"authorization": f"Bearer {KEY}"}
        assert server.infer("division", body, known).status == 502  # a division by zero
        assert server.infer("division", b"{", known).status == 400
        assert server.infer("division", body, {"x-api-key": WRONG}).status == 401
        assert server.get(f"/v2/models/{WRONG}", authorization=f"Bearer {KEY}").status == 404
        server.raw(b"\x16\x03\x01 nonsense\r\n\r\n")
        server.child("worker").kill()
        until(lambda: server.log_lines("starts again"))
        server.await_ready()
        assert server.stop() == 0
        lines = server.written().splitlines()
        assert [line for line in lines if not LINE.match(line) and not SAID.match(line)] == []
        assert len([line for line in lines if "model_failed" in line]) == 1
        files = [path for path in (server.folder).rglob("*") if path.is_file()]
        assert [path for path in files if KEY.encode() in path.read_bytes()] == []
        assert WRONG not in server.written()

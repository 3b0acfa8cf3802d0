"""What runs for months by itself: memory that stays, logs that stay readable and tell no secret."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path

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

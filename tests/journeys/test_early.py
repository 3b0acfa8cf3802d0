"""Signals at bad moments: while it starts, while models load, while a process hangs."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import artifacts
from living import Asked, Living, end, running, until, up
from server import tensor

QUICK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]})


def declared(folder: Path, **server: Any) -> dict[str, Any]:
    artifacts.classifier(folder / "quick.onnx")
    return {"models": {"quick": {"runtime": "onnx", "artifact": "quick.onnx"}}, "server": server}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_of_the_start(tmp_path: Path, number: int) -> None:
    """From the supervisor's first word to a worker that serves: it ends by itself, at once, with 0."""
    for delay_ms in (0, 30, 120, 300, 600, 900):
        server = Living(tmp_path, declared(tmp_path))
        with running(server.begin()):
            (tmp_path / "log.txt").write_text("")
            until(lambda server=server: server.log_lines("starting on"), said=server.written)
            assert server.process is not None
            family = psutil.Process(server.process.pid).children()
            time.sleep(delay_ms / 1000)  # what is tested is the moment itself
            family += psutil.Process(server.process.pid).children()
            began = time.monotonic()
            server.signal(number)
            assert server.wait() in {0, -number} if delay_ms == 0 else server.wait() == 0
            assert time.monotonic() - began < 20
            end(family)
            assert "Traceback" not in server.written()


def test_a_signal_while_a_model_loads(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "quick.onnx")
    artifacts.long_to_load(tmp_path / "long.onnx", 60_000)
    models = {name: {"runtime": "onnx", "artifact": f"{name}.onnx"} for name in ("quick", "long")}
    server = Living(tmp_path, {"models": models})
    with running(server.begin()):
        until(lambda: server.status_of("live") == 200, said=server.written)
        until(lambda: server.infer("quick", QUICK.encode()).status == 200)
        assert server.get("/v2/models/long/ready").status == 503
        began = time.monotonic()
        server.signal()
        assert server.wait() == 0
        assert time.monotonic() - began < 15
        assert ("served",) in server.records("SELECT outcome FROM records")
        assert server.spool() == []


def test_the_folder_stays_taken_while_a_child_is_left(tmp_path: Path) -> None:
    artifacts.slow(tmp_path / "slow.onnx")
    models = {"slow": {"runtime": "onnx", "artifact": "slow.onnx"}}
    server = Living(tmp_path, {"models": models, "server": {"drain": {"limit_s": 6}}})
    with running(server):
        server.begin().await_ready()
        assert server.process is not None
        worker = server.child("worker")
        asked = Asked(server, "slow", json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [60_000.0])]}))
        server.await_busy(1.0)  # so that the worker has something to end
        server.signal(signal.SIGKILL)
        server.wait()
        done = up(server.manifest, "--port", 0, "--data", server.data)
        assert worker.is_running()
        assert done.returncode == 1
        assert f"process id {server.process.pid}; that one has ended" in done.stderr
        end([worker])
        asked.join()
        server.begin()
        server.await_ready()
        assert server.stop() == 0


def test_a_worker_that_hangs_is_killed_at_the_second_signal(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path)) as server:
        done = [server.infer("quick", QUICK.encode()).headers["servery-record-id"] for _ in range(10)]
        server.await_stored(10)
        server.child("worker").suspend()
        server.signal()
        until(lambda: server.log_lines("a second signal stops at once"))
        server.signal()
        assert server.wait(8) == 1
        server.begin().await_ready()
        assert server.stop() == 0
        assert sorted(done) == sorted(server.ids())


@pytest.mark.proof
def test_a_worker_that_hangs_is_killed_at_the_end_of_its_limit(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path, drain={"limit_s": 0.5})) as server:
        assert server.infer("quick", QUICK.encode()).status == 200
        server.await_stored(1)
        server.child("worker").suspend()
        server.signal()
        assert server.wait(30) == 1
        assert server.log_lines("the worker-0 didn't stop within 15.5 s and is killed")
        assert len(server.ids()) == 1
        assert server.spool() == []


def test_a_large_request_is_cut_as_plainly_as_a_small_one(tmp_path: Path) -> None:
    """A body above 64 KB takes the other way through the HTTP server."""
    artifacts.slow(tmp_path / "slow.onnx")
    body = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [15_000])]}) + " " * 100_000
    drain = {"drain": {"limit_s": 1}}
    models = {"slow": {"runtime": "onnx", "artifact": "slow.onnx"}}
    with Living(tmp_path, {"models": models, "server": drain}) as server:
        client = server.client("slow", body, 1)
        server.await_busy()
        server.signal()
        assert server.wait(8) == 0
        client.stop()
        assert server.records("SELECT outcome, reason FROM records") == [("failed", "draining")]
        assert "Traceback" not in server.written()
        assert len(server.written().splitlines()) < 8

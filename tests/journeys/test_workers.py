"""Several workers on one port: callers see one server."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import psutil

import artifacts
from living import Living, servery, until
from server import tensor

ASK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]})


def begin(folder: Path, workers: int = 2, **server: Any) -> Living:
    artifacts.classifier(folder / "m.onnx")
    manifest = {"models": {"m": {"runtime": "onnx", "artifact": "m.onnx"}}, "server": server}
    return Living(folder, manifest, "--workers", str(workers))


def connections(worker: psutil.Process, port: int) -> int:
    held = worker.net_connections("tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in held)


def test_all_workers_answer_and_are_counted_together(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        client = server.client("m", ASK, 32)
        until(lambda: len(client.served()) > 500)
        assert all(connections(worker, server.port) for worker in server.workers())
        answers = client.stop()
        assert {answer.status for answer in answers} == {200}
        counted = server.get("/v2/models/m/stats").json["model_stats"][0]["inference_count"]
        assert counted == len(answers)
        assert server.stop() == 0
        assert {answer.record for answer in answers} == set(server.ids())
        runs = {name[0][-10:] for name in server.records("SELECT DISTINCT run FROM uptime")}
        assert len(runs) == 2


def test_a_worker_that_is_told_to_stop_drops_nobody(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        client = server.client("m", ASK, 16)
        until(lambda: len(client.served()) > 100)
        for number in (0, 1):
            worker = server.child(f'worker {{.*"number":{number}')
            worker.send_signal(signal.SIGTERM)
            worker.wait(10)
            until(lambda gone=worker: len(server.workers()) == 2 and gone not in server.workers(), said=server.written)
            served = len(client.served())
            until(lambda served=served: len(client.served()) > served + 100)
        assert {answer.status for answer in client.stop()} == {200}


def test_a_worker_that_is_killed_costs_what_it_had_under_way(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        client = server.client("m", ASK, 16)
        until(lambda: len(client.served()) > 100)
        worker = server.workers()[0]
        held = connections(worker, server.port)
        worker.kill()
        served = len(client.served())
        until(lambda: len(client.served()) > served + 100)
        answers = client.stop()
        assert {answer.status for answer in answers} <= {0, 200}
        assert sum(answer.status == 0 for answer in answers) <= held


def test_a_change_is_in_effect_in_all(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        server.manifest.write_text(server.manifest.read_text().replace('"m":', '"n":'))
        done = servery("apply", str(server.manifest), "--data", str(server.data))
        assert "epoch 2 is in effect in 2 workers" in done.stdout, done.stdout + done.stderr
        for _ in range(20):
            assert server.infer("n", ASK.encode()).status == 200


def test_how_many_is_declared_or_counted(tmp_path: Path) -> None:
    with begin(tmp_path, 3) as server:
        assert len(server.workers()) == 3
    assert "a number from 1 to 1024, or auto" in refused(tmp_path, "none")


def refused(folder: Path, workers: str) -> str:
    done = servery("up", str(folder / "servery.yaml"), "--workers", workers)
    assert done.returncode == 1
    return done.stderr

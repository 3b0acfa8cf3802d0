"""Several workers on one port: callers see one server."""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import artifacts
import living
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

        def counted() -> int:
            return server.get("/v2/models/m/stats").json["model_stats"][0]["inference_count"]

        until(lambda: counted() == len(answers), said=counted)  # each worker, once the controller has met it
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
        done = living.apply(server)
        assert "epoch 2 is in effect in 2 workers" in done.stdout, done.stdout + done.stderr
        for _ in range(20):
            assert server.infer("n", ASK.encode()).status == 200


def test_how_many_is_declared_or_counted(tmp_path: Path) -> None:
    with begin(tmp_path, 3) as server:
        assert len(server.workers()) == 3
    assert "a number from 1 to 1024, or auto" in refused(tmp_path, "none")


KEY = "servery-test-" + "k" * 32


def limited(folder: Path, **limits: int) -> Living:
    artifacts.classifier(folder / "m.onnx")
    artifacts.slow(folder / "slow.onnx")
    key = {"id": "main", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    manifest = {
        "models": {name: {"runtime": "onnx", "artifact": f"{name}.onnx", "expose": True} for name in ("m", "slow")},
        "tenants": {"acme": {"keys": [key], "limits": limits}},
    }
    return Living(folder, manifest, "--workers", "2")


def pinned(server: Living) -> list[http.client.HTTPConnection]:
    """A connection to each worker."""
    found: dict[int, http.client.HTTPConnection] = {}
    extra: list[http.client.HTTPConnection] = []
    while len(found) < 2:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.connect()
        ours = connection.sock.getsockname()[1]
        for number, worker in enumerate(server.workers()):
            if ask(connection, "GET", "/v2/health/live") and any(
                one.raddr and one.raddr.port == ours for one in worker.net_connections("tcp")
            ):
                found.setdefault(number, connection)
        extra.append(connection)
        assert len(extra) < 200
    for connection in extra:
        if connection not in found.values():
            connection.close()
    return list(found.values())


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> int:
    connection.request(method, path, body, {"authorization": f"Bearer {KEY}"})
    reply = connection.getresponse()
    reply.read()
    return reply.status


@pytest.mark.parametrize("most", [7, 300])
def test_a_limit_holds_over_all_workers_exactly(tmp_path: Path, most: int) -> None:
    with limited(tmp_path, requests_per_minute=most) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        first, second = pinned(server)
        statuses = [ask((first, second)[turn % 2], "POST", "/v2/models/m/infer", ASK) for turn in range(most + 30)]
        # What one worker holds while the other one refuses comes back within two seconds.
        assert sum(status == 200 for status in statuses) >= most - max(2, most // 20)
        until(
            lambda: (
                ask(first, "POST", "/servery/v1/feedback", "{}") == 429
                and ask(second, "POST", "/v2/models/m/infer", ASK) == 429
            )
        )
        for connection in (first, second):
            connection.close()
        assert server.stop() == 0
        served, refused = (
            server.records(f"SELECT count(*) FROM records WHERE outcome = '{outcome}'")[0][0]
            for outcome in ("served", "refused")
        )
        assert served <= most
        assert refused >= 1


def test_a_caller_of_one_worker_gets_the_whole_limit(tmp_path: Path) -> None:
    with limited(tmp_path, requests_per_minute=200) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        first, second = pinned(server)
        statuses = [ask(first, "POST", "/v2/models/m/infer", ASK) for _ in range(210)]
        assert statuses == [200] * 200 + [429] * 10
        assert ask(second, "POST", "/v2/models/m/infer", ASK) == 429
        for connection in (first, second):
            connection.close()


def test_so_many_at_once_are_meant_of_each_worker(tmp_path: Path) -> None:
    slowly = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [500.0])]})
    with limited(tmp_path, concurrency_per_worker=1) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        connections_ = [*pinned(server), *pinned(server)]
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, one, "POST", "/v2/models/slow/infer", slowly) for one in connections_]
            statuses = [one.result() for one in asked]
        assert sorted(statuses) == [200, 200, 429, 429]
        for connection in connections_:
            assert ask(connection, "POST", "/v2/models/m/infer", ASK) == 200
            connection.close()


def refused(folder: Path, workers: str) -> str:
    done = servery("up", str(folder / "servery.yaml"), "--workers", workers)
    assert done.returncode == 1
    return done.stderr

"""Models in Replicas, as callers see them: killed, hanging, crashing, silent, draining."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import artifacts
from lines import rows
from living import Asked, Living, until
from server import Reply, Server, tensor

QUICK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]})


def moody_body(*ms: float) -> str:
    return json.dumps({"inputs": [tensor("x", "FP32", [len(ms), 1], ms)]})


def manifest(folder: Path, **moody: Any) -> dict[str, Any]:
    """A quick model in process, and a moody one in Replicas."""
    artifacts.classifier(folder / "quick.onnx")
    quick = {"runtime": "onnx", "artifact": "quick.onnx"}
    return {"models": {"quick": quick, "moody": {**artifacts.moody(folder), **moody}}}


def process_of(reply: Reply) -> int:
    assert reply.status == 200, reply.body
    return int(reply.tensors()["process"][0])


def await_answer(server: Server, name: str, body: str) -> Reply:
    """The first answer that is neither "not now" nor a call that the end of a Replica cut short."""
    return until(lambda: reply if (reply := server.infer(name, body.encode())).status not in (502, 503) else None)


def await_all(server: Living, count: int) -> set[int]:
    """The processes of all Replicas, once each has answered."""
    seen: set[int] = set()

    def ask() -> bool:
        reply = server.infer("moody", moody_body(1).encode())
        if reply.status == 200:
            seen.add(process_of(reply))
        return len(seen & {one.pid for one in server.replicas()}) == count

    until(ask, said=server.written)
    return {one.pid for one in server.replicas()}


def test_answers_as_in_process(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "model.onnx")
    here = {"runtime": "onnx", "artifact": "model.onnx"}
    draw = np.random.default_rng(1)
    with Server(tmp_path, {"models": {"here": here, "there": {**here, "isolation": "dedicated"}}}) as server:
        for size in (1, 3, 500):
            x = draw.standard_normal((size, 30)).astype(np.float32)
            body = json.dumps({"inputs": [tensor("x", "FP32", x.shape, x.ravel().tolist())]})
            ours, theirs = server.infer("here", body.encode()), server.infer("there", body.encode())
            assert (ours.status, theirs.status) == (200, 200), theirs.body
            for name, array in ours.tensors().items():
                np.testing.assert_array_equal(array, theirs.tensors()[name])
        assert server.stop() == 0
    assert "Traceback" not in server.written()


def test_calls_go_to_all_replicas(tmp_path: Path) -> None:
    with Living(tmp_path, manifest(tmp_path, replicas=2)) as server:
        await_all(server, 2)
        asked = [Asked(server, "moody", moody_body(100)) for _ in range(8)]
        assert [one.status() for one in asked] == [200] * 8
        assert {process_of(one.reply) for one in asked if one.reply} == {one.pid for one in server.replicas()}


def test_a_killed_replica_costs_no_call_while_there_is_another(tmp_path: Path) -> None:
    with Living(tmp_path, manifest(tmp_path, replicas=2)) as server:
        client = server.client("moody", moody_body(5))
        for _ in range(3):
            served = len(client.served())
            until(lambda served=served: len(client.served()) > served + 50, said=server.written)
            await_all(server, 2)
            server.replicas()[0].kill()
        answers = client.stop()
        await_all(server, 2)
        assert server.stop() == 0
        assert {answer.status for answer in answers} == {200}
        assert {answer.record for answer in answers} <= set(server.ids())
        assert len(server.log_lines(r"the replica moody/1#\d ended by signal 9; it starts again")) == 3


def test_the_only_replica_killed_is_told_and_comes_back(tmp_path: Path) -> None:
    with Living(tmp_path, manifest(tmp_path)) as server:
        asked = Asked(server, "moody", moody_body(20_000))
        until(lambda: server.replicas()[0].num_threads() and server.infer("quick", QUICK.encode()).status == 200)
        client = server.client("moody", moody_body(2))
        quick = server.client("quick", QUICK)
        first = server.replicas()[0]
        first.kill()
        assert asked.status() in (502, 503)
        assert process_of(await_answer(server, "moody", moody_body(1))) != first.pid
        now = len(client.served())
        until(lambda: len(client.served()) > now + 5)
        answers = client.stop()
        assert {answer.status for answer in answers} <= {200, 502, 503}
        assert {answer.status for answer in quick.stop()} == {200}
        assert server.stop() == 0
        assert {answer.record for answer in answers} <= set(server.ids())
        assert "Traceback" not in server.written()


def test_a_call_that_hangs_harms_nobody_else(tmp_path: Path) -> None:
    with Living(tmp_path, manifest(tmp_path, call_limit_s=0.5)) as server:
        quick = server.client("quick", QUICK)
        before = process_of(server.infer("moody", moody_body(1).encode()))
        hanging = Asked(server, "moody", moody_body(100_000))
        assert hanging.status() == 502
        assert process_of(await_answer(server, "moody", moody_body(1))) != before
        assert {answer.status for answer in quick.stop()} == {200}
        assert server.log_lines(r"moody: one call ran for longer than 0.5 s \(call_limit_s\); this Replica is replaced")
        assert server.log_lines("the replica moody/1#0 ended with exit code 75")
        assert server.stop() == 0
    found = rows(server.data / "ledger.db", "SELECT reason, count(*) FROM records WHERE outcome = 'failed' GROUP BY 1")
    assert found == [("model_failed", 1)]


def test_a_call_that_kills_whoever_runs_it_ends_at_the_second(tmp_path: Path) -> None:
    with Living(tmp_path, manifest(tmp_path, replicas=3)) as server:
        before = await_all(server, 3)
        assert server.infer("moody", moody_body(-1).encode()).status == 502
        assert process_of(server.infer("moody", moody_body(1).encode())) in before
        until(lambda: len({one.pid for one in server.replicas()} - before) == 2, said=server.written)
        assert server.stop() == 0


def test_a_silent_replica_is_replaced(tmp_path: Path) -> None:
    health = {"interval_s": 0.2, "limit_s": 0.2, "threshold": 2}
    with Living(tmp_path, manifest(tmp_path, replicas=2, health=health)) as server:
        silent = server.replicas()[0]
        silent.suspend()
        until(lambda: server.log_lines("didn't answer \\d+ times in a row and is killed"), said=server.written)
        until(lambda: len([one for one in server.replicas() if one.pid != silent.pid]) == 2, said=server.written)
        assert server.infer("moody", moody_body(1).encode()).status == 200


def test_what_is_queued_is_finished_by_a_drain(tmp_path: Path) -> None:
    with Living(tmp_path, manifest(tmp_path)) as server:
        asked = [Asked(server, "moody", moody_body(150)) for _ in range(8)]
        until(lambda: server.get("/v2/health/live").status == 200)
        busy = server.client("moody", moody_body(3))
        until(lambda: len(busy.answers()) > 3 or any(not one.is_alive() for one in asked), said=server.written)
        replica = server.replicas()[0]
        server.signal()
        replica.send_signal(signal.SIGTERM)  # as a service manager may do to every process
        assert server.wait() == 0
        assert [one.status() for one in asked] == [200] * 8
        busy.stop()
        assert "Traceback" not in server.written()
    told = {one.reply.headers["servery-record-id"] for one in asked if one.reply}
    assert told <= set(server.ids())


def test_when_the_supervisor_is_killed_a_replica_outlives_the_worker_that_calls_it(tmp_path: Path) -> None:
    with Living(tmp_path, manifest(tmp_path)) as server:
        asked = [Asked(server, "moody", moody_body(300)) for _ in range(4)]
        worker, replica = server.child("worker"), server.replicas()[0]
        until(lambda: any(not one.is_alive() for one in asked))
        server.signal(signal.SIGKILL)
        assert [one.status() for one in asked] == [200] * 4
        until(lambda: not worker.is_running() and not replica.is_running())


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    artifacts.unknown_operator(tmp_path / "odd.onnx")
    declared = manifest(tmp_path)
    declared["models"]["odd"] = {"runtime": "onnx", "artifact": "odd.onnx", "replicas": 2}
    with Living(tmp_path, declared) as server:
        state = server.get("/v2/models/odd/ready")
        assert state.status == 503
        assert "onnxruntime can't load odd.onnx" in " ".join(state.json["reasons"])
        refused = server.infer("odd", json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [1])]}).encode())
        assert refused.status == 503
        assert "onnxruntime can't load odd.onnx" in refused.error
        assert server.infer("moody", moody_body(1).encode()).status == 200
        assert len(server.replicas()) == 3  # it stays, so that its reason reaches callers
        assert server.stop() == 0


@pytest.mark.parametrize("cheap_there", [True, False])
def test_a_cascade_over_both_placements(tmp_path: Path, cheap_there: bool) -> None:
    artifacts.classifier(tmp_path / "cheap.onnx", seed=1, sharpness=0.3)
    artifacts.classifier(tmp_path / "large.onnx", seed=2, sharpness=3)
    confidence = {"confidence": {"output": "probabilities"}, "prediction": {"output": "label"}}
    cheap: dict[str, Any] = {"runtime": "onnx", "artifact": "cheap.onnx", **confidence}
    large: dict[str, Any] = {"runtime": "onnx", "artifact": "large.onnx", **confidence}
    (cheap if cheap_there else large)["replicas"] = 1
    tiers = [{"name": "cheap", "model": "cheap", "accept": {"confidence": 0.7}}, {"name": "large", "model": "large"}]
    route = {"tiers": tiers, "policy": {"kind": "cascade"}}
    x = np.random.default_rng(3).standard_normal((64, 30)).astype(np.float32)
    body = json.dumps({"inputs": [tensor("x", "FP32", x.shape, x.ravel().tolist())]}).encode()
    with Server(tmp_path, {"models": {"cheap": cheap, "large": large}, "routes": {"route": route}}) as server:
        reply = server.infer("route", body)
        counts = dict(part.split("=") for part in reply.headers["servery-tier"].split(","))
        assert set(counts) == {"cheap", "large"}
        sure, other = server.infer("cheap", body).tensors(), server.infer("large", body).tensors()
        accepted = sure["probabilities"].max(axis=1) >= 0.7
        np.testing.assert_array_equal(reply.tensors()["label"], np.where(accepted, sure["label"], other["label"]))
        assert counts["cheap"] == str(int(accepted.sum()))

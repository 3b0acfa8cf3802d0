"""The life of a Servery: live, ready, drained, stopped at once."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import artifacts
from lines import rows
from living import Asked, Living, end, running, until
from server import post, read_all, split_replies, tensor

QUICK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]})


def slow_body(ms: int) -> str:
    return json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [ms])]})


def manifest(folder: Path, **server: Any) -> dict[str, Any]:
    """A quick model and a slow one, both with a price."""
    artifacts.classifier(folder / "quick.onnx")
    artifacts.slow(folder / "slow.onnx")
    return {
        "models": {
            "quick": {"runtime": "onnx", "artifact": "quick.onnx", "price": {"usd_per_hour": 1.5}},
            "slow": {"runtime": "onnx", "artifact": "slow.onnx", "price": {"usd_per_hour": 0.7}},
        },
        "server": server,
    }


def test_live_at_once_and_ready_once_warm(tmp_path: Path) -> None:
    artifacts.long_to_load(tmp_path / "long.onnx")
    models = {"long": {"runtime": "onnx", "artifact": "long.onnx"}}
    server = Living(tmp_path, {"models": models})
    with running(server.begin()):
        until(lambda: server.status_of("live") == 200, said=server.written)
        early = server.get("/v2/health/ready")
        assert early.status == 503
        assert early.json["ready"] is False
        assert "loading and warming up" in " ".join(early.json["reasons"])
        refused = server.infer("long", json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [1.0])]}).encode())
        assert refused.status == 503
        assert "retry-after" in refused.headers
        assert server.get("/v2/models/long/ready").status == 503
        server.await_ready()
        assert server.get("/v2/models/long/ready").status == 200
        assert server.stop() == 0


def test_no_models_are_live_but_never_ready(tmp_path: Path) -> None:
    server = Living(tmp_path, {})
    with running(server.begin()):
        until(lambda: server.log_lines("unready no models are declared"), said=server.written)
        assert server.status_of("live") == 200
        reply = server.get("/v2/health/ready")
        assert (reply.status, reply.json["reasons"]) == (503, ["no models are declared"])
        assert server.stop() == 0


def test_a_corrupt_artifact_costs_its_own_model_only(tmp_path: Path) -> None:
    declared = manifest(tmp_path)
    (tmp_path / "slow.onnx").write_bytes(b"\x08\x08 not a model")
    # This one can be read, but not run: onnxruntime has no such operator.
    artifacts.unknown_operator(tmp_path / "odd.onnx")
    declared["models"]["odd"] = {"runtime": "onnx", "artifact": "odd.onnx"}
    with Living(tmp_path, declared) as server:
        assert server.infer("quick", QUICK.encode()).status == 200
        for name, why in (("slow", "not an ONNX model"), ("odd", "can't load")):
            state = server.get(f"/v2/models/{name}/ready")
            assert state.status == 503
            assert why in " ".join(state.json["reasons"])
            assert server.infer(name, slow_body(1).encode()).status == 503
        assert server.stop() == 0
        assert "Traceback" not in server.written()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_drops_nothing(tmp_path: Path, number: int) -> None:
    with Living(tmp_path, manifest(tmp_path)) as server:
        quick = server.client("quick", QUICK)
        until(lambda: len(quick.served()) > 200)
        asked = [Asked(server, "slow", slow_body(250)) for _ in range(6)]  # one runs, the others queue
        until(lambda: len(quick.served()) > 400)
        server.signal(number)
        until(lambda: server.status_of("live") == 0)
        assert server.wait() == 0
        assert [one.status() for one in asked] == [200] * 6
        answers = quick.stop()
    assert {answer.status for answer in answers} <= {200, 0, 503}  # 0: refused, or closed before it was read
    told = [one.reply.headers["servery-record-id"] for one in asked if one.reply]
    told += [answer.record for answer in answers if answer.status]
    found = server.ids()
    assert len(found) == len(set(found))
    assert set(told) <= set(found)
    assert server.spool() == []
    assert "Traceback" not in server.written()


def test_grace_keeps_accepting_while_unready(tmp_path: Path) -> None:
    with Living(tmp_path, manifest(tmp_path, drain={"grace_s": 1.5})) as server:
        began = time.monotonic()
        server.signal()
        until(lambda: server.status_of("ready") == 503)
        assert server.get("/v2/health/ready").json["reasons"] == ["the worker is stopping"]
        while time.monotonic() - began < 1.2:
            assert server.infer("quick", QUICK.encode()).status == 200
        assert server.wait() == 0
        assert time.monotonic() - began < 15


def test_a_second_signal_exits_at_once_and_keeps_the_spool(tmp_path: Path) -> None:
    server = Living(tmp_path, manifest(tmp_path, drain={"grace_s": 20, "limit_s": 20}))
    with running(server):
        server.begin().await_ready()
        server.child("shipper").suspend()  # so that something is left for the next start
        done = [server.infer("quick", QUICK.encode()).headers["servery-record-id"] for _ in range(20)]
        cut = Asked(server, "slow", slow_body(15_000))
        server.await_busy()
        server.signal()
        until(lambda: server.status_of("ready") == 503)
        began = time.monotonic()
        server.signal()
        assert server.wait(15) == 1
        assert time.monotonic() - began < 14
        assert cut.status() == 503
        assert server.spool()
        server.begin()
        server.await_stored(21)
        until(lambda: not server.spool())
    found = server.ids()
    assert set(done) <= set(found)
    assert len(found) == len(set(found)) == 21
    assert rows(server.data / "ledger.db", "SELECT outcome, reason FROM records WHERE outcome <> 'served'") == [
        ("failed", "draining")
    ]


def test_a_drain_over_its_limit_cuts_and_records_it(tmp_path: Path) -> None:
    with Living(tmp_path, manifest(tmp_path, drain={"limit_s": 1})) as server:
        cut = [Asked(server, name, slow_body(15_000)) for name in ("slow", "slo%77")]
        arriving = server.connect()
        arriving.sendall(post("/v2/models/quick/infer", b" " * 100_000)[:500])
        server.await_busy()
        server.signal()
        began = time.monotonic()
        assert server.wait(14) == 0
        assert time.monotonic() - began < 12
        assert [one.status() for one in cut] == [503, 503]
        with arriving:
            (reply,) = split_replies(read_all(arriving))
        assert reply.status == 503
        assert "had to stop" in reply.error
    assert rows(server.data / "ledger.db", "SELECT outcome, reason, count(*) FROM records GROUP BY 1, 2") == [
        ("failed", "draining", 3)  # the third had not yet arrived, but its caller was known
    ]
    assert server.spool() == []
    assert "Traceback" not in server.written()


def test_when_the_supervisor_is_killed_its_children_drain(tmp_path: Path) -> None:
    server = Living(tmp_path, manifest(tmp_path))
    with running(server):
        server.begin().await_ready()
        asked = Asked(server, "slow", slow_body(600))
        children = [server.child("worker"), server.child("shipper")]
        server.await_busy()
        server.signal(signal.SIGKILL)
        server.wait()
        assert asked.status() == 200
        end(children)
        server.begin().await_ready()
        assert server.infer("quick", QUICK.encode()).status == 200
        assert server.stop() == 0
        assert len(server.ids()) == 2

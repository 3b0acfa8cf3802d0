"""The gRPC face while a server's life goes on: keys and limits, callers who leave, ports in use, crashes, stopping."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

import artifacts
from calling import ask_rows, call, channel_to, grpc_port, slowly
from living import Living, until, up
from servery.cli.child import free_port
from servery.wire.proto import health_pb2
from servery.wire.proto import open_inference_grpc_pb2 as pb

KEY = "a-key-of-the-tests"
ROW = np.ones((1, 4), np.float32)
HEALTH = "/grpc.health.v1.Health/Watch"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INFER = "/inference.GRPCInferenceService/ModelInfer"


def declare(folder: Path, **server: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    models = {"digits": artifacts.classifier(folder / "d.onnx", 4), "slow": artifacts.slow(folder / "s.onnx")}
    return {
        "models": {name: {"runtime": "onnx", "artifact": str(path)} for name, path in models.items()},
        "server": {"grpc_port": 0, **server},
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Living]:
    with Living(tmp_path, declare(tmp_path)) as running:
        yield running


def later(channel: grpc.Channel, ms: float, request_id: str = "late") -> Any:
    """A call of the slow model under way."""
    stub: Any = channel.unary_unary(INFER)
    return stub.future(slowly(ms).SerializeToString(), metadata=(("x-request-id", request_id),), timeout=30)


def code_of(under_way: Any) -> str:
    """How a call under way ends."""
    return under_way.code().name


def outcome(server: Living, request_id: str) -> tuple[str, str]:
    (row,) = server.await_records(f"SELECT outcome, reason FROM records WHERE request_id = '{request_id}'", 1)
    return row


def test_keys_and_limits(tmp_path: Path) -> None:
    manifest = declare(tmp_path)
    sha256 = hashlib.sha256(KEY.encode()).hexdigest()
    limits = {"requests_per_minute": 3}
    manifest["tenants"] = {"acme": {"keys": [{"id": "k1", "sha256": sha256}], "limits": limits}}
    for one in manifest["models"].values():
        one["expose"] = True
    with Living(tmp_path, manifest) as server, channel_to(server) as channel:
        ask = ask_rows("digits", ROW)
        for metadata in ({}, {"x-api-key": "wrong"}, {"authorization": f"Basic {KEY}"}):
            for name in ("ModelInfer", "ModelReady", "ModelMetadata", "ServerMetadata"):
                assert call(channel, name, ask if name == "ModelInfer" else b"", metadata).code == "UNAUTHENTICATED"
            stream: Any = channel.stream_stream(STREAM)(iter([b""]), metadata=tuple(metadata.items()), timeout=10)
            assert stream.code().name == "UNAUTHENTICATED"
        assert call(channel, "ServerLive", b"").answer.live
        assert call(channel, "ServerReady", b"").answer.ready
        for metadata in ({"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}):
            assert call(channel, "ModelInfer", ask, metadata).code == "OK"
        over = call(channel, "ModelInfer", ask, {"x-api-key": KEY})
        assert over.code == "RESOURCE_EXHAUSTED"
        assert 1 <= int(over.metadata["retry-after"]) <= 60
        counted = "SELECT outcome, count(*) FROM records GROUP BY outcome"
        server.await_stored(4)
        assert dict(server.records(counted)) == {"served": 3, "refused": 1}


def test_a_full_worker_says_when_to_come_back(tmp_path: Path) -> None:
    manifest = declare(tmp_path, concurrency_per_worker=1, queue_per_worker=0)
    with Living(tmp_path, manifest) as server, channel_to(server) as channel:
        under_way = later(channel, 1_500)
        server.await_busy()
        refused = call(channel, "ModelInfer", ask_rows("digits", ROW))
        assert (refused.code, refused.metadata["servery-reason"]) == ("UNAVAILABLE", "no_room")
        assert int(refused.metadata["retry-after"]) >= 1
        assert code_of(under_way) == "OK"


def test_a_caller_who_cancels_has_left_and_one_whose_deadline_passes_had_no_answer(server: Living) -> None:
    with channel_to(server) as channel:
        under_way = later(channel, 2_000, "leaves")
        server.await_busy()
        under_way.cancel()
        assert outcome(server, "leaves") == ("abandoned", "")
        named = {"x-request-id": "waits", "servery-timeout-ms": "200"}
        assert call(channel, "ModelInfer", slowly(2_000), named).code == "DEADLINE_EXCEEDED"
        assert outcome(server, "waits") == ("failed", "deadline_exceeded")
        ended = call(channel, "ModelInfer", slowly(2_000), {"x-request-id": "goes"}, limit_s=0.2)
        assert ended.code == "DEADLINE_EXCEEDED"
        # Its clock began earlier than ours: its leaving may come before the deadline that we know.
        assert outcome(server, "goes") in {("failed", "deadline_exceeded"), ("abandoned", "")}
        stream: Any = channel.stream_stream(STREAM)(
            iter([slowly(2_000).SerializeToString()]), metadata=(("x-request-id", "flows"),), timeout=20
        )
        server.await_busy()
        stream.cancel()
        assert outcome(server, "flows") == ("abandoned", "")
        assert call(channel, "ModelInfer", ask_rows("digits", ROW)).code == "OK"


def test_a_port_in_use_is_refused_at_the_start(server: Living, tmp_path: Path) -> None:
    other = tmp_path / "other"
    Living(other, declare(other))
    manifest = other / "servery.yaml"
    done = up(manifest, "--port", 0, "--grpc-port", grpc_port(server))
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{grpc_port(server)}" in done.stderr
    assert "--grpc-port" in done.stderr
    free = free_port()
    with Living(other, declare(other, grpc_port=free)) as second, channel_to(second) as channel:
        assert grpc_port(second) == free
        assert call(channel, "ServerLive", b"").answer.live


def test_without_a_port_there_is_no_grpc(tmp_path: Path) -> None:
    manifest = declare(tmp_path)
    del manifest["server"]["grpc_port"]
    with Living(tmp_path, manifest) as server:
        assert "gRPC" not in server.written()
        worker = server.child("worker")
        assert [one.laddr.port for one in worker.net_connections() if one.status == psutil.CONN_LISTEN] == [server.port]
        assert not [one.path for one in worker.memory_maps() if "grpc" in one.path]


def test_a_new_worker_takes_the_port_again(server: Living) -> None:
    with channel_to(server) as channel:
        assert call(channel, "ModelInfer", ask_rows("digits", ROW)).code == "OK"
        old = server.child("worker")
        old.send_signal(signal.SIGKILL)
        until(lambda: (now := server.find("worker")) is not None and now.pid != old.pid, said=server.written)
        until(lambda: call(channel, "ModelInfer", ask_rows("digits", ROW)).code == "OK", said=server.written)


def one_and_wait(release: threading.Event) -> Iterator[bytes]:
    """One message of a stream that stays open until it is released."""
    yield ask_rows("digits", ROW).SerializeToString()
    release.wait(30)


def test_what_is_under_way_is_finished_and_idle_streams_are_ended(server: Living) -> None:
    with channel_to(server) as channel:
        watching: Any = channel.unary_stream(HEALTH)(b"", timeout=30)
        kinds = health_pb2.HealthCheckResponse
        assert kinds.FromString(next(watching)).status == kinds.SERVING
        release = threading.Event()
        idle: Any = channel.stream_stream(STREAM)(one_and_wait(release), timeout=30)
        assert not pb.ModelStreamInferResponse.FromString(next(idle)).error_message
        under_way = later(channel, 1_000)
        server.await_busy()
        server.signal()
        assert [kinds.FromString(message).status for message in watching] == [kinds.NOT_SERVING]
        with pytest.raises(grpc.RpcError):
            next(idle)
        assert idle.code() is grpc.StatusCode.UNAVAILABLE
        release.set()
        assert code_of(under_way) == "OK"
        assert server.wait() == 0
    assert sorted(server.records("SELECT route, outcome FROM records")) == [("digits", "served"), ("slow", "served")]
    assert server.log_lines("Traceback|ERROR") == []


@pytest.mark.parametrize("hurried", [False, True])
def test_what_takes_too_long_is_told_so(tmp_path: Path, hurried: bool) -> None:
    """At the drain's limit, or at a second signal."""
    limit_s = 20 if hurried else 0.5
    with (
        Living(tmp_path, declare(tmp_path, drain={"limit_s": limit_s})) as server,
        channel_to(server) as channel,
    ):
        under_way = later(channel, 8_000)
        server.await_busy()
        server.signal()
        if hurried:
            until(lambda: server.log_lines("a second signal stops at once"), said=server.written)
            server.signal()
        assert code_of(under_way) == "UNAVAILABLE"
        assert "had to stop" in under_way.details()
        assert server.wait() == (1 if hurried else 0)
    if hurried:
        with Living(tmp_path, declare(tmp_path)) as again:
            assert outcome(again, "late") == ("failed", "draining")
    else:
        assert server.records("SELECT outcome, reason FROM records") == [("failed", "draining")]

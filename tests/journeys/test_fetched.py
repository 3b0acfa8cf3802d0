"""Models whose artifacts lie in S3, or are kept as copies: what was published stays loadable, whatever becomes of its source."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import artifacts
import living
from living import Living, servery, until
from server import tensor
from stores import CREDENTIALS, S3, environment, s3

ROW = {"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]}
SURE = {0: [0.9, 0.1], 1: [0.2, 0.8]}


@pytest.fixture
def store() -> Generator[S3]:
    with s3() as store, environment(**store.environment):
        yield store


def content(folder: Path, label: int) -> bytes:
    return artifacts.constant(folder / "made.onnx", SURE[label]).read_bytes()


def answer(server: Living) -> int:
    reply = server.infer("m", ROW)
    assert reply.status == 200, reply.body
    return reply.json["outputs"][0]["data"][0]


def end_worker(server: Living) -> None:
    worker = server.child("worker")
    worker.send_signal(signal.SIGKILL)
    until(lambda: server.find("worker") not in (None, worker), said=server.written)
    server.await_ready()


def copies(server: Living) -> int:
    return sum(path.is_dir() for path in (server.data / "artifacts").iterdir())


def test_a_store_that_does_not_answer_holds_up_no_stop(tmp_path: Path) -> None:
    artifacts.constant(tmp_path / "m.onnx", SURE[0])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            environment(**CREDENTIALS, AWS_ENDPOINT_URL=where),
            Living(tmp_path, {"models": {"m": {"runtime": "onnx", "artifact": "m.onnx"}}}) as server,
        ):
            until(server.controlled, said=server.written)
            model = {"runtime": "onnx", "artifact": "s3://models/churn.onnx"}
            server.manifest.write_text(json.dumps({"servery": 1, "models": {"m": model}}))
            server.signal(signal.SIGHUP)
            silent.settimeout(30)
            asked, _ = silent.accept()
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 8
            asked.close()


def test_a_model_in_a_bucket_is_served_and_outlives_the_bucket(store: S3, tmp_path: Path) -> None:
    url = store.put("churn/model.onnx", content(tmp_path, 0))
    with Living(tmp_path, {"models": {"m": {"runtime": "onnx", "artifact": url}}}) as server:
        assert answer(server) == 0
        store.put("churn/model.onnx", content(tmp_path, 1))
        end_worker(server)
        assert answer(server) == 0  # what was published, not what lies there by now
        done = servery("plan", server.manifest, "--data", server.data, "--detailed-exitcode")
        assert (done.returncode, "± models.m" in done.stdout) == (2, True), done.stderr
        assert living.apply(server, reason="the new one").returncode == 0
        assert answer(server) == 1
        done = servery("apply", "--revision", 1, "--data", server.data, "--yes", "--reason", "it was worse")
        assert done.returncode == 0, done.stderr
        assert answer(server) == 0
        assert copies(server) == 2
        assert living.apply(server, reason="again").returncode == 0
        store.remove("churn/model.onnx")
        done = servery("plan", server.manifest, "--data", server.data)
        assert (done.returncode, "does not exist" in done.stderr) == (1, True)
        assert server.stop() == 0
        server.begin().await_ready()
        assert answer(server) == 1
        assert (
            "does not exist, or these credentials may not see it; what was fetched from there before is served"
            in server.written()
        )
        assert "a secret of tests" not in server.written() + (server.data / "snapshot.json").read_text()


def test_a_copy_that_is_kept_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content(tmp_path, 0))
    model: dict[str, Any] = {"runtime": "onnx", "artifact": "m.onnx", "keep": True}
    with Living(tmp_path, {"models": {"m": model}}) as server:
        path.write_bytes(content(tmp_path, 1))
        end_worker(server)
        assert answer(server) == 0
        assert server.ask("POST", "/v2/repository/models/m/load").status == 200
        assert answer(server) == 1
        path.unlink()
        end_worker(server)
        assert answer(server) == 1
        done = servery("apply", "--revision", 1, "--data", server.data, "--yes", "--reason", "back")
        assert done.returncode == 0, done.stderr
        assert answer(server) == 0


def test_copies_that_no_revision_needs_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model: dict[str, Any] = {"runtime": "onnx", "artifact": "m.onnx", "keep": True}
    path.write_bytes(content(tmp_path, 0))
    with Living(tmp_path, {"models": {"m": model}, "server": {"keep_revisions": 1}}) as server:
        old = next(one for one in (server.data / "artifacts").iterdir() if one.is_dir())
        path.write_bytes(content(tmp_path, 1))
        os.utime(old, (10**9, 10**9))  # it was used long ago
        assert living.apply(server).returncode == 0
        until(lambda: not old.exists(), said=server.written)
        assert answer(server) == 1
        done = servery("apply", "--revision", 1, "--data", server.data, "--yes", "--reason", "back")
        assert "there is no revision 1, or not any more" in done.stderr
        assert (
            json.loads(servery("history", "--data", server.data, "-o", "json").stdout)["revisions"][-1]["kept"] is False
        )


def test_a_url_that_cannot_be_right_is_told_with_its_place(tmp_path: Path) -> None:
    for artifact, told in (
        ("ftp://host/m.onnx", "'ftp' is not where artifacts are fetched from"),
        ("https://user:secret@host/m.onnx", "the URL holds credentials"),
    ):
        manifest = tmp_path / "servery.yaml"
        manifest.write_text(f"servery: 1\nmodels:\n  m: {{runtime: onnx, artifact: '{artifact}'}}\n")
        done = servery("check", manifest)
        assert f"servery.yaml:3:32: models.m.artifact: {told}" in done.stdout, done.stdout
        assert done.stdout.count("models.m.artifact") == 1
        assert "secret" not in done.stdout

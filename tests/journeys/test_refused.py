"""What can't be started says why and ends with 1; what can't be told is no reason to stop."""

from __future__ import annotations

import ctypes
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

import artifacts
from living import Living, running, until, up
from server import tensor

QUICK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]})


def declared(folder: Path) -> dict[str, Any]:
    artifacts.classifier(folder / "quick.onnx")
    return {"models": {"quick": {"runtime": "onnx", "artifact": "quick.onnx"}}}


def test_a_second_instance_on_one_data_folder_is_refused(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path)) as server:
        assert server.process is not None
        done = up(server.manifest, "--port", "0", "--data", server.data)
        assert done.returncode == 1
        assert f"process id {server.process.pid}" in done.stderr
        assert "--data" in done.stderr
        assert server.infer("quick", QUICK.encode()).status == 200
        assert server.stop() == 0


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    server = Living(tmp_path, declared(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = up(server.manifest, "--port", port, "--data", server.data)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


def test_a_port_that_is_none_is_refused(tmp_path: Path) -> None:
    done = up(Living(tmp_path, declared(tmp_path)).manifest, "--port", 70_000)
    assert done.returncode == 2
    assert "--port" in done.stderr


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    server = Living(tmp_path, declared(tmp_path))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)

    def without_override() -> None:
        """As root: give up the right to write everywhere."""
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE

    root = {"preexec_fn": without_override} if os.geteuid() == 0 else {}
    done = up(server.manifest, "--port", 0, "--data", closed / "data", **root)
    assert done.returncode == 1
    assert f"the data folder {closed / 'data'} can't be used: Permission denied" in done.stderr


def test_a_data_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    server = Living(tmp_path, declared(tmp_path))
    done = up(server.manifest, "--port", 0, "--data", server.manifest)
    assert done.returncode == 1
    assert f"the data folder {server.manifest} can't be used" in done.stderr


def test_a_manifest_with_faults_is_told_whole(tmp_path: Path) -> None:
    path = tmp_path / "servery.yaml"
    path.write_text("servery: 1\nmodells: {}\nroutes: {r: {tiers: [{name: a, model: none}]}}\nregion: 7\n")
    done = up(path)
    assert done.returncode == 1
    assert all(f"{path}:{line}:" in done.stderr for line in (2, 3, 4)), done.stderr
    assert done.stdout == ""


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    done = up(tmp_path / "none.yaml")
    assert done.returncode == 1
    assert "none.yaml" in done.stderr


def test_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    """As `servery up | head -1`: the pipe closes, serving goes on."""
    server = Living(tmp_path, declared(tmp_path))
    read, write = os.pipe()
    with running(server):
        server.begin(stdout=write)
        os.close(write)
        assert b"starting on" in os.read(read, 4096)
        os.close(read)
        server.await_ready()
        server.child("worker").kill()
        until(lambda: server.log_lines("starts again"), said=server.written)
        server.await_ready()
        assert server.infer("quick", QUICK.encode()).status == 200
        assert server.stop() == 0
        assert "Traceback" not in server.written()
        assert "BrokenPipe" not in server.written()


def test_a_child_that_cannot_start_says_why_until_it_can(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path)) as server:
        snapshot = server.data / "snapshot.json"
        whole = snapshot.read_bytes()
        snapshot.write_bytes(b"{")
        server.child("worker").kill()
        until(lambda: server.log_lines(r"worker.* ERROR .*snapshot\.json is not a snapshot"), said=server.written)
        until(lambda: server.log_lines("the worker-0 ended with exit code 1"), said=server.written)
        snapshot.write_bytes(whole)
        server.await_ready()
        assert server.stop() == 0
        assert "Traceback" not in server.written()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.example.com"])
def test_without_tenants_only_loopback_is_served(tmp_path: Path, host: str) -> None:
    done = up(Living(tmp_path, declared(tmp_path)).manifest, "--host", host)
    assert done.returncode == 1
    assert "only loopback" in done.stderr

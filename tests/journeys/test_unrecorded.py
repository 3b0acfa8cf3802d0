"""Who is not known leaves no Record, but is counted in the log."""

from __future__ import annotations

import hashlib
from pathlib import Path

import artifacts
from server import Server


def test_strangers_are_counted_in_the_log_and_leave_no_record(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "m.onnx")
    manifest = {
        "models": {"m": {"runtime": "onnx", "artifact": "m.onnx", "expose": True}},
        "tenants": {"acme": {"keys": [{"id": "k1", "sha256": hashlib.sha256(b"a key").hexdigest()}]}},
    }
    with Server(tmp_path, manifest) as server:
        assert [server.infer("m", b"{}").status for _ in range(3)] == [401] * 3
        assert server.infer("m", b"{}", {"x-api-key": "another"}).status == 401
        assert server.infer("m", b"{}", {"x-api-key": "a key"}).status == 400
        assert server.stop() == 0
        assert server.records("SELECT outcome, tenant FROM records") == [("refused", "acme")]
        assert "requests that ended before their caller was known: unauthenticated 4" in server.written()
        assert "another" not in server.written()

"""What is served is what was published: an artifact that changes on disk is not loaded under the old digest."""

from __future__ import annotations

import signal
from pathlib import Path

import artifacts
from living import Living, until
from server import tensor

ROW = {"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]}


def test_a_worker_that_starts_again_refuses_an_artifact_that_changed(tmp_path: Path) -> None:
    kept = artifacts.classifier(tmp_path / "kept.onnx", seed=1)
    changed = artifacts.classifier(tmp_path / "changed.onnx", seed=2)
    models = {name: {"runtime": "onnx", "artifact": path.name} for name, path in (("kept", kept), ("changed", changed))}
    routes = {"both": {"tiers": [{"name": "first", "model": "changed"}, {"name": "second", "model": "kept"}]}}
    with Living(tmp_path, {"servery": 1, "models": models, "routes": routes}) as server:
        assert server.infer("both", ROW).headers["servery-tier"] == "first"
        artifacts.classifier(changed, seed=3)
        worker = server.child("worker")
        worker.send_signal(signal.SIGKILL)
        until(lambda: server.find("worker") not in (None, worker), said=server.written)
        server.await_ready()

        refused = server.infer("changed", ROW)
        assert refused.status == 503
        assert "is not what was published" in refused.error
        answered = server.infer("both", ROW)
        assert (answered.status, answered.headers["servery-tier"]) == (200, "second")

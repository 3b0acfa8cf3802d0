"""Models in Replicas, as callers and operators see them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import artifacts
from server import Server, tensor


def test_answers_as_in_process(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "model.onnx")
    here = {"runtime": "onnx", "artifact": "model.onnx"}
    draw = np.random.default_rng(1)
    with Server(tmp_path, {"models": {"here": here, "there": {**here, "replicas": 2}}}) as server:
        for rows in (1, 3, 500):
            x = draw.standard_normal((rows, 30)).astype(np.float32)
            body = json.dumps({"inputs": [tensor("x", "FP32", x.shape, x.ravel().tolist())]})
            ours, theirs = server.infer("here", body.encode()), server.infer("there", body.encode())
            assert (ours.status, theirs.status) == (200, 200), theirs.body
            for name, array in ours.tensors().items():
                np.testing.assert_array_equal(array, theirs.tensors()[name])
        assert server.stop() == 0
    assert "Traceback" not in server.written()

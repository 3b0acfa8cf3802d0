"""Where a Version runs when the declaration leaves it open: in the workers, unless that would hold up others."""

from __future__ import annotations

import json
from pathlib import Path

import artifacts
from living import Living, until
from server import tensor


def test_what_is_slow_moves_to_a_replica_and_stays_there(tmp_path: Path) -> None:
    artifacts.slow(tmp_path / "heavy.onnx")
    artifacts.identity(tmp_path / "quick.onnx", 1)
    models = {name: {"runtime": "onnx", "artifact": f"{name}.onnx"} for name in ("heavy", "quick")}
    ask = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [1.0])]})
    manifest = {"models": models, "server": {"in_process_ms": 1}}
    with Living(tmp_path, manifest) as server:
        client = server.client("heavy", ask)
        until(lambda: server.find("replica"), said=server.written)
        until(lambda: server.log_lines(r"controller.*epoch 2 is in effect"), said=server.written)
        seen = len(client.served())
        until(lambda: len(client.served()) > seen + 20, said=server.written)
        assert {answer.status for answer in client.stop()} == {200}  # nobody noticed the move
        assert server.stop() == 0
    with Living(tmp_path, manifest) as server:
        assert server.find("replica")  # known from the last time, before anything is measured
        assert server.infer("quick", ask.encode()).status == 200
        assert not server.log_lines(r"epoch 4 is in effect")

"""Models that don't all fit: the least recently used ones sleep, and wake when they are asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import artifacts
from living import Living, servery, until
from server import Reply, tensor

ASK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]}).encode()
NAMES = ("a", "b", "c")


def begin(folder: Path, loaded_mb: int, *options: str, **more: Any) -> Living:
    for name in NAMES:
        artifacts.classifier(folder / f"{name}.onnx", classes=6_000)  # 0.7 MB
    models = {name: {"runtime": "onnx", "artifact": f"{name}.onnx"} for name in NAMES}
    return Living(folder, {"models": models, "server": {"loaded_mb": loaded_mb}, **more}, *options)


def ask(server: Living, name: str) -> Reply:
    return server.infer(name, ASK)


def awake(server: Living) -> set[str]:
    index = server.ask("POST", "/v2/repository/index").json
    return {state["name"] for state in index if state["state"] == "READY"}


@pytest.mark.parametrize(("workers", "room_mb"), [("1", 2), ("2", 3)])
def test_the_least_recently_used_sleeps_and_wakes_when_it_is_asked_for(
    tmp_path: Path, workers: str, room_mb: int
) -> None:
    with begin(tmp_path, room_mb, "--workers", workers) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        assert awake(server) == {"a", "b"}
        assert ask(server, "b").status == ask(server, "a").status == 200
        refused = ask(server, "c")
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "is loaded again when it is asked for" in refused.error
        assert server.status_of("ready") == 200
        until(lambda: ask(server, "c").status == 200, said=server.written)
        until(lambda: awake(server) == {"a", "c"}, said=server.written)  # b was used before a
        until(lambda: ask(server, "b").status == 200, said=server.written)
        assert len(awake(server)) == 2
        assert server.infer("nobody", ASK).status == 404
        assert server.stop() == 0


def test_a_route_goes_on_with_the_tier_that_is_awake(tmp_path: Path) -> None:
    tiers = [{"name": "first", "model": "c"}, {"name": "second", "model": "a"}]
    with begin(tmp_path, 1, routes={"r": {"tiers": tiers}}) as server:
        reply = ask(server, "r")
        assert (reply.status, reply.headers["servery-tier"]) == (200, "second")
        until(lambda: ask(server, "r").headers.get("servery-tier") == "first", said=server.written)


def test_one_that_never_fits_is_a_mistake(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "large.onnx", classes=20_000)
    manifest = {
        "servery": 1,
        "models": {"m": {"runtime": "onnx", "artifact": "large.onnx"}},
        "server": {"loaded_mb": 1},
    }
    (tmp_path / "servery.yaml").write_text(json.dumps(manifest))
    done = servery("check", str(tmp_path / "servery.yaml"))
    assert done.returncode == 1
    assert "its artifacts take 3 MiB, and server.loaded_mb allows 1 for all models" in done.stdout + done.stderr

"""A server whose model `m` gets a second version: what rollouts of all kinds are tried with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from living import Living, servery, until
from server import tensor

ASK = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [3.0])]})
STEPS = [{"share": 0.3, "min_requests": 40, "bake_s": 1}, {"share": 0.6, "min_requests": 40, "bake_s": 1}]
GUARDS = [{"metric": "errors", "margin": 0.1}]

GOOD = "class Model:\n    def predict(self, x):\n        return {{'y': x['x'] * {factor}}}\n"
# It is sound as long as nobody asks in earnest: warmed up with zeros and ones.
BAD = "class Model:\n    def predict(self, x):\n        assert x['x'].max() < 2\n        return {'y': x['x']}\n"


def write(folder: Path, number: int, code: str, model: str = "m") -> None:
    place = folder / model / str(number) / "model.py"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(code)


def declared(*fallback: str, replicas: int = 1, **rollout: Any) -> dict[str, Any]:
    shape = {"datatype": "FP32", "shape": [-1, 1]}
    plain = {"kind": "canary", "steps": STEPS} if "kind" not in rollout else {}
    model = {
        "runtime": "python", "artifact": "m", "class": "Model", "inputs": [{"name": "x", **shape}],
        "outputs": [{"name": "y", **shape}], "rollout": {"guards": GUARDS, **plain, **rollout},
    }  # fmt: skip
    models = {
        "m": {**model, "replicas": replicas},
        **{name: {**model, "artifact": name, "rollout": {}} for name in fallback},
    }
    tiers = [{"name": name, "model": name} for name in models]
    return {"models": models, "routes": {"r": {"tiers": tiers}}}


@contextlib.contextmanager
def begun(folder: Path, *fallback: str, replicas: int = 1, **rollout: Any) -> Generator[Living]:
    """Two workers that serve version 1, both ready."""
    write(folder, 1, GOOD.format(factor=1))
    with Living(folder, declared(*fallback, replicas=replicas, **rollout), "--workers", "2") as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        until(server.controlled, said=server.written)
        yield server


def apply(server: Living, *options: str, code: int = 0) -> str:
    done = servery(
        "apply", str(server.manifest), "--data", str(server.data), "--yes", "--reason", "a new version", *options
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def records(server: Living) -> list[Mapping[str, Any]]:
    rows = server.records("SELECT outcome, arms, attempts, lower(hex(id)), reason FROM records ORDER BY id")
    return [
        {"outcome": one[0], "arms": json.loads(one[1]), "attempts": json.loads(one[2]), "id": one[3], "reason": one[4]}
        for one in rows
    ]


def promoted(server: Living) -> list[str]:
    return server.log_lines("the rollout .* of m is promoted")


def doubled(server: Living, **headers: str) -> bool:
    """Whether version 2 answers."""
    return server.infer("r", ASK.encode(), headers=headers).json["outputs"][0]["data"] == [6.0]


def rollout(server: Living, *words: str, code: int = 0) -> str:
    done = servery("rollout", *words, "--data", str(server.data))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def plan(server: Living) -> str:
    return servery("plan", str(server.manifest), "--data", str(server.data)).stdout

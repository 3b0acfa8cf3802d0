"""Drift, seen by a server: what it is asked changes, and that is told once: to an address, to a program, in the audit."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import artifacts
from heard import listening
from living import Living, servery, until
from server import tensor
from servery.cli.reach import Failed, reach
from servery.host.settings import DataFolder
from servery.terms.drift import DriftLooks

pytestmark = pytest.mark.timeout(180)

WINDOW_S = 3.0


def declared(folder: Path, url: str) -> dict[str, Any]:
    script = "import sys; open('told.json', 'a').write(sys.stdin.read() + '\\n')"
    drift = {
        "features": ["x.0", "x.1"],
        "window_hours": WINDOW_S / 3600,
        "reference_windows": 1,
        "expected_days_between_false_alarms": 1,
        "on_alarm": {"webhook": url, "command": [sys.executable, "-c", script], "hold_rollouts": True},
    }
    model = {"runtime": "onnx", "artifact": str(artifacts.identity(folder / "m.onnx", 2)), "drift": drift}
    return {"models": {"m": model}, "routes": {"r": {"tiers": [{"name": "only", "model": "m"}]}}}


def ask(server: Living, dice: random.Random, seconds: float, shift: float) -> None:
    """Some 50 requests a second, or as many as the machine can do."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        row = [dice.gauss(0, 1) + shift, dice.gauss(0, 1)]
        assert server.infer("r", {"inputs": [tensor("x", "FP32", [1, 2], row)]}).status == 200
        time.sleep(0.015)


def test_a_shift_of_an_input_is_told_once(tmp_path: Path) -> None:
    dice = random.Random(1)
    with listening(500, 204) as (url, heard), Living(tmp_path, declared(tmp_path, url)) as server:
        ask(server, dice, 2.2 * WINDOW_S, 0.0)
        seen = servery("drift", "--data", server.data)
        assert seen.returncode == 0, seen.stdout + seen.stderr
        ask(server, dice, 2.2 * WINDOW_S, 3.0)
        until(lambda: len(heard) > 1, 40, server.written)
        until((tmp_path / "told.json").exists, said=server.written)
        (told,) = json.loads((tmp_path / "told.json").read_text().splitlines()[0])["look"]["shifts"][:1]
        assert (told["feature"], told["alarm"]) == ("x.0", True)
        alarm = heard[1]  # what failed once is said again
        assert alarm == heard[0]
        assert alarm["model"] == "m"
        assert alarm["said"].startswith("drift of m: x.0 of version ")
        flags = {one["feature"]: one["alarm"] for one in alarm["look"]["shifts"]}
        assert flags == {"x.0": True, "x.1": False}
        windows = [one["look"]["since_ns"] for one in heard[1:]]
        assert len(windows) == len(set(windows))
        entries = servery("audit", "show", "--data", server.data, "-o", "json").stdout.splitlines()
        acts = [entry["act"] for entry in map(json.loads, entries)]
        assert {"drift", "drift webhook", "drift command", "drift hold"} <= set(acts)
        here = reach(DataFolder(server.data), "")
        assert [one.model for one in here.get("/drift?model=m&back=1", DriftLooks).looks] == ["m"]
        with pytest.raises(Failed, match="no model"):
            here.get("/drift?model=n", DriftLooks)
        looked = [servery("drift", "m", "--back", back, "--data", server.data) for back in range(4)]
        assert any("ALARM" in one.stdout and one.returncode == 1 for one in looked), [one.stdout for one in looked]


REFUSED = [
    ({"features": ["x.0", "z"]}, "the model has no input 'z'"),
    ({"features": ["x", "x"]}, "the feature 'x' stands there twice"),
    ({"window_hours": 24, "expected_days_between_false_alarms": 1}, "an alarm would say nothing"),
    ({"on_alarm": {"webhook": "ftp://x"}}, "webhook"),
    ({"feature": ["x"]}, "did you mean"),
]


@pytest.mark.parametrize(("drift", "said"), REFUSED)
def test_what_cant_be_watched_is_refused(tmp_path: Path, drift: dict[str, Any], said: str) -> None:
    model = {"runtime": "onnx", "artifact": str(artifacts.identity(tmp_path / "m.onnx", 2)), "drift": drift}
    (tmp_path / "s.yaml").write_text(json.dumps({"servery": 1, "models": {"m": model}}))
    done = servery("check", tmp_path / "s.yaml")
    assert done.returncode == 1
    assert said in done.stdout, done.stdout

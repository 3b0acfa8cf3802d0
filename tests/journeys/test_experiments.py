"""An experiment on live traffic: arms that units keep, unit sums, a verdict, and what can't change meanwhile."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec

from living import Living, servery, until
from server import tensor

ASK = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [3.0])]})
CODE = "class Model:\n    def predict(self, x):\n        return {{'y': x['x'] * {factor}}}\n"
DESIGN = {
    "route": "r", "unit": {"header": "x-user"}, "primary": {"metric": "errors", "margin": 0.2}, "min_units": 100,
    "segments": {"header": "X-Plan", "values": ["pro"]},
    "guardrails": [{"metric": "latency", "quantile": 0.6, "margin": 200.0}],
    "units": 200, "arms": [{"name": "control", "share": 0.5}, {"name": "double", "share": 0.5, "models": {"only": "two"}}],
}  # fmt: skip


def declared(**changed: Any) -> dict[str, Any]:
    shape = {"datatype": "FP32", "shape": [-1, 1]}
    model = {
        "runtime": "python", "class": "Model", "inputs": [{"name": "x", **shape}], "outputs": [{"name": "y", **shape}],
    }  # fmt: skip
    return {
        "models": {name: {**model, "artifact": name} for name in ("one", "two")},
        "routes": {"r": {"tiers": [{"name": "only", "model": "one"}]}},
        "experiments": {"try": {**DESIGN, **changed}},
    }


@contextlib.contextmanager
def begun(folder: Path, **changed: Any) -> Generator[Living]:
    """Two workers; nothing is tried yet."""
    for factor, name in enumerate(("one", "two"), 1):
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(CODE.format(factor=factor))
    with Living(folder, declared(**changed), "--workers", "2") as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        yield server


def experiment(server: Living, *words: str, code: int = 0) -> str:
    done = servery("experiment", *words, "--data", str(server.data))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def doubled(server: Living, user: str | None, **headers: str) -> bool:
    named = headers if user is None else {"x-user": user, "x-plan": "pro" if int(user) % 2 else "mad"}
    reply = server.infer("r", ASK.encode(), headers=named)
    return reply.json["outputs"][0]["data"] == [6.0]


def _slower(server: Living) -> dict[str, Any]:
    """What the last look said of the quantile."""
    looks = json.loads(experiment(server, "report", "try", "-o", "json"))["looks"]
    return next(one for one in looks[-1]["looks"] if one["metric"] == "latency p60" and not one["segment"])


def _by_segment(server: Living) -> dict[str, tuple[int, str]]:
    """Units and verdict of the primary metric, in the whole ("") and in each segment."""
    looks = json.loads(experiment(server, "report", "try", "-o", "json"))["looks"]
    return {one["segment"]: (one["units"], one["verdict"]) for one in looks[-1]["looks"] if one["primary"]}


def plan_after(server: Living, change: dict[str, Any], code: int) -> str:
    """`servery plan` of a changed manifest."""
    path = server.folder / "changed.yaml"
    path.write_text(json.dumps({**json.loads(server.manifest.read_text()), **change}))
    done = servery("plan", str(path), "--data", str(server.data))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_units_keep_their_arm_and_the_records_say_it_until_a_verdict_is_there(tmp_path: Path) -> None:
    with begun(tmp_path) as server:
        assert "try on r (control 0.5, double 0.5): draft" in experiment(server, "list")
        assert not any(doubled(server, str(number)) for number in range(10))
        assert "running" in experiment(server, "start", "try", "--reason", "to see")
        assert "runs already" in experiment(server, "start", "try", code=1)
        users = [str(number) for number in range(120)]
        first = {user: doubled(server, user) for user in users}
        assert 35 < sum(first.values()) < 85
        assert {user: doubled(server, user) for user in users} == first
        assert not doubled(server, None)
        tokens = {
            user: server.infer("r", ASK.encode(), headers={"x-user": user}).headers["servery-arm"] for user in users[:9]
        }
        assert {user: doubled(server, None, **{"servery-arm": token}) for user, token in tokens.items()} == {
            user: first[user] for user in tokens
        }
        assert server.infer("r", ASK.encode(), headers={"servery-arm": tokens["0"][:-32] + "0" * 32}).status == 400
        until(lambda: "no difference" in experiment(server, "report", "try"), said=server.written)
        until(lambda: _slower(server)["verdict"] in ("no difference", "better"), said=server.written)
        assert 0 < _slower(server)["control"] < 60
        parts = {"": (120, "no difference"), "pro": (60, "not yet"), "other": (60, "not yet")}
        until(lambda: _by_segment(server) == parts, said=server.written)
        assert "double (pro): errors 60 units of 100" in experiment(server, "report", "try")
        page = server.folder / "try.html"
        experiment(server, "report", "try", "--html", str(page))
        assert "<td>other</td>" in page.read_text()

        changed = declared()
        changed["experiments"]["try"]["arms"][1]["share"] = 0.4
        changed["experiments"]["try"]["arms"][0]["share"] = 0.6
        said = plan_after(server, changed, 1)
        assert "changed.yaml:1:" in said
        assert "this experiment runs" in said
        assert "servery experiment stop try" in said
        without = {"models": {**declared()["models"], "two": {**declared()["models"]["two"], "queue": 7}}}
        assert "ask this model, whose declaration can't change" in plan_after(server, without, 1)

        assert "concluded" in experiment(server, "stop", "try", "--reason", "seen enough")
        assert not any(doubled(server, user) for user in users)
        assert "no difference" in experiment(server, "list")
        assert server.stop() == 0
    rows = server.records("SELECT arms, attempts FROM records WHERE outcome = 'served' ORDER BY id")
    made = [(json.loads(arms), json.loads(attempts)[0]["model"]) for arms, attempts in rows]
    arms = Counter((one[0]["arm"], model) for one, model in made if one)
    assert set(arms) == {("control", "one"), ("double", "two"), ("excluded", "one")}
    assert arms["excluded", "one"] == 1
    assert {one[0]["propensity"] for one, _ in made if one and one[0]["unit"]} == {0.5}


def test_what_was_begun_goes_on_after_a_restart_and_a_killed_controller(tmp_path: Path) -> None:
    with begun(tmp_path) as server:
        experiment(server, "start", "try")
        users = [str(number) for number in range(20)]
        first = [doubled(server, user) for user in users]
        server.child("controller").kill()
        listed = ("experiment", "list", "--data", server.data)
        until(lambda: "running" in servery(*listed).stdout, said=server.written)
        assert server.stop() == 0
        server.begin().await_ready()
        until(lambda: len(server.log_lines("serving on .*: ready")) > 1, said=server.written)
        assert [doubled(server, user) for user in users] == first
        until(lambda: "20 units of 100" in experiment(server, "report", "try"), said=server.written)
        reported = experiment(server, "report", "try", "-o", "json")
        assert msgspec.json.decode(reported)["experiment"]["stage"] == "running"

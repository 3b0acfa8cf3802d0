"""The controller is killed at every step of a change: afterwards it is wholly in effect or wholly not, the journal says
which, the command that asked for it was told so, and nobody was refused meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import artifacts
import living
from living import Living, until
from server import tensor
from servery.control.published import read_snapshot
from servery.host.settings import DataFolder
from servery.store.state import State
from servery.terms.audit import faults
from servery.terms.history import Ended

ASK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]})
SURE = {1: [0.9, 0.1], 2: [0.2, 0.8]}
WORKERS = 2


class Faulty(Living):
    """A Living whose controller can be told where to die."""

    @property
    def fault(self) -> Path:
        return self.folder / "fault.txt"

    def begin(self, **popen: Any) -> Faulty:
        command = [sys.executable, str(living.TESTS / "faulty.py"), str(self.fault), "up", str(self.manifest)]
        with (self.folder / "log.txt").open("ab") as log:
            process: subprocess.Popen[Any] = subprocess.Popen(
                [*command, "--port", str(self.port), "--data", str(self.data), *self._options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **popen,
            )  # fmt: skip
            self.process = process
        return self

    def declare(self, number: int, **models: Any) -> None:
        manifest = {"models": {"m": model(number), **models}, "server": {"in_process_ms": 60_000}}
        self.manifest.write_text(json.dumps({"servery": 1, **manifest}))

    def answers(self) -> set[str]:
        """Which Versions answer, asked often enough to reach every worker."""
        replies = [self.infer("m", ASK.encode()) for _ in range(24)]
        assert {reply.status for reply in replies} == {200}
        return {reply.json["model_version"] for reply in replies}

    def state(self) -> State:
        return State(self.data / "state.db", self.data / "audit.heads")


def model(number: int) -> dict[str, Any]:
    # In Replicas: they come and go with a change, and nobody may be sent to one that isn't there.
    return {"runtime": "onnx", "artifact": "m", "versions": {"only": [number]}, "isolation": "dedicated"}


def begin(folder: Path) -> Faulty:
    for number, sure in SURE.items():
        artifacts.constant(folder / "m" / str(number) / "model.onnx", sure)
    artifacts.unknown_operator(folder / "bad.onnx")
    return Faulty(folder, {"models": {"m": model(1)}}, "--workers", str(WORKERS))


def carry_out(server: Faulty, point: str, old: str, new: str) -> bool:
    """One change whose controller dies at `point`; whether it is in effect."""
    until(server.controlled, said=server.written)
    known = len(list(server.state().entries()))
    controller = server.child("controller").pid
    server.fault.write_text(point)
    done = living.apply(server)
    assert not server.fault.exists(), f"{point} was not reached: {done.stdout}{done.stderr}"
    until(lambda: server.child("controller").pid != controller, said=server.written)
    in_effect = done.returncode == 0
    entries = list(server.state().entries())
    last = server.state().revisions(1)[0]
    if point == "begin:before":
        assert "ended before it had begun" in done.stderr
        assert len(entries) == known
    else:
        assert len(entries) == known + 1, point
        assert entries[-1].outcome.startswith(Ended.IN_EFFECT.value) == in_effect, entries[-1]
        assert last.why == entries[-1].why or not in_effect
    told = server.log_lines(r"is in effect in \d+ workers")
    assert all(f"in {WORKERS} workers" in line for line in told), (point, told)
    assert server.answers() == {new if in_effect else old}, (point, done.stdout, done.stderr)
    assert server.state().under_way() is None
    assert list(faults(entries, server.state().heads.all())) == []
    published = read_snapshot(DataFolder(server.data).snapshot)
    assert list(msgspec.structs.asdict(published.models["m"].latest).values())[1] == (new if in_effect else old)
    return in_effect


# Where it dies, and whether the change is in effect afterwards.
POINTS = [
    [("begin:before", False), ("begin:after", False), ("publish:before", False), ("publish:after", True)],
    [("published:before", True), ("published:after", True), ("acknowledged:before", True), ("acknowledged:after", True)],
    [("acknowledged#2:before", True), ("end:before", True), ("head:before", True), ("end:after", True)],
]  # fmt: skip


@pytest.mark.parametrize("points", POINTS, ids=["before it is published", "while workers load", "at its end"])
def test_a_change_is_whole_or_not_wherever_the_controller_dies(tmp_path: Path, points: list[tuple[str, bool]]) -> None:
    with begin(tmp_path) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        client = server.client("m", ASK)
        until(lambda: len(client.served()) > 50)
        now, other = "1", "2"
        for point, expected in points:
            server.declare(int(other))
            assert carry_out(server, point, now, other) is expected, point
            if expected:
                now, other = other, now
        served = len(client.served())
        until(lambda: len(client.served()) > served + 50)
        assert {answer.status for answer in client.stop()} == {200}
        assert server.stop() == 0


BACK = ["returning:before", "returning:after", "publish#2:before", "publish#2:after", "end:before"]


def test_a_change_that_no_worker_can_load_goes_back_wherever_the_controller_dies(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        client = server.client("m", ASK)
        until(lambda: len(client.served()) > 50)
        server.declare(2, bad={"runtime": "onnx", "artifact": "bad.onnx"})
        for point in BACK:
            assert carry_out(server, point, "1", "2") is False
        assert {answer.status for answer in client.stop()} == {200}
        assert [one.number for one in server.state().revisions()] == [1]
        outcomes = [entry.outcome for entry in server.state().entries()][1:]
        assert all(outcome.startswith("returned") for outcome in outcomes), outcomes

"""Traffic that never waits, through everything that operators and accidents do: nobody is dropped, and all is recorded."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import artifacts
import living
from living import PROMISE_NS, TESTS, Living, until
from server import tensor

ASK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]})
RATE = 60


class Told(msgspec.Struct, frozen=True):
    """One call, as its caller saw it."""

    status: int
    record: str
    name: str
    sent_ns: int
    ended_ns: int


class Traffic:
    """An open-loop caller of one model."""

    def __init__(self, server: Living, called: str) -> None:
        self._path = server.folder / f"traffic-{called}.txt"
        command = [sys.executable, str(TESTS / "open_loop.py"), str(server.port), called, ASK, str(RATE)]
        with self._path.open("wb") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file)

    def told(self) -> list[Told]:
        lines = [line.split() for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [Told(int(status), record, name, int(sent), int(end)) for status, record, name, sent, end in lines]

    def served(self) -> int:
        return sum(one.status == 200 for one in self.told())

    def stop(self) -> list[Told]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(40)
        return self.told()


class Story:
    """What happens to one server while callers go on, each step with the time in which it happened."""

    def __init__(self, server: Living) -> None:
        self.server = server
        self.windows: dict[str, tuple[int, int]] = {}
        self.traffic = {name: Traffic(server, name) for name in ("m", "r")}

    def step(self, name: str, act: Callable[[], Any]) -> None:
        """Do it, and go on once callers of both models were answered again."""
        self.await_answers()
        begin = time.perf_counter_ns()
        act()
        self.await_answers()
        self.windows[name] = (begin, time.perf_counter_ns())

    def await_answers(self) -> None:
        before = {name: traffic.served() for name, traffic in self.traffic.items()}
        until(
            lambda: all(traffic.served() > before[name] + 20 for name, traffic in self.traffic.items()),
            said=self.server.written,
        )

    def window(self, one: Told) -> str:
        inside = [name for name, (begin, end) in self.windows.items() if one.sent_ns <= end and one.ended_ns >= begin]
        return ", ".join(inside) or "no window"


def declared(folder: Path, only: int) -> dict[str, Any]:
    for number, sure in ((1, [0.9, 0.1]), (2, [0.2, 0.8])):
        artifacts.constant(folder / "m" / str(number) / "model.onnx", sure)
    if not (folder / "r.onnx").exists():
        artifacts.classifier(folder / "r.onnx")
        shutil.copy(folder / "r.onnx", folder / "u.onnx")
    models = {
        "m": {"runtime": "onnx", "artifact": "m", "versions": {"only": [only]}},
        "r": {"runtime": "onnx", "artifact": "r.onnx", "isolation": "dedicated", "replicas": 2},
        "u": {"runtime": "onnx", "artifact": "u.onnx"},
    }
    return {"models": models, "server": {"in_process_ms": 60_000}}


@pytest.mark.timeout(120)
def test_nobody_is_dropped_by_what_operators_and_accidents_do(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path, 1), "--workers", "2") as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        story = Story(server)

        def apply(only: int) -> None:
            server.manifest.write_text(json.dumps({"servery": 1, **declared(tmp_path, only)}))
            done = living.apply(server)
            assert done.returncode == 0, done.stdout + done.stderr

        def change(verb: str) -> None:
            reply = server.ask("POST", f"/v2/repository/models/u/{verb}")
            assert reply.status == 200, reply.body

        def end(which: int, number: int) -> None:
            worker = server.workers()[which]
            worker.send_signal(number)
            worker.wait(20)
            until(lambda: len(server.workers()) == 2, said=server.written)

        def kill_replica() -> None:
            replica = server.replicas()[0]
            replica.kill()
            until(lambda: len([one for one in server.replicas() if one.pid != replica.pid]) == 2, said=server.written)

        story.step("apply", lambda: apply(2))
        story.step("unload", lambda: change("unload"))
        story.step("load", lambda: change("load"))
        story.step("a hangup", lambda: (apply(1), server.signal(signal.SIGHUP)))
        story.step("a Replica is killed", kill_replica)
        story.step("a worker is told to stop", lambda: end(0, signal.SIGTERM))
        story.step("the other worker is told to stop", lambda: end(1, signal.SIGTERM))
        story.step("the controller is killed", lambda: server.child("controller").kill())
        story.step("a worker is killed", lambda: end(0, signal.SIGKILL))
        told = [one for traffic in story.traffic.values() for one in traffic.stop()]
        assert server.stop() == 0
        check(server, story, told)


def check(server: Living, story: Story, told: list[Told]) -> None:
    failed = Counter((story.window(one), one.status) for one in told if one.status != 200)
    # A call that a killed worker has begun can't be answered; there are few at this rate, and each is recorded.
    cut = sum(count for (window, status), count in failed.items() if "a worker is killed" in window and status == 0)
    assert sum(failed.values()) == cut, failed
    assert cut <= 2 * RATE
    kept = server.records("SELECT lower(hex(id)), request_id, outcome, reason FROM records WHERE route IN ('m', 'r')")
    names = Counter(request_id for _, request_id, _, _ in kept)
    assert not [name for name, count in names.items() if count > 1], "none is done twice"
    by_id = {record: (name, outcome) for record, name, outcome, _ in kept}
    for one in told:
        if one.status == 200:
            assert one.record in by_id, f"{one} in {story.window(one)} has no Record"
            assert by_id[one.record][0] == one.name
    lost = {name for _, name, _, reason in kept if reason == "worker_lost"}
    begin, end = story.windows["a worker is killed"]
    assert lost <= {one.name for one in told if one.sent_ns <= end and one.ended_ns >= begin - PROMISE_NS}
    assert Counter(outcome for _, _, outcome, reason in kept if reason != "worker_lost").keys() == {"served"}

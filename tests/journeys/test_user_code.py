"""Models of the user's own code, that crash, hang, print and answer wrongly: the others go on, and callers learn why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import artifacts
import estimators
from living import Living, until
from server import Reply, tensor

CODE = """\
import ctypes, os, sys, time
import numpy as np

class Odd:
    def load(self):
        print("loading in", os.getpid())

    def predict(self, inputs):
        x = inputs["x"]
        what = int(x.max()) if len(x) else 0
        if what == 13:
            raise ValueError("the content is " + str(x.tolist()))
        if what == 14:
            os._exit(3)
        if what == 15:
            ctypes.string_at(0)
        if what == 16:
            time.sleep(600)
        if what == 17:
            return {"y": x.ravel()}
        if what == 18:
            return {"y": np.zeros((len(x) + 1, 1))}
        if what == 19:
            print("said by the model")
            print("to stderr", file=sys.stderr)
        if what == 21:
            self.kept = getattr(self, "kept", []) + [np.ones(4 << 20)]
        if what == 22:
            np.ones(1 << 28)
        if what == 20:
            sys.exit("leaving")
        return {"y": x * 2}
"""
SPEC = {"datatype": "FP32", "shape": [-1, 1]}


def declare(folder: Path) -> dict[str, Any]:
    (folder / "odd.py").write_text(CODE)
    (folder / "broken.py").write_text(
        "import no_such_module_at_all\nclass Broken:\n    def predict(self, inputs): ...\n"
    )
    tensors = {"inputs": [{"name": "x", **SPEC}], "outputs": [{"name": "y", **SPEC}]}
    odd = {"runtime": "python", "artifact": "odd.py", "class": "Odd", **tensors}
    models = {
        "odd": odd | {"call_limit_s": 1},
        "leaks": odd | {"memory_mb": 200},
        "broken": {"runtime": "python", "artifact": "broken.py", "class": "Broken", **tensors},
        "beside": {"runtime": "onnx", "artifact": str(artifacts.identity(folder / "beside.onnx", 1))},
    }
    return {"models": models, "routes": {"safe": {"tiers": [{"name": n, "model": n} for n in ("odd", "beside")]}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    folder = tmp_path_factory.mktemp("odd")
    with Living(folder, declare(folder)) as running:
        yield running


def ask(server: Living, value: float, name: str = "odd", rows: int = 1) -> Reply:
    return server.infer(name, {"inputs": [tensor("x", "FP32", [rows, 1], [value] * rows)]})


def settled(server: Living) -> None:
    """Until the model answers."""
    until(lambda: ask(server, 1).status == 200, said=server.written)


@pytest.mark.parametrize("rows", [0, 1, 300])
def test_it_answers(server: Living, rows: int) -> None:
    settled(server)
    reply = ask(server, 1.5, rows=rows)
    assert (reply.status, reply.json["outputs"][0]["data"]) == (200, [3.0] * rows)


@pytest.mark.parametrize(
    ("value", "status", "told"),
    [
        (13, 502, "failed; the log has the error under record"),
        (20, 502, "failed; the log has the error under record"),
        (17, 502, "output 'y' has shape [2], not [2, 1]"),
        (18, 502, "output 'y' has shape [3, 1], not [2, 1]"),
    ],
)
def test_a_failure_is_told_without_its_content(server: Living, value: float, status: int, told: str) -> None:
    settled(server)
    reply = ask(server, value, rows=2)
    assert reply.status == status, reply.body
    assert told in reply.error
    assert "content" not in reply.error
    assert "leaving" not in reply.error
    assert ask(server, 1).status == 200
    if value == 13:
        assert server.log_lines(r"ValueError: the content is")


@pytest.mark.parametrize("value", [14, 15, 16], ids=["exit", "segfault", "hang"])
def test_a_crash_and_a_hung_call_harm_nobody_else(server: Living, value: float) -> None:
    settled(server)
    worker = server.child("worker")
    reply = ask(server, value)
    assert reply.status in (502, 503), reply.body
    assert ask(server, 1, "beside").status == 200
    answered = ask(server, 1, "safe")
    assert answered.status == 200
    settled(server)
    assert server.child("worker").pid == worker.pid


def test_one_that_leaks_is_replaced_and_the_others_do_not_notice(server: Living) -> None:
    until(lambda: ask(server, 1, "leaks").status == 200, said=server.written)
    statuses: set[int] = set()
    beside: set[int] = set()

    def replaced() -> bool:
        statuses.add(ask(server, 21, "leaks").status)
        beside.add(ask(server, 1, "beside").status)
        return bool(server.log_lines("more than its 200 .memory_mb.; this Replica is replaced"))

    until(replaced, said=server.written)
    until(lambda: ask(server, 1, "leaks").status == 200, said=server.written)
    assert beside == {200}
    assert statuses <= {200, 502, 503}  # 503: it is being replaced; 502: a call was on its way to it when it ended


def test_a_call_that_wants_too_much_memory_at_once_fails(server: Living) -> None:
    until(lambda: ask(server, 1, "leaks").status == 200, said=server.written)
    reply = ask(server, 22, "leaks")  # 2 GiB
    assert reply.status == 502, reply.body
    assert server.log_lines("MemoryError")
    assert ask(server, 1, "leaks").status == 200


def test_what_it_prints_is_in_the_log(server: Living) -> None:
    settled(server)
    assert ask(server, 19).status == 200
    until(lambda: server.log_lines("printed: said by the model$"), said=server.written)
    until(lambda: server.log_lines("^to stderr$"), said=server.written)
    assert server.log_lines("printed: loading in")


def test_one_that_cannot_be_loaded_says_why(server: Living) -> None:
    def told() -> str:
        return json.dumps(server.get("/v2/models/broken/ready").json)

    until(lambda: "No module named 'no_such_module_at_all' (broken.py:1)" in told(), said=server.written)
    refused = ask(server, 1, "broken")
    assert refused.status == 503
    assert "no_such_module_at_all" in refused.error


def test_an_estimator_answers_from_its_own_process(tmp_path: Path) -> None:
    estimators.need_sklearn()
    path = estimators.logistic(tmp_path / "m.skops", names=True)
    with Living(tmp_path, {"models": {"flowers": {"runtime": "sklearn", "artifact": path.name}}}) as server:
        body = {"inputs": [tensor("input", "FP64", [2, 4], [0.05, 0.5, 0.5, 0.5, 0.95, 0.5, 0.5, 0.5])]}
        reply = until(lambda: (r := server.infer("flowers", body)).status == 200 and r, said=server.written)
        assert reply.json["outputs"][0]["data"] == ["a", "c"]
        assert server.get("/v2/models/flowers").json["platform"] == "sklearn"
        body = {"inputs": [tensor("input", "FP64", [0, 4], [])]}
        assert server.infer("flowers", body).json["outputs"][0]["shape"] == [0]

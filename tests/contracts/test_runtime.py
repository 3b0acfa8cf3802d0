"""What every runtime does, whatever it runs: a model with one input whose rows are doubled, and that fails on some."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

import artifacts
from servery.control.resolve import read_version_artifact
from servery.runtimes.onnx import OnnxSession
from servery.runtimes.python import PythonModel
from servery.targets.in_process import Runtime
from servery.terms.manifest import DeclaredTensor, Model
from servery.terms.reasons import Refusal
from servery.terms.request import Array

DOUBLING = """\
import numpy as np

class Doubling:
    def load(self):
        self.two = 2
        self.kept = np.empty((1000, 2), np.int64)

    def predict(self, inputs):
        x = inputs["x"]
        if (x == 13).any():
            raise ValueError("unlucky")
        mine = self.kept[: len(x)]  # the same memory for every call
        mine[:] = x * self.two
        return {"y": mine, "first": mine[:, 0]}
"""


class Case(msgspec.Struct, frozen=True):
    """A runtime with `x` INT64 [rows, 2] -> `y` [rows, 2], twice x, and `first` [rows]; it fails where x has a 13."""

    make: Callable[[Path], Runtime]


def onnx(folder: Path) -> Runtime:
    """Twice x, by a division by zero where x is 13."""
    x = artifacts.tensor("x", ["rows", 2], TensorProto.INT64)
    y = artifacts.tensor("y", ["rows", 2], TensorProto.INT64)
    first = artifacts.tensor("first", ["rows"], TensorProto.INT64)
    path = artifacts.save(
        folder / "doubling.onnx",
        [
            helper.make_node("Sub", ["x", "unlucky"], ["apart"]),
            helper.make_node("Div", ["apart", "apart"], ["one"]),
            helper.make_node("Add", ["one", "one"], ["two"]),
            helper.make_node("Mul", ["x", "two"], ["y"]),
            helper.make_node("Gather", ["y", "zero"], ["first"], axis=1),
        ],
        [x],
        [y, first],
        {"unlucky": np.array(13, np.int64), "zero": np.array(0, np.int64)},
    )
    artifact = read_version_artifact(Model(runtime="onnx", artifact=str(path)), path)
    return OnnxSession(path, artifact.signature, 1)


def python(folder: Path) -> Runtime:
    path = folder / "doubling.py"
    path.write_text(DOUBLING)
    return of_python(path, "Doubling")


def of_python(path: Path, called: str) -> PythonModel:
    model = Model(
        runtime="python",
        artifact=str(path),
        entry=called,
        inputs=(DeclaredTensor("x", "INT64", (-1, 2)),),
        outputs=(DeclaredTensor("y", "INT64", (-1, 2)), DeclaredTensor("first", "INT64", (-1,))),
    )
    return PythonModel(path, called, read_version_artifact(model, path).signature)


CASES = {"onnx": onnx, "python": python}


@pytest.fixture(params=CASES)
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Runtime:
    return CASES[request.param](tmp_path)


def x(*rows: list[int]) -> dict[str, Array]:
    array = np.array(rows, np.int64).reshape(len(rows), 2)
    array.flags.writeable = False  # as a body's memory is
    return {"x": array}


def plain(outputs: dict[str, Array]) -> dict[str, Any]:
    return {name: output.tolist() for name, output in outputs.items()}


def test_it_answers_by_name_and_gives_what_is_asked_for(runtime: Runtime) -> None:
    feeds = x([1, 2], [3, 4])
    assert plain(runtime.run(["first", "y"], feeds)) == {"first": [2, 6], "y": [[2, 4], [6, 8]]}
    assert plain(runtime.run(["first"], feeds)) == {"first": [2, 6]}
    assert feeds["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("rows", [0, 1, 500])
def test_it_answers_any_number_of_rows(runtime: Runtime, rows: int) -> None:
    outputs = runtime.run(["y"], x(*([100 + at, at + 100] for at in range(rows))))
    assert outputs["y"].dtype == np.int64
    assert outputs["y"].shape == (rows, 2)
    assert outputs["y"].tolist() == [[200 + 2 * at] * 2 for at in range(rows)]


def test_what_it_gave_stays_as_it_was(runtime: Runtime) -> None:
    first = runtime.run(["y"], x([1, 2]))
    runtime.run(["y"], x([7, 8]))
    assert plain(first) == {"y": [[2, 4]]}


def test_a_failure_is_one_line_without_what_was_sent_and_the_next_call_works(runtime: Runtime) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 any class; Refusals are the caller's fault
        runtime.run(["y"], x([1, 13]))
    assert not isinstance(raised.value, Refusal)
    assert len(str(raised.value).splitlines()) == 1
    assert "unlucky" not in str(raised.value)
    assert plain(runtime.run(["y"], x([1, 2]))) == {"y": [[2, 4]]}


def test_a_warm_up_gives_the_time_of_a_call(runtime: Runtime) -> None:
    fixed, by_row = runtime.warm(time.perf_counter_ns)
    assert 0 <= fixed < 1e9
    assert 0 <= by_row < 1e9
    assert plain(runtime.run(["y"], x([1, 2]))) == {"y": [[2, 4]]}

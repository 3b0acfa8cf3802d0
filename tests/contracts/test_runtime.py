"""What every runtime does, whatever it runs: here a model that doubles its rows and, where it can, fails on some."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

import artifacts
import estimators
from servery.control.resolve import read_version_artifact
from servery.runtimes.onnx import OnnxSession
from servery.runtimes.python import PythonModel
from servery.runtimes.sklearn import SklearnModel
from servery.targets.in_process import Runtime
from servery.terms.manifest import DeclaredTensor, Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Array

DOUBLING = """\
import numpy as np

class Doubling:
    def load(self):
        self.two = 2
        self.kept = np.empty((1000, 2))

    def predict(self, inputs):
        x = inputs["x"]
        if (x == 13).any():
            raise ValueError("unlucky")
        mine = self.kept[: len(x)]  # the same memory for every call
        mine[:] = x * self.two
        return {"value": mine, "first": mine[:, 0]}
"""


class Case(msgspec.Struct, frozen=True):
    """A runtime with `x` FP64 [rows, 2] -> `value`, twice x; it fails on `bad`, by its own fault or by the caller's."""

    make: Callable[[Path], Runtime]
    bad: float
    callers: bool = False


def onnx(folder: Path) -> Runtime:
    """Twice x, by a division of whole numbers that is one by zero where x is 13."""
    path = artifacts.save(
        folder / "doubling.onnx",
        [
            helper.make_node("Sub", ["x", "unlucky"], ["apart"]),
            helper.make_node("Cast", ["apart"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Div", ["whole", "whole"], ["one"]),
            helper.make_node("Add", ["one", "one"], ["pair"]),
            helper.make_node("Cast", ["pair"], ["two"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["x", "two"], ["value"]),
            helper.make_node("Gather", ["value", "zero"], ["first"], axis=1),
        ],
        [artifacts.tensor("x", ["rows", 2], TensorProto.DOUBLE)],
        [
            artifacts.tensor("value", ["rows", 2], TensorProto.DOUBLE),
            artifacts.tensor("first", ["rows"], TensorProto.DOUBLE),
        ],
        {"unlucky": np.array(13, np.float64), "zero": np.array(0, np.int64)},
    )
    artifact = read_version_artifact(Model(runtime="onnx", artifact=str(path)), path)
    return OnnxSession(path, artifact.signature, 1)


def python(folder: Path) -> Runtime:
    path = folder / "doubling.py"
    path.write_text(DOUBLING)
    outputs = (DeclaredTensor("value", "FP64", (-1, 2)), DeclaredTensor("first", "FP64", (-1,)))
    inputs = (DeclaredTensor("x", "FP64", (-1, 2)),)
    model = Model(runtime="python", artifact=str(path), entry="Doubling", inputs=inputs, outputs=outputs)
    return PythonModel(path, "Doubling", read_version_artifact(model, path).signature)


def sklearn(folder: Path) -> Runtime:
    path = estimators.linear(folder / "doubling.skops", outputs=2, features=2)
    model = Model(runtime="sklearn", artifact=str(path), inputs=(DeclaredTensor("x", "FP64", (-1, 2)),))
    return SklearnModel(path, (), read_version_artifact(model, path).signature, 1)


CASES = {"onnx": Case(onnx, 13), "python": Case(python, 13), "sklearn": Case(sklearn, np.nan, callers=True)}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "sklearn" and importlib.util.find_spec("skops") is None:
        estimators.need_sklearn()
    return CASES[request.param]


@pytest.fixture
def runtime(case: Case, tmp_path: Path) -> Runtime:
    return case.make(tmp_path)


def x(*rows: list[float]) -> dict[str, Array]:
    array = np.array(rows, np.float64).reshape(len(rows), 2)
    array.flags.writeable = False  # as a body's memory is
    return {"x": array}


def doubled(outputs: dict[str, Array]) -> list[Any]:
    assert list(outputs) == ["value"]
    return outputs["value"].round(9).tolist()


def test_it_answers_what_is_asked_for_and_leaves_what_it_was_given(runtime: Runtime) -> None:
    feeds = x([1, 2], [3, 4])
    assert doubled(runtime.run(["value"], feeds)) == [[2, 4], [6, 8]]
    assert feeds["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("rows", [0, 1, 500])
def test_it_answers_any_number_of_rows(runtime: Runtime, rows: int) -> None:
    outputs = runtime.run(["value"], x(*([100.0 + at, 100.0 + at] for at in range(rows))))
    assert outputs["value"].dtype == np.float64
    assert outputs["value"].shape == (rows, 2)
    assert doubled(outputs) == [[200 + 2 * at] * 2 for at in range(rows)]


def test_what_it_gave_stays_as_it_was(runtime: Runtime) -> None:
    first = runtime.run(["value"], x([1, 2]))
    runtime.run(["value"], x([7, 8]))
    assert doubled(first) == [[2, 4]]


def test_a_failure_is_one_line_without_what_was_sent_and_the_next_call_works(case: Case, runtime: Runtime) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 of any class
        runtime.run(["value"], x([1, case.bad]))
    assert isinstance(raised.value, Refusal) == case.callers
    if isinstance(raised.value, Refusal):
        assert raised.value.reason is Reason.INVALID_REQUEST
    assert len(str(raised.value).splitlines()) == 1
    assert "unlucky" not in str(raised.value)
    assert doubled(runtime.run(["value"], x([1, 2]))) == [[2, 4]]


def test_a_warm_up_gives_the_time_of_a_call(runtime: Runtime) -> None:
    fixed, by_row = runtime.warm(time.perf_counter_ns)
    assert 0 <= fixed < 1e9
    assert 0 <= by_row < 1e9
    assert doubled(runtime.run(["value"], x([1, 2]))) == [[2, 4]]

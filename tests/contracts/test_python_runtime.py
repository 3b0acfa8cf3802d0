"""User code that goes wrong: what the log gets, and what anybody else does."""

from __future__ import annotations

import logging
import os
import py_compile
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from servery.control.resolve import read_version_artifact
from servery.runtimes.python import PythonModel
from servery.runtimes.running import CannotRun
from servery.terms.manifest import DeclaredTensor, Model
from servery.terms.reasons import Reason, Refusal

X = (DeclaredTensor("x", "FP32", (-1, 2)),)
Y = (DeclaredTensor("y", "FP32", (-1,)),)
ONE = {"x": np.ones((1, 2), np.float32)}


def made(folder: Path, predict: str, before: str = "") -> PythonModel:
    """A model of a class whose body is `before` and whose `predict` does this."""
    body = "\n".join(f"    {line}" for line in before.splitlines())
    text = f"import numpy as np\nimport sys\n\nclass Mine:\n{body}\n    def predict(self, inputs):\n        {predict}\n"
    folder.mkdir(exist_ok=True)
    path = folder / "mine.py"
    path.write_text(text)
    model = Model(runtime="python", artifact=str(path), entry="Mine", inputs=X, outputs=Y)
    return PythonModel(path, "Mine", read_version_artifact(model, path).signature)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("import no_such_module_at_all", "it can't be imported: No module named 'no_such_module_at_all' (mine.py:5)"),
        ("1 / 0", "it can't be imported: ZeroDivisionError (mine.py:5)"),
        ("def __init__(self):\n    raise KeyError('secret')", "it can't be made: KeyError (mine.py:6)"),
        ("def load(self):\n    open('/no/such/file')", "`load` failed: FileNotFoundError (mine.py:6)"),
        ("def load(self):\n    sys.exit('secret')", "`load` failed: SystemExit (mine.py:6)"),
    ],
)
def test_what_fails_while_it_loads_is_told_in_one_line(
    tmp_path: Path, before: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CannotRun) as raised:
        made(tmp_path, "return {}", before)
    assert str(raised.value) == f"{message}; the log has the traceback"
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    "failure", ["raise ValueError('secret')", "sys.exit('secret')", "raise StopIteration('secret')"]
)
def test_what_fails_in_a_call_has_its_traceback_in_the_log_alone(
    tmp_path: Path, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = made(tmp_path, failure)
    with pytest.raises(CannotRun) as raised:
        model.run(["y"], ONE)
    assert "secret" not in str(raised.value)
    assert "(mine.py:7)" in str(raised.value)
    assert "secret" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        ("return None", "`predict` gave a NoneType, not a dict"),
        ("return [1]", "`predict` gave a list, not a dict"),
        ("return {}", "gave no output 'y'"),
        ("return {'y': np.zeros((len(inputs['x']), 3))}", "output 'y' has shape [1, 3], not [1]"),
        ("return {'y': np.zeros(len(inputs['x']) + 1)}", "output 'y' has shape [2], not [1]"),
    ],
)
def test_a_wrong_answer_names_the_output(tmp_path: Path, predict: str, message: str) -> None:
    model = made(tmp_path, predict)
    with pytest.raises(Refusal) as raised:
        model.run(["y"], ONE)
    assert raised.value.reason is Reason.WRONG_ANSWER
    assert message in raised.value.message
    with pytest.raises(CannotRun, match="def example"):
        model.warm(time.perf_counter_ns)


def test_what_it_prints_are_lines_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "servery.model"):
        model = made(tmp_path, "print('a\\nb', end=''); return {'y': [1.0]}", "print('while it is imported')")
        model.run(["y"], ONE)
        model.run(["y"], ONE)
    assert [record.getMessage() for record in caplog.records] == [
        "printed: while it is imported", *["printed: a", "printed: b"] * 2
    ]  # fmt: skip
    assert capfd.readouterr().out == ""


def test_a_line_without_an_end_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "servery.model"):
        made(tmp_path, "sys.stdout.write('x' * 100_000); return {'y': [1.0]}").run(["y"], ONE)
    assert all(len(record.getMessage()) < 2_100 for record in caplog.records)


def test_an_example_is_what_it_is_warmed_up_with(tmp_path: Path) -> None:
    picky = "assert inputs['x'].sum() == 5; return {'y': [1.0]}"
    example = "def example(self):\n    return {'x': np.full((1, 2), 2.5, np.float32)}"
    assert made(tmp_path / "a", picky, example).warm(time.perf_counter_ns)[0] > 0
    with pytest.raises(CannotRun, match="AssertionError"):
        made(tmp_path / "b", picky).warm(time.perf_counter_ns)
    with pytest.raises(CannotRun, match="disagree about other, x"):
        made(tmp_path / "c", picky, "def example(self):\n    return {'other': 1}").warm(time.perf_counter_ns)


def test_parameters_are_given_where_they_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "class Mine:\n    def predict(self, inputs, parameters):\n        return {'y': [float(len(parameters))]}\n"
    )
    model = Model(runtime="python", artifact=str(path), entry="Mine", inputs=X, outputs=Y)
    runtime = PythonModel(path, "Mine", read_version_artifact(model, path).signature)
    assert runtime.run(["y"], ONE)["y"].tolist() == [0.0]


def _stale(path: Path, old: str, new: str) -> None:
    """A file whose bytecode is of `old`, and which says `new`, at the same size and age."""
    assert len(old) == len(new)
    path.write_text(old)
    age = path.stat().st_mtime_ns
    py_compile.compile(str(path))
    path.write_text(new)
    os.utime(path, ns=(age, age))


def test_what_is_digested_is_what_runs_and_not_bytecode_of_before(tmp_path: Path) -> None:
    text = "class Mine:\n    def predict(self, inputs):\n        return {'y': [%d.0]}\n"
    path = tmp_path / "mine.py"
    _stale(path, text % 1, text % 2)
    model = Model(runtime="python", artifact=str(path), entry="Mine", inputs=X, outputs=Y)
    assert PythonModel(path, "Mine", read_version_artifact(model, path).signature).run(["y"], ONE)["y"].tolist() == [
        2.0
    ]

    folder = tmp_path / "staling"
    (folder / "staling_parts").mkdir(parents=True)
    (folder / "staling_parts" / "__init__.py").write_text("")
    _stale(folder / "staling_parts" / "answer.py", "ANSWER = 1.0\n", "ANSWER = 2.0\n")
    from_parts = "from staling_parts.answer import ANSWER\n"
    (folder / "staling_model.py").write_text(from_parts + text.replace("%d.0", "ANSWER"))
    signature = read_version_artifact(model, path).signature
    before, hooks = list(sys.path), list(sys.path_hooks)
    try:
        runtime = PythonModel(folder, "staling_model.Mine", signature)
        assert runtime.run(["y"], ONE)["y"].tolist() == [2.0]
    finally:
        sys.path[:], sys.path_hooks[:] = before, hooks
    assert not (folder / "__pycache__").exists()


def test_a_folder_brings_its_own_modules(tmp_path: Path) -> None:
    folder = tmp_path / "churning"
    (folder / "parts_of_churning").mkdir(parents=True)
    (folder / "parts_of_churning" / "__init__.py").write_text("ANSWER = 42.0\n")
    (folder / "churn_here.py").write_text(
        "from parts_of_churning import ANSWER\nclass Mine:\n    def predict(self, inputs):\n        return {'y': [ANSWER]}\n"
    )
    (folder / "pathlib.py").write_text("class Mine:\n    def predict(self, inputs): ...\n")
    model = Model(runtime="python", artifact=str(folder), entry="churn_here.Mine", inputs=X, outputs=Y)
    signature = read_version_artifact(model, folder).signature
    before, hooks = list(sys.path), list(sys.path_hooks)
    try:
        assert PythonModel(folder, "churn_here.Mine", signature).run(["y"], ONE)["y"].tolist() == [42.0]
        with pytest.raises(CannotRun, match="another module is called 'pathlib'"):
            PythonModel(folder, "pathlib.Mine", signature)
    finally:
        sys.path[:], sys.path_hooks[:] = before, hooks

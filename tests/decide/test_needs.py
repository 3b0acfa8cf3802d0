"""What a runtime has to be told, with its line and its fix; and a file of the user's own that is checked, not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from servery.control.apply import check
from servery.terms.change import Severity

MANIFEST = """\
servery: 1
models:
  mine:
    runtime: python
    artifact: mine.py
    class: Mine
    inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
    outputs: [{name: y, datatype: FP32, shape: [-1]}]
"""
CODE = "raise SystemExit('this ran')\n\nclass Mine:\n    def predict(self, inputs):\n        return inputs\n"

CHANGES = [
    # (what is written, what stands there instead, where, line, message, fix)
    ("    class: Mine\n", "", "models.mine", 3, "doesn't say its `class`", "add for instance `class: MyModel`"),
    ("    inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]\n", "", "models.mine", 3, "its `inputs`", "add for instance"),
    ("class: Mine", "class: Mien", "models.mine.class", 6, "mine.py has no class 'Mien'", "its classes are `Mine`"),
    ("class: Mine", "class: 3", "models.mine.class", 6, "can't be the number 3", 'in quotes: "3"'),
    ("class: Mine", "class: a-b", "models.mine.class", 6, "can't be the text 'a-b'", "write text"),
    ("[-1, 2]", "[-2, 2]", "models.mine.inputs[0].shape[0]", 7, "can't be the number -2", "from -1"),
    ("FP32, shape: [-1, 2]", "FLOAT, shape: [-1, 2]", "models.mine.inputs[0].datatype", 7, "'FLOAT'", "one of"),
    ("{name: x,", "{name: x, datatype: FP32, shape: [-1]}, {name: x,", "models.mine.inputs[1].name", 7, "two of them", "rename"),
    ("runtime: python", "runtime: pyton", "models.mine.runtime", 4, "'pyton'", "did you mean `python`?"),
    ("artifact: mine.py", "artifact: other.py", "models.mine.artifact", 5, "does not exist", ""),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "where", "line", "message", "fix"), CHANGES)
def test_each_mistake_has_its_place_and_its_fix(
    tmp_path: Path, old: str, new: str, where: str, line: int, message: str, fix: str
) -> None:
    assert old in MANIFEST
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "servery.yaml").write_text(MANIFEST.replace(old, new, 1))
    (problem,) = check(tmp_path / "servery.yaml").problems
    assert (problem.where, problem.line) == (where, line)
    assert message in problem.message
    assert fix in problem.fix


def test_good_code_has_no_problem_and_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "servery.yaml").write_text(MANIFEST)
    assert check(tmp_path / "servery.yaml").problems == ()


def test_a_mistake_in_the_code_is_told_with_its_line_there(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE.replace("inputs):", "inputs:"))
    (tmp_path / "servery.yaml").write_text(MANIFEST)
    checked = check(tmp_path / "servery.yaml")
    (problem,) = checked.problems
    assert (problem.file, problem.line, problem.column) == (str(tmp_path / "mine.py"), 4, 16)
    assert (problem.where, problem.severity) == ("models.mine.artifact", Severity.UNAVAILABLE)
    assert str(problem).startswith(f"{tmp_path / 'mine.py'}:4:16: models.mine.artifact: is not Python: ")
    assert checked.servable  # the others are served


def test_memory_is_bounded_only_where_a_process_can_be_replaced(tmp_path: Path) -> None:
    text = "servery: 1\nmodels:\n  m:\n    runtime: onnx\n    artifact: m\n    memory_mb: 200\n"
    (tmp_path / "servery.yaml").write_text(text)
    problem = check(tmp_path / "servery.yaml").problems[-1]
    assert (problem.where, problem.line) == ("models.m.memory_mb", 6)
    (tmp_path / "servery.yaml").write_text(f"{text}    isolation: dedicated\n")
    assert [one.where for one in check(tmp_path / "servery.yaml").problems] == ["models.m.artifact"]


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:01", "CUDA"])
def test_a_device_is_one_that_there_may_be(tmp_path: Path, device: str) -> None:
    (tmp_path / "servery.yaml").write_text(
        f'servery: 1\nmodels:\n  m:\n    runtime: onnx\n    artifact: m\n    device: "{device}"\n'
    )
    (problem,) = check(tmp_path / "servery.yaml").problems
    assert (problem.where, problem.line) == ("models.m.device", 6)
    assert "`cuda:1`" in problem.fix


@pytest.mark.parametrize("key", ["device: cuda", "trusted: [a.b]"])
def test_what_is_not_for_python_is_told(tmp_path: Path, key: str) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "servery.yaml").write_text(f"{MANIFEST}    {key}\n")
    (problem,) = check(tmp_path / "servery.yaml").problems
    assert problem.line == 9
    assert "does nothing for the runtime `python`" in problem.message


@pytest.mark.parametrize("key", ["class: Mine", "inputs: [{name: x, datatype: FP32, shape: [-1]}]"])
def test_what_a_runtime_has_no_use_for_is_told(tmp_path: Path, key: str) -> None:
    (tmp_path / "servery.yaml").write_text(
        f"servery: 1\nmodels:\n  m:\n    runtime: onnx\n    artifact: m\n    {key}\n"
    )
    problem = check(tmp_path / "servery.yaml").problems[-1]
    assert problem.line == 6
    assert "does nothing for the runtime `onnx`" in problem.message
    assert "`python`" in problem.fix


def test_digests_cover_the_class_and_the_signature_and_not_what_only_others_see(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE + "class Other(Mine): ...\n")
    digests: list[str] = []
    for text in (
        MANIFEST,
        MANIFEST.replace("class: Mine", "class: Other"),
        MANIFEST.replace("[-1, 2]", "[-1, 3]"),
        MANIFEST.replace("FP32, shape: [-1]", "FP64, shape: [-1]"),
        MANIFEST + "    queue: 3\n",
    ):
        (tmp_path / "servery.yaml").write_text(text)
        checked = check(tmp_path / "servery.yaml")
        assert checked.problems == ()
        digests += [version.digest for version in checked.models["mine"].versions]
    assert digests[0] == digests[-1]
    assert len(set(digests)) == 4

"""What is seen of Python code without running it: each mistake with its place, and what is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from servery.runtimes.artifact import ArtifactError
from servery.runtimes.code import code_digest, read_code
from servery.terms.tensors import Signature

NOTHING = Signature((), ())
GOOD = """\
import servery_has_no_such_module

class Base:
    def predict(self, inputs, parameters=None):
        return {}

class MyModel(Base):
    def __init__(self, size=3):
        self.size = size
    def load(self):
        raise SystemExit("this ran")
"""


def written(folder: Path, text: str, name: str = "my_model.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_good_code_is_read_and_not_run(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    artifact = read_code(path, "MyModel", NOTHING, b"")
    assert artifact.files == (path,)
    assert len(artifact.digest) == 64


WRONG = [
    # (what is written, what stands there instead, message, fix, line; 0: the mistake is in the manifest)
    ("    def load(self):", "    def load(self:", "is not Python: '(' was never closed", "just before", 10),
    ("class MyModel", "class Mymodel", "no class 'MyModel'", "`Base`, `Mymodel`", 0),
    (
        "    def predict(self, inputs, parameters=None):",
        "    def guess(self):",
        "no method `predict`",
        "add `def pre",
        7,
    ),
    (
        "predict(self, inputs, parameters=None)",
        "predict(self)",
        "other arguments",
        "write `def predict(self, inputs):`",
        4,
    ),
    ("predict(self, inputs, parameters=None)", "predict(self, a, b, c)", "other arguments", "(self, inputs)", 4),
    ("predict(self, inputs, parameters=None)", "predict(self, a, *, b)", "other arguments", "(self, inputs)", 4),
    ("predict(self, inputs, parameters=None)", "predict()", "other arguments", "(self, inputs)", 4),
    ("    def predict", "    async def predict", "nobody would await", "write `def predict(self, inputs):`", 4),
    ("self, size=3", "self, size", "`__init__` takes other arguments", "write `def __init__(self):`", 8),
    ("load(self)", "load(self, path)", "`load` takes other arguments", "write `def load(self):`", 10),
    ("import servery", "import \0servery", "is not Python", "correct it", 1),
    ("        return {}", "        return {}\n\t\treturn {}", "is not Python", "correct it", 6),
]


@pytest.mark.parametrize(("old", "new", "message", "fix", "line"), WRONG)
def test_each_mistake_has_its_place_and_its_fix(
    tmp_path: Path, old: str, new: str, message: str, fix: str, line: int
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ArtifactError) as raised:
        read_code(path, "MyModel", NOTHING, b"")
    error = raised.value
    assert message in str(error)
    assert fix in error.fix
    assert (error.file, error.line) == ((str(path), line) if line else ("", 0))
    assert error.key == ("" if line else "class")


@pytest.mark.parametrize(
    "text",
    [
        "from impl import MyModel\n",
        "from impl import *\n",
        "MyModel = make()\n",
        "class MyModel(elsewhere.Base): pass\n",
        "class MyModel:\n    predict = other\n",
        "class MyModel:\n    @staticmethod\n    def predict(inputs): ...\n",
        "class MyModel:\n    def predict(self, *given): ...\n",
        "try:\n    import fast\nexcept ImportError:\n    class MyModel:\n        def predict(self, inputs): ...\n",
        "if True:\n    class MyModel:\n        def predict(self, inputs): ...\n",
        "@decorated\nclass MyModel: ...\n",
        "class MyModel:\n    '\\d'\n    def predict(self, inputs): ...\n",
    ],
)
def test_what_only_running_it_would_tell_is_left_alone(tmp_path: Path, text: str) -> None:
    assert read_code(written(tmp_path, text), "MyModel", NOTHING, b"").files


def test_in_a_folder_the_class_may_name_its_module(tmp_path: Path) -> None:
    folder = tmp_path / "churn"
    written(folder, GOOD, "model.py")
    written(folder, GOOD, "deep/inner.py")
    written(folder, GOOD, "package/__init__.py")
    for called in ("MyModel", "model.MyModel", "deep.inner.MyModel", "package.MyModel"):
        assert len(read_code(folder, called, NOTHING, b"").files) == 3
    for called, where in (("other.MyModel", "other.py"), ("deep.MyModel", "deep.py"), ("a.b.MyModel", "a/b.py")):
        with pytest.raises(ArtifactError, match=f"has no {where}") as raised:
            read_code(folder, called, NOTHING, b"")
        assert raised.value.key == "class"
    with pytest.raises(ArtifactError, match="is one file") as raised:
        read_code(folder / "model.py", "model.MyModel", NOTHING, b"")
    assert raised.value.fix.startswith("write `class: MyModel`")


def test_the_digest_covers_every_file_its_name_and_the_extra_but_not_what_python_leaves_behind(tmp_path: Path) -> None:
    folder = tmp_path / "churn"
    written(folder, GOOD, "model.py")
    written(folder, "1", "data/weights.bin")
    first = read_code(folder, "MyModel", NOTHING, b"x").digest
    assert code_digest(folder, b"x") == first
    assert code_digest(folder, b"y") != first
    written(folder, "", "__pycache__/model.cpython-311.pyc")
    written(folder, "", ".git/HEAD")
    written(folder, "", ".hidden")
    assert code_digest(folder, b"x") == first
    (folder / "data" / "weights.bin").rename(folder / "data" / "weights2.bin")
    renamed = code_digest(folder, b"x")
    assert renamed != first
    written(folder, "", "empty.py")
    assert code_digest(folder, b"x") not in (first, renamed)


def test_a_copy_of_a_folder_has_the_same_digest(tmp_path: Path) -> None:
    names = ["model.py", "b.py", "a/z.py", "a.py", "a-b.py", "Z/model.py"]
    for name in names:
        written(tmp_path / "one", name, name)
    for name in reversed(names):
        written(tmp_path / "two", name, name)
    assert code_digest(tmp_path / "one", b"") == code_digest(tmp_path / "two", b"")


def _missing(folder: Path) -> Path:
    return folder


def _pickled(folder: Path) -> Path:
    return written(folder, "x", "model.pkl")


def _data(folder: Path) -> Path:
    return written(folder, "x", "data.bin").parent


def _long(folder: Path) -> Path:
    return folder / ("x" * 5000)


def _zero(folder: Path) -> Path:
    return folder / "zero\0"


def _linked(folder: Path) -> Path:
    written(folder, GOOD, "model.py")
    (folder / "more").symlink_to(folder.parent)
    return folder


def _piped(folder: Path) -> Path:
    written(folder, GOOD, "model.py")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "does not exist"),
        (_pickled, "is not Python"),
        (_data, "holds no Python file"),
        (_linked, "is a link to a folder"),
        (_piped, "is not a regular file"),
        (_long, "can't be read"),
        (_zero, "can't be read"),
    ],
)
def test_what_cannot_be_served_is_one_clear_error(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_code(make(tmp_path / "folder"), "MyModel", NOTHING, b"")

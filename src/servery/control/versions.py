"""Which numbered Versions a Model has, and which of them are served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from servery.control.urls import is_url
from servery.runtimes.artifact import ArtifactError
from servery.terms.manifest import Model, Numbered, Versions

# A number above this is a mistake, such as a date with its time; it would not fit where clients keep it.
_HIGHEST = 2**63 - 1


class Found(msgspec.Struct, frozen=True):
    """Where the artifact of each number lies, ascending: a path, or a URL as text; `problem` says why there is none."""

    artifacts: Mapping[int, Path | str]
    problem: str = ""


def find(model: Model, folder: Path, numbers: Callable[[str], Iterable[int]] = lambda _: ()) -> Found:
    """The artifacts that `model` declares, relative to `folder`. A single one is number 1.

    `numbers` says which numbered folders there are at a URL; ArtifactError.
    """
    if model.artifacts:
        return Found({one.number: _place(folder, one.artifact) for one in sorted(model.artifacts, key=_number)})
    path = _place(folder, model.artifact)
    if isinstance(path, str):
        try:
            return Found({number: f"{path.rstrip('/')}/{number}" for number in numbers(path)} or {1: path})
        except ArtifactError as error:
            return Found({1: path}, str(error))
    try:
        numbered = dict(sorted(_numbered(path))) if path.is_dir() else {}
        return Found({number: artifact_in(inside, model) for number, inside in numbered.items()} or {1: path})
    except OSError as error:
        return Found({1: path}, f"{error.filename or path} can't be read: {error.strerror}")


def _place(folder: Path, written: str) -> Path | str:
    return written if is_url(written) else (folder / written).absolute()


def _numbered(path: Path) -> Iterator[tuple[int, Path]]:
    for inside in path.iterdir():
        name = inside.name
        if name.isascii() and name.isdigit() and not name.startswith("0") and inside.is_dir():
            number = int(name)
            if number <= _HIGHEST:
                yield number, inside


def artifact_in(inside: Path, model: Model) -> Path:
    """`1/model.onnx`, or whatever is the only file of `1/`; several files together are the artifact themselves.

    A `1/model.py` beside other files is a part of them: it may import them.
    """
    files = [file for file in inside.iterdir() if not file.name.startswith(".")]
    named = [file for file in files if file.stem == "model" and file.is_file()]
    if len(named) == 1 and (model.runtime != "python" or len(files) == 1):
        return named[0]
    return files[0] if len(files) == 1 and files[0].is_file() else inside


def _number(one: Numbered) -> int:
    return one.number


def pick(numbers: Iterable[int], versions: Versions) -> tuple[int, ...]:
    """The numbers that the policy serves, ascending. Those that it names and that aren't there are left out."""
    there = sorted(numbers)
    if versions.all:
        return tuple(there)
    if versions.only is not None:
        return tuple(number for number in there if number in versions.only)
    return tuple(there[-(versions.latest or 1) :])

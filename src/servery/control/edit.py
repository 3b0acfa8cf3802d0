"""Edit a manifest: numbers are changed where they stand, and not one other character of the file."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from servery.control.apply import Checked, check
from servery.control.places import Places

_BOM = "\ufeff"


class CannotEdit(Exception):
    """The file can't be edited in place; the message says why, and what to do by hand."""


def with_numbers(text: str, places: Places, numbers: Mapping[str, float]) -> str:
    """`text` with other numbers at these dotted paths. A number that stays the same keeps its spelling. CannotEdit."""
    mark, text = (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)
    lines = text.splitlines(keepends=True)
    spots: dict[tuple[int, int], str] = {}
    for where, number in numbers.items():
        if not places.wrote(where):
            raise CannotEdit(f"{places.file}: {where} is not written there; write {spelled(number)} yourself")
        spot = places.of(where)
        if spots.setdefault(spot, where) != where:
            raise CannotEdit(
                f"{places.file}:{spot[0]}: {where} and {spots[spot]} are one number, which an alias repeats: write both out"
            )
    aliased = _repeated(places, set(spots))
    if aliased:
        raise CannotEdit(f"{places.file}: {aliased} is repeated by an alias, and would change too: write it out first")
    for (line, column), where in sorted(spots.items(), reverse=True):
        before, rest = lines[line - 1][: column - 1], lines[line - 1][column - 1 :]
        written = rest[: len(rest) - len(rest.lstrip("+-.0123456789eE_"))]
        try:
            same = float(written.replace("_", "")) == numbers[where]
        except ValueError:
            raise CannotEdit(
                f"{places.file}:{line}: {where} is not written as a plain number; write it as one"
            ) from None
        if not same:
            lines[line - 1] = before + spelled(numbers[where]) + rest[len(written) :]
    return mark + "".join(lines)


def _repeated(places: Places, spots: set[tuple[int, int]]) -> str:
    """A place that more than one path leads to."""
    seen: dict[tuple[int, int], str] = {}
    for where, spot in places.marks.items():
        if spot in spots and seen.setdefault(spot, where) != where:
            return f"{seen[spot]} (as {where})"
    return ""


def spelled(number: float) -> str:
    """As a person would write it: 0.95, not 0.9500000000000001."""
    return f"{number:.10g}"


def diff(path: Path, before: str, after: str) -> str:
    """What a change of the file is, as a unified diff."""
    lines = before.splitlines(), after.splitlines()
    return "\n".join(difflib.unified_diff(*lines, f"a/{path.name}", f"b/{path.name}", n=1, lineterm=""))


def replace_file(path: Path, before: str, after: str) -> Checked:
    """Put `after` in the place of `before`, whole or not at all, and only if it is as good. CannotEdit, OSError."""
    path = path.resolve()  # a link stays one
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    fresh = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(after.encode())
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, fresh)
        checked = check(fresh)
        if not checked.servable:
            raise CannotEdit("\n".join(map(str, checked.problems)).replace(name, str(path)))
        if read_text(path) != before:
            raise CannotEdit(f"{path} was changed by somebody else meanwhile; nothing was written: run it again")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return checked


def read_text(path: Path) -> str:
    """The file as it is, with its own ends of lines."""
    return path.read_bytes().decode()

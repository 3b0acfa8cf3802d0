"""Labelled examples from a file: CSV, lines of JSON, or numpy's npz."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from servery.terms.request import Array
from servery.terms.tensors import Signature, TensorSpec
from servery.wire.tensors import DTYPES


class Unusable(Exception):
    """Examples that can't be used; the message says which, why, and what to write instead."""


class Examples(msgspec.Struct, frozen=True):
    """Inputs by name, a row for each example, and what is true of each row."""

    feeds: dict[str, Array]
    labels: tuple[str, ...]

    def part(self, start: int, end: int) -> dict[str, Array]:
        return {name: array[start:end] for name, array in self.feeds.items()}


def read_examples(path: Path, signature: Signature, label: str) -> Examples:
    """The examples in a file for models of this signature; `label` names the column or key of what is true. Unusable.

    CSV: for one input all columns but the label, in their order; for several `NAME`, or `NAME.0`, `NAME.1` …
    Lines of JSON, and npz: a value or an array for each input, by its name.
    """
    for spec in signature.inputs:
        if spec.shape[:1] not in ((-1,), (1,)) or spec.datatype == "BF16":
            raise Unusable(f"the input `{spec.name}` has no part for each row, or is BF16; examples can't hold that")
    readers = {".csv": _csv, ".ndjson": _lines, ".jsonl": _lines, ".npz": _npz}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise Unusable(f"{path}: give a file that ends in {', '.join(readers)}")
    try:
        columns, labels = read(path, signature, label)
    except UnicodeDecodeError:
        raise Unusable(f"{path} is not UTF-8 text") from None
    if not labels:
        raise Unusable(f"{path} holds no examples")
    feeds = {spec.name: _array(spec, columns[spec.name], len(labels), path) for spec in signature.inputs}
    return Examples(feeds, tuple(labels))


Columns = dict[str, Any]


def _csv(path: Path, signature: Signature, label: str) -> tuple[Columns, list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        head = next(lines, list[str]())
        if label not in head:
            raise Unusable(f"{path} has no column `{label}`: name it with --label; it has {_some(head)}")
        places = {spec.name: _places(path, spec, head, label, len(signature.inputs)) for spec in signature.inputs}
        rows: list[list[str]] = []
        for row in lines:
            if row and len(row) != len(head):
                raise Unusable(f"{path}:{lines.line_num}: has {len(row)} values, but the first line {len(head)}")
            rows += [row] if row else []
    columns = {name: [[row[at] for at in found] for row in rows] for name, found in places.items()}
    at = head.index(label)
    return columns, [row[at] for row in rows]


def _places(path: Path, spec: TensorSpec, head: Sequence[str], label: str, inputs: int) -> list[int]:
    """Which columns hold an input, in its order."""
    wide = math.prod(spec.shape[1:]) if -1 not in spec.shape[1:] else None
    if inputs == 1:
        found = [at for at, name in enumerate(head) if name != label]
    elif spec.name in head:
        found = [head.index(spec.name)]
    else:
        found = [head.index(f"{spec.name}.{at}") for at in range(len(head)) if f"{spec.name}.{at}" in head]
    if not found or (wide is not None and len(found) != wide):
        raise Unusable(
            f"{path}: the input `{spec.name}` takes {'any number of' if wide is None else wide} values a row, "
            f"but {len(found)} columns are for it"
            + ("" if inputs == 1 else f"; call them `{spec.name}`, or `{spec.name}.0`, `{spec.name}.1` …")
        )
    return found


def _lines(path: Path, signature: Signature, label: str) -> tuple[Columns, list[str]]:
    columns: Columns = {spec.name: [] for spec in signature.inputs}
    labels: list[str] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                example: Any = msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Unusable(f"{path}:{number}: is no object in JSON: {error}") from None
            for name in (label, *columns):
                if name not in example:
                    raise Unusable(f"{path}:{number}: has no `{name}`; it has {_some(list(example))}")
            labels.append(_text(example[label]))
            for name, column in columns.items():
                column.append(example[name])
    return columns, labels


def _npz(path: Path, signature: Signature, label: str) -> tuple[Columns, list[str]]:
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays: dict[str, Array] = dict(held)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise Unusable(f"{path} can't be read as npz: {error}") from None
    for name in (label, *(spec.name for spec in signature.inputs)):
        if name not in arrays:
            raise Unusable(f"{path} has no array `{name}`; it has {_some(list(arrays))}")
    return dict(arrays), [_text(value) for value in arrays[label].ravel().tolist()]


def _array(spec: TensorSpec, column: Any, rows: int, path: Path) -> Array:
    dtype = DTYPES[spec.datatype]
    try:
        given: Array = np.asarray(column, object if spec.datatype == "BYTES" else None)
        if spec.datatype == "BYTES":
            flat: list[Any] = [value if isinstance(value, bytes) else str(value).encode() for value in given.ravel()]
            array = np.empty(len(flat), object)
            array[:] = flat
        elif spec.datatype == "BOOL" and given.dtype.kind in "US":
            array = np.isin(np.char.lower(given), ["true", "1"])
        else:
            array = given.astype(dtype)
        return array.reshape(rows, *spec.shape[1:])
    except (ValueError, TypeError, OverflowError):
        bad = next((at for at, row in enumerate(column) if not _fits(row, dtype, spec)), None)
        place = f"{path}: " if bad is None else f"{path}: example {bad + 1}: "
        raise Unusable(f"{place}it doesn't fit the input `{spec.name}`, {spec.datatype} {list(spec.shape)}") from None


def _fits(row: Any, dtype: np.dtype[Any], spec: TensorSpec) -> bool:
    try:
        np.asarray(row).astype(dtype).reshape([1 if size == -1 else size for size in spec.shape[1:]])
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def right(answers: Array, labels: Sequence[str]) -> Array:
    """By row, whether the answer is the label: numbers are compared as numbers, everything else as text."""
    flat: list[Any] = answers.ravel().tolist()
    if answers.dtype.kind in "iuf":
        return np.array([_number(label) == answer for label, answer in zip(labels, flat, strict=True)], bool)
    said = [answer.decode(errors="replace") if isinstance(answer, bytes) else _text(answer) for answer in flat]
    return np.array([label == answer for label, answer in zip(labels, said, strict=True)], bool)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:8]) + (" …" if len(names) > 8 else "") if names else "nothing"

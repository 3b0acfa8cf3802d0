"""Rows of a file by the names of their columns: CSV, or an object of JSON on each line, either of them gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

Row = dict[str, Any]

ENDS = (".csv", ".jsonl", ".ndjson")


class Unreadable(Exception):
    """A file that can't be used; the message says where, why, and what to write instead."""


def rows_of(path: Path) -> Iterator[tuple[str, Row]]:
    """(where it stands, the row), one after the other; every value of a CSV is a text. Unreadable, OSError."""
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith(ENDS):
        raise Unreadable(f"{path}: give a file that ends in {', '.join(ENDS)}, or in one of them and .gz")
    try:
        with _open(path) as file:
            for number, row in _csv(file) if name.endswith(".csv") else _json(file):
                where = f"{path}:{number}"
                if row is None:
                    raise Unreadable(f"{where}: this line has not as many values as the first")
                yield where, row
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is not UTF-8 text") from None
    except (gzip.BadGzipFile, zlib.error, EOFError, csv.Error) as error:
        raise Unreadable(f"{path} can't be read: {error}") from None
    except msgspec.DecodeError as error:
        raise Unreadable(f"{path}: {error}") from None


def some(names: Sequence[str]) -> str:
    """Names for a message: not more than eight of them."""
    return ", ".join(map(repr, names[:8])) + (" …" if len(names) > 8 else "") if names else "none"


def _open(path: Path) -> io.TextIOBase:
    opened: Any = gzip.open if path.name.lower().endswith(".gz") else open
    return opened(path, "rt", encoding="utf-8-sig", newline="")


def _csv(file: io.TextIOBase) -> Iterator[tuple[int, Row | None]]:
    lines = csv.DictReader(file)
    for row in lines:
        yield lines.line_num, None if None in row or None in row.values() else dict(row)


def _json(file: io.TextIOBase) -> Iterator[tuple[int, Row | None]]:
    decode = msgspec.json.Decoder(Row).decode
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield number, decode(line)
            except msgspec.DecodeError as error:
                raise msgspec.DecodeError(f"line {number} is no object in JSON: {error}") from None

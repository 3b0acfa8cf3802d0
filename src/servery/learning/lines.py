"""Lines of CSV files whose columns are known by name."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from servery.learning.examples import Unusable

RIGHT = {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0}


def read_lines(path: Path, named: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(where it stands, the values by column) of each line of a .csv or .csv.gz file that has the columns `named`. Unusable."""
    if not path.name.lower().endswith((".csv", ".csv.gz")):
        raise Unusable(f"{path}: give a file that ends in .csv or .csv.gz")
    try:
        with _open(path) as file:
            lines = csv.DictReader(file)
            head = list(lines.fieldnames or ())
            if missing := [name for name in named if name not in head]:
                raise Unusable(f"{path} has no column {missing[0]!r}; it has {', '.join(map(repr, head)) or 'none'}")
            for row in lines:
                where = f"{path}:{lines.line_num}"
                if None in row or None in row.values():
                    raise Unusable(f"{where}: this line has not as many values as the first")
                yield where, row
    except UnicodeDecodeError:
        raise Unusable(f"{path} is not UTF-8 text") from None
    except (gzip.BadGzipFile, EOFError, csv.Error) as error:
        raise Unusable(f"{path} can't be read: {error}") from None


def right_in(row: dict[str, str], column: str, where: str) -> float:
    """1 for a right answer, 0 for a wrong one. Unusable."""
    value = RIGHT.get(row[column].strip().lower())
    if value is None:
        raise Unusable(f"{where}: {column!r} is {row[column][:40]!r}; write 1 for a right answer and 0 for a wrong one")
    return value


def _open(path: Path) -> io.TextIOWrapper:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")

"""Prompts that two models have answered, from a CSV file."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import msgspec
import numpy as np

from servery.learning.examples import Unusable
from servery.learning.judged import Judged

LEAST = 50  # prompts: fewer teach nothing that could be told from chance
_RIGHT = {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0}


class Columns(msgspec.Struct, frozen=True):
    """What the columns are called. `group` may be empty."""

    prompt: str = "prompt"
    cheap: str = "cheap"
    strong: str = "strong"
    group: str = ""

    @property
    def named(self) -> tuple[str, ...]:
        return (self.prompt, self.cheap, self.strong, *((self.group,) if self.group else ()))


class Answered(msgspec.Struct, frozen=True):
    """n prompts, whether both models answered them rightly, and their groups, if the file has any."""

    texts: tuple[str, ...]
    judged: Judged
    groups: tuple[str, ...] = ()


def read_answered(path: Path, columns: Columns) -> Answered:
    """The prompts in a .csv or .csv.gz file, with a first line that names the columns. Unusable, with the line."""
    if not path.name.lower().endswith((".csv", ".csv.gz")):
        raise Unusable(f"{path}: give a file that ends in .csv or .csv.gz")
    rows: list[dict[str, str]] = []
    right: list[tuple[float, float]] = []
    try:
        with _open(path) as file:
            lines = csv.DictReader(file)
            head = list(lines.fieldnames or ())
            if missing := [name for name in columns.named if name not in head]:
                raise Unusable(f"{path} has no column {missing[0]!r}; it has {', '.join(map(repr, head)) or 'none'}")
            for row in lines:
                if None in row or None in row.values():
                    raise Unusable(f"{path}:{lines.line_num}: this line has not as many values as the first")
                where = f"{path}:{lines.line_num}"
                right.append((_right(row, columns.cheap, where), _right(row, columns.strong, where)))
                rows.append(row)
    except UnicodeDecodeError:
        raise Unusable(f"{path} is not UTF-8 text") from None
    except (gzip.BadGzipFile, EOFError, csv.Error) as error:
        raise Unusable(f"{path} can't be read: {error}") from None
    cheap, strong = np.array(right).reshape(-1, 2).T
    _check(path, cheap, strong)
    groups = tuple(row[columns.group] for row in rows) if columns.group else ()
    return Answered(tuple(row[columns.prompt] for row in rows), Judged(cheap, strong), groups)


def _open(path: Path) -> io.TextIOWrapper:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _right(row: dict[str, str], column: str, where: str) -> float:
    value = _RIGHT.get(row[column].strip().lower())
    if value is None:
        raise Unusable(f"{where}: {column!r} is {row[column][:40]!r}; write 1 for a right answer and 0 for a wrong one")
    return value


def _check(path: Path, cheap: np.ndarray, strong: np.ndarray) -> None:
    if len(cheap) < LEAST:
        raise Unusable(f"{path} has {len(cheap)} prompts; at least {LEAST} are needed")
    if strong.mean() <= cheap.mean():
        raise Unusable(
            f"{path}: the strong model answers {100 * strong.mean():.1f} % rightly and the cheap one "
            f"{100 * cheap.mean():.1f} %: send everything to the cheap one, or exchange the columns"
        )
    for name, values in (("cheap", cheap), ("strong", strong)):
        if values.min() == values.max():
            raise Unusable(f"{path}: the {name} model answers all prompts alike; there is nothing to learn")

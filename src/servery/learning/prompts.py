"""Prompts that two models have answered, from a CSV file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from servery.learning.estimated import Asked
from servery.learning.examples import Unusable
from servery.learning.judged import Floats, Judged
from servery.learning.lines import read_lines, right_in

LEAST = 50  # prompts: fewer teach nothing that could be told from chance


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
    """n prompts, whether both models answered them rightly, and their groups, if there are any.

    With `asked` it is known of one of the models only, mostly; it is 0 for the other one.
    """

    texts: tuple[str, ...]
    judged: Judged
    groups: tuple[str, ...] = ()
    asked: Asked | None = None


def read_answered(path: Path, columns: Columns) -> Answered:
    """The prompts in a .csv or .csv.gz file, with a first line that names the columns. Unusable, with the line."""
    rows: list[dict[str, str]] = []
    right: list[tuple[float, float]] = []
    for where, row in read_lines(path, columns.named):
        right.append((right_in(row, columns.cheap, where), right_in(row, columns.strong, where)))
        rows.append(row)
    cheap, strong = np.array(right).reshape(-1, 2).T
    check_count(path, "prompts", len(rows))
    check_gap(path, Judged(cheap, strong))
    check_alike(path, {"cheap model": cheap, "strong model": strong})
    groups = tuple(row[columns.group] for row in rows) if columns.group else ()
    return Answered(tuple(row[columns.prompt] for row in rows), Judged(cheap, strong), groups)


def check_count(path: Path, what: str, rows: int) -> None:
    """Whether they are enough. Unusable."""
    if rows < LEAST:
        raise Unusable(f"{path} has {rows} {what}; at least {LEAST} are needed")


def check_alike(path: Path, right: dict[str, Floats]) -> None:
    """Whether there is something to learn of each model, by name. Unusable."""
    for name, values in right.items():
        if values.min() == values.max():
            raise Unusable(f"{path}: the {name} answers all prompts alike; there is nothing to learn")


def check_gap(path: Path, judged: Judged) -> None:
    """Whether the strong model is any better. Unusable."""
    cheap, strong = judged.cheap.mean(), judged.strong.mean()
    if strong <= cheap:
        raise Unusable(
            f"{path}: the strong model answers {100 * strong:.1f} % rightly and the cheap one "
            f"{100 * cheap:.1f} %: send everything to the cheap one, or exchange the columns"
        )

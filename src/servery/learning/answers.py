"""Answers that were judged, from a CSV file: what a verifier learns from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from servery.learning.judged import Floats, Judged
from servery.learning.lines import read_lines, right_in
from servery.learning.prompts import check_alike, check_count, check_gap


class Columns(msgspec.Struct, frozen=True):
    """What the columns are called. `strong`: whether the next tier's model answered rightly; it and `group` may be empty."""

    prompt: str = "prompt"
    answer: str = "answer"
    right: str = "right"
    strong: str = ""
    group: str = ""

    @property
    def named(self) -> tuple[str, ...]:
        return tuple(name for name in (self.prompt, self.answer, self.right, self.strong, self.group) if name)


class JudgedAnswers(msgspec.Struct, frozen=True):
    """n prompts with their answers, whether these are right (0 or 1), and the groups of the prompts, if there are any.

    `strong`: whether another model answered rightly, if that is known.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    right: Floats
    strong: Floats | None = None
    groups: tuple[str, ...] = ()

    @property
    def judged(self) -> Judged | None:
        """Both models beside each other."""
        return None if self.strong is None else Judged(self.right, self.strong)


def read_answers(path: Path, columns: Columns) -> JudgedAnswers:
    """The answers in a .csv or .csv.gz file, with a first line that names the columns. Unusable, with the line."""
    rows: list[dict[str, str]] = []
    right: list[float] = []
    strong: list[float] = []
    for where, row in read_lines(path, columns.named):
        right.append(right_in(row, columns.right, where))
        if columns.strong:
            strong.append(right_in(row, columns.strong, where))
        rows.append(row)
    found = JudgedAnswers(
        tuple(row[columns.prompt] for row in rows),
        tuple(row[columns.answer] for row in rows),
        np.array(right),
        np.array(strong) if columns.strong else None,
        tuple(row[columns.group] for row in rows) if columns.group else (),
    )
    check_count(path, "answers", len(rows))
    check_alike(path, {"model": found.right})
    if found.judged is not None:
        check_gap(path, found.judged)
    return found

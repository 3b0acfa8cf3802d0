"""Where each part of a Manifest was written, so that a problem can name its line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

import msgspec

from servery.terms.change import Problem, Severity

_PLAIN = re.compile(r"[^\s.\[\]\"]+")


def at(where: str, *steps: str | int) -> str:
    """The dotted path `steps` further on: at("routes", "digits", "tiers", 0) is `routes.digits.tiers[0]`."""
    for step in steps:
        if isinstance(step, int):
            where += f"[{step}]"
        elif _PLAIN.fullmatch(step) and step.isprintable():
            where += f".{step}" if where else step
        else:
            where += f"[{json.dumps(step)}]"
    return where


def parent(where: str) -> str:
    """The path one step back; of a name that holds dots or brackets it may take several steps to leave it."""
    return where[: max(where.rfind("."), where.rfind("["), 0)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that `word` is a slip of, or ""."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), "")


class Places(msgspec.Struct, frozen=True):
    """Line and column, from 1, of each dotted path that was written in `file`."""

    file: str
    marks: dict[str, tuple[int, int]] = {}

    def wrote(self, where: str) -> bool:
        return where in self.marks

    def wrote_in(self, where: str) -> bool:
        """Whether anything inside of `where` was written."""
        return any(mark.startswith((where + ".", where + "[")) for mark in self.marks)

    def of(self, where: str) -> tuple[int, int]:
        """The place of `where`, or of the nearest part around it; (0, 0) when nothing was written."""
        while where and where not in self.marks:
            where = parent(where)
        return self.marks.get(where, (0, 0))

    def problem(self, where: str, message: str, fix: str = "", severity: Severity = Severity.ERROR) -> Problem:
        line, column = self.of(where)
        return Problem(self.file, line, column, where, message, fix, severity)

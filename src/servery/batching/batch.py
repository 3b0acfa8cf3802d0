"""Calls joined to one batch, and its outputs split again; no row meets another caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from servery.terms.request import Array, Call


class WrongRows(Exception):
    """A batch's outputs can't be split: a model that does this can't be trusted with a batch."""


def join(calls: Sequence[Call]) -> dict[str, Array]:
    """The feeds of calls that have one key, row after row in their order."""
    return {name: np.concatenate([call.feeds[name] for call in calls]) for name in calls[0].feeds}


def split(calls: Sequence[Call], outputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Each call's outputs, as views. Raises WrongRows unless every output asked for has exactly a row for each row sent."""
    total = sum(call.rows for call in calls)
    for name in calls[0].fetch:
        if name not in outputs:
            raise WrongRows(f"it gave no output '{name}'")
        if outputs[name].shape[:1] != (total,):
            raise WrongRows(f"it gave '{name}' in shape {outputs[name].shape} for {total} rows")
    parts: list[dict[str, Array]] = []
    start = 0
    for call in calls:
        end = start + call.rows
        parts.append({name: outputs[name][start:end] for name in call.fetch})
        start = end
    return parts


def shares(rows: Sequence[int], busy_ns: int) -> list[int]:
    """What each call is charged of a batch's time, by its rows; together exactly the whole."""
    weights = [max(count, 1) for count in rows]
    total, sums = sum(weights), 0
    marks = [0]
    for weight in weights:
        sums += weight
        marks.append(busy_ns * sums // total)
    return [after - before for before, after in pairwise(marks)]

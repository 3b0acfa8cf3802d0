"""Whether two outputs say the same. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servery.terms.request import Array


def near(one: Array, other: Array, within: float) -> NDArray[np.bool_]:
    """Element by element, of two arrays of one shape: texts and flags are equal, numbers no further apart than `within`."""
    if one.dtype.kind in "Ob" or other.dtype.kind in "Ob":
        return np.asarray(one == other, np.bool_)
    return np.asarray(np.isclose(one.astype(np.float64), other.astype(np.float64), 0, within, equal_nan=True), np.bool_)


def rows_alike(one: Array, other: Array, rows: int, by_row: bool, within: float) -> NDArray[np.bool_]:
    """The same row by row. What isn't told apart by row says the same for all of them, or for none."""
    if one.shape != other.shape:
        return np.zeros(rows, np.bool_)
    found = near(one, other, within)
    if by_row and one.shape[:1] == (rows,):
        return np.asarray(found.reshape(rows, -1).all(axis=1), np.bool_)
    return np.full(rows, found.all())

"""What user code gave, held against what was declared: a wrong answer names its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Array
from servery.terms.tensors import TensorSpec
from servery.wire.tensors import DTYPES

# Kinds of numbers (numpy's letters) of which one may become the other, if no number changes by it.
_LIKE = frozenset({("i", "i"), ("i", "u"), ("u", "i"), ("u", "u"), ("f", "f"), ("i", "f"), ("u", "f")})


def conform(spec: TensorSpec, given: Mapping[str, object], rows: int) -> Array:
    """The output of this name as the array that was declared, a copy; a Refusal where it is another one.

    Numbers are converted where none of them changes, and rounded from one floating-point type to a smaller one.
    """
    if spec.name not in given:
        raise wrong(f"it gave no output '{spec.name}'")
    value = given[spec.name]
    try:  # numpy's own arrays of bytes would lose the zeros at the end of each
        text = spec.datatype == "BYTES" and not isinstance(value, np.ndarray)
        array: Array = np.asarray(value, object if text else None)
    except Exception as error:  # lists of unequal length; an object may raise what it likes
        raise wrong(f"output '{spec.name}' is no array ({type(error).__name__})") from None
    wanted = (rows, *spec.shape[1:]) if spec.by_row else spec.shape
    if len(array.shape) != len(wanted) or any(
        want not in (-1, size) for size, want in zip(array.shape, wanted, strict=True)
    ):
        raise wrong(f"output '{spec.name}' has shape {list(array.shape)}, not {list(wanted)} (-1: any size)")
    return _as_bytes(spec, array) if spec.datatype == "BYTES" else _as_numbers(spec, array)


def _as_numbers(spec: TensorSpec, array: Array) -> Array:
    dtype = DTYPES[spec.datatype]
    if np.can_cast(array.dtype, dtype, "safe") and array.dtype.kind in "biuf":
        return np.array(array, dtype)
    if (array.dtype.kind, dtype.kind) not in _LIKE:
        raise wrong(f"output '{spec.name}' is {array.dtype}, which is no {spec.datatype}")
    with np.errstate(all="ignore"):
        converted = array.astype(dtype)
    same = np.isinf(converted) == np.isinf(array) if dtype.kind == "f" else converted == array
    if not np.all(same):
        raise wrong(f"output '{spec.name}' holds numbers that {spec.datatype} can't hold ({array.dtype} was given)")
    return converted


def _as_bytes(spec: TensorSpec, array: Array) -> Array:
    flat: list[Any] = array.ravel().tolist()
    if not all(isinstance(element, str | bytes) for element in flat):
        raise wrong(f"output '{spec.name}' is {array.dtype}, but BYTES are text or bytes")
    found = np.empty(len(flat), dtype=object)
    found[:] = [_encoded(spec, element) for element in flat]
    return found.reshape(array.shape)


def _encoded(spec: TensorSpec, element: str | bytes) -> bytes:
    try:
        return element.encode() if isinstance(element, str) else element
    except UnicodeEncodeError:
        raise wrong(f"output '{spec.name}' holds text that UTF-8 can't write") from None


def wrong(message: str) -> Refusal:
    """An answer that isn't what was declared."""
    return Refusal(Reason.WRONG_ANSWER, message)

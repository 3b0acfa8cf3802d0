"""Tensors as Content holds them: the form of the Open Inference Protocol in JSON, with no more than the first elements. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from servery.terms.request import Array, Tensor

ELEMENTS = 4_096  # of each tensor
TEXT_BYTES = 65_536  # of the elements of a BYTES tensor, together


class Glimpse(msgspec.Struct, frozen=True, gc=False):
    """A tensor whose first elements were copied, so that the rest needn't be held."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    first: Array


class _Told(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]
    cut: bool = False


_encode = msgspec.json.Encoder().encode


def glimpse(tensors: Sequence[Tensor]) -> tuple[Glimpse, ...]:
    """The first elements of each, copied."""
    return tuple([Glimpse(one.name, one.datatype, one.array.shape, one.array.flat[:ELEMENTS]) for one in tensors])


def encode(part: str, glimpses: Sequence[Glimpse]) -> tuple[bytes, bool]:
    """`{"inputs": […]}` or `{"outputs": […]}`, as `part` says, and whether any tensor has more than it tells.

    Elements stand in row-major order, BF16 as raw 16 bits, NaN and infinities as null, bytes that are no UTF-8 with marks instead.
    """
    told = [_told(one) for one in glimpses]
    return _encode({part: told}), any(one.cut for one in told)


def _told(one: Glimpse) -> _Told:
    size = 1
    for length in one.shape:
        size *= length
    data: list[Any] = one.first.tolist()
    if one.datatype == "BYTES":
        data = _texts(data)
    return _Told(one.name, one.datatype, one.shape, data, len(data) < size)


def _texts(elements: Sequence[bytes | str]) -> list[str]:
    texts: list[str] = []
    left = TEXT_BYTES
    for element in elements:
        left -= len(element)
        if left < 0:
            break
        texts.append(element if isinstance(element, str) else element.decode(errors="replace"))
    return texts

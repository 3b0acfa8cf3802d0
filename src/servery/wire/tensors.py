"""Tensor data of the Open Inference Protocol: JSON numbers and raw little-endian bytes to numpy arrays and back."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Array
from servery.terms.tensors import DATATYPES, TensorSpec

Buffer = bytes | memoryview | msgspec.Raw

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}

# struct's letters check each number's range at C speed, which numpy's conversion of a list does not.
_PACK = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
_ELEMENT: dict[str, type] = {"BOOL": bool, "FP32": float, "FP64": float, "BYTES": str}
_MAX_RANK = 16
_MAX_ELEMENTS = 2**40


def bad(message: str) -> Refusal:
    return Refusal(Reason.INVALID_REQUEST, message)


def count_elements(name: str, shape: list[int], datatype: str) -> int:
    """The number of elements that `shape` declares; refuses unknown datatypes and impossible shapes."""
    if datatype not in DATATYPES:
        raise bad(f"tensor '{name}': datatype '{datatype}' is unknown; use one of {', '.join(DATATYPES)}")
    if len(shape) > _MAX_RANK:
        raise bad(f"tensor '{name}': shape has {len(shape)} dimensions; at most {_MAX_RANK} are possible")
    count = 1
    for size in shape:
        if size < 0:
            raise bad(f"tensor '{name}': shape {shape} has a negative dimension; state the actual sizes")
        count *= size
    if count > _MAX_ELEMENTS or (not count and math.prod(size or 1 for size in shape) > _MAX_ELEMENTS):
        raise bad(f"tensor '{name}': shape {shape} is larger than any body; at most 2^40 elements are possible")
    return count


_NOT_IN_JSON = frozenset({"FP16", "BF16"})


@functools.cache
def _decoder(datatype: str, depth: int) -> Callable[[Any], list[Any]]:
    kind: Any = _ELEMENT.get(datatype, int)
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind).decode


@functools.lru_cache(maxsize=512)
def _packer(datatype: str, count: int) -> struct.Struct:
    return struct.Struct(f"<{count}{_PACK[datatype]}")


def _flatten(name: str, values: list[Any], shape: list[int]) -> list[Any]:
    level = [values]
    for axis, size in enumerate(shape):
        if any(len(part) != size for part in level):
            raise bad(f"tensor '{name}': data is not nested as shape {shape} says (dimension {axis} must have {size})")
        level = list(chain.from_iterable(level))
    return level


def from_json(name: str, datatype: str, shape: list[int], raw: Buffer) -> Array:
    """The array of a JSON tensor, whose data may be flat or nested as its shape."""
    count = count_elements(name, shape, datatype)
    if datatype in _NOT_IN_JSON:
        raise bad(f"tensor '{name}': {datatype} can't be sent as JSON numbers; use the binary tensor data extension")
    try:
        values = _decoder(datatype, 1)(raw)
    except UnicodeDecodeError:
        raise bad(f"tensor '{name}': data holds bytes that are not UTF-8 text") from None
    except (msgspec.ValidationError, RecursionError) as error:
        values = _nested(name, datatype, shape, raw, str(error))
    if len(values) != count:
        raise bad(f"tensor '{name}': data has {len(values)} elements; shape {shape} needs {count}")
    if datatype == "BYTES":
        array = np.empty(count, dtype=object)
        array[:] = [text.encode() for text in values]
        return array.reshape(shape)
    try:
        packed = _packer(datatype, count).pack(*values)
    except (struct.error, OverflowError) as error:
        raise bad(f"tensor '{name}': a number is out of range for {datatype} ({error})") from None
    return np.ndarray(shape, DTYPES[datatype], packed)


def _nested(name: str, datatype: str, shape: list[int], raw: Buffer, flat_error: str) -> list[Any]:
    """The values of data that isn't flat; where it isn't nested either, the error of the form that was meant."""
    if len(shape) < 2 or not bytes(raw)[:64].lstrip()[1:].lstrip().startswith(b"["):
        raise bad(f"tensor '{name}' ({datatype}): data: {flat_error}")
    try:
        values = _decoder(datatype, len(shape))(raw)
    except UnicodeDecodeError:
        raise bad(f"tensor '{name}': data holds bytes that are not UTF-8 text") from None
    except (msgspec.ValidationError, RecursionError) as error:
        raise bad(f"tensor '{name}' ({datatype}): data: {error}") from None
    return _flatten(name, values, shape)


def from_binary(name: str, datatype: str, shape: list[int], raw: memoryview) -> Array:
    """The array over a raw block: no copy, except where the block isn't aligned for its datatype."""
    count = count_elements(name, shape, datatype)
    if datatype == "BYTES":
        return _from_length_prefixed(name, shape, raw, count)
    dtype = DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise bad(
            f"tensor '{name}': its binary data has {len(raw)} bytes; "
            f"shape {shape} of {datatype} needs {count * dtype.itemsize}"
        )
    if datatype == "BOOL" and bytes(raw).translate(None, b"\x00\x01"):
        raise bad(f"tensor '{name}': BOOL elements must be the bytes 0 or 1")
    array = np.ndarray(shape, dtype, raw)
    return array if array.flags.aligned else array.copy()


def from_raw(spec: TensorSpec, raw: bytes) -> Array:
    """The array of an input that is sent as nothing but its data. One free size follows from the length; the other free
    ones are 1. BYTES are one element, without its length in front.
    """
    shape = [1 if size < 0 else size for size in spec.shape]
    if spec.datatype == "BYTES":
        if math.prod(shape) != 1:
            raise bad(f"tensor '{spec.name}' has several elements: data alone is for one")
        return np.array([raw], object).reshape(shape)
    free = [at for at, size in enumerate(spec.shape) if size < 0]
    one = math.prod(shape) * DTYPES[spec.datatype].itemsize
    if free and one:
        if len(raw) % one:
            raise bad(f"tensor '{spec.name}': {len(raw)} bytes don't make whole rows of {one} bytes")
        shape[free[0]] = len(raw) // one
    return from_binary(spec.name, spec.datatype, shape, memoryview(raw))


def _from_length_prefixed(name: str, shape: list[int], raw: memoryview, count: int) -> Array:
    array = np.empty(count, dtype=object) if count * 4 <= len(raw) else None
    at = 0
    if array is None:
        raise bad(f"tensor '{name}': its binary data has {len(raw)} bytes, too few for {count} BYTES elements")
    for index in range(count):
        start = at + 4
        end = start + int.from_bytes(raw[at:start], "little")
        if start > len(raw) or end > len(raw):
            raise bad(f"tensor '{name}': element {index} runs beyond the {len(raw)} bytes of its binary data")
        array[index] = bytes(raw[start:end])
        at = end
    if at != len(raw):
        raise bad(f"tensor '{name}': {len(raw) - at} bytes are left after its {count} BYTES elements")
    return array.reshape(shape)


def to_json(name: str, datatype: str, array: Array) -> list[Any]:
    """The elements in row-major order; the encoder writes NaN and infinities as null."""
    if datatype == "BF16":
        raise bad(f"output '{name}': BF16 can't be written as JSON numbers; ask for it with binary_data")
    flat = array.ravel().tolist()
    if datatype != "BYTES":
        return flat
    try:
        return [element if isinstance(element, str) else element.decode() for element in flat]
    except UnicodeDecodeError:
        raise bad(f"output '{name}': not UTF-8 text; ask for it with binary_data") from None


def to_binary(datatype: str, array: Array) -> memoryview | bytes:
    """The raw block of an output, without a copy where the array is contiguous."""
    if datatype != "BYTES":
        contiguous = np.ascontiguousarray(array, DTYPES[datatype])
        return contiguous.reshape(-1).view(np.uint8).data if contiguous.size else b""
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        block = element.encode() if isinstance(element, str) else element
        parts += (len(block).to_bytes(4, "little"), block)
    return b"".join(parts)

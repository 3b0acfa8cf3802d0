"""The shape of what goes in and comes out of a Model: datatypes of the Open Inference Protocol and tensor signatures."""

from __future__ import annotations

import msgspec

# Bytes per element; BYTES is variable (a 4-byte little-endian length before each element).
DATATYPES: dict[str, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": 0,
}


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a Model; -1 stands for any size. The first dimension counts rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True):
    """What a Version takes and gives, in the artifact's own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    platform: str = ""

    def input(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.outputs if spec.name == name), None)

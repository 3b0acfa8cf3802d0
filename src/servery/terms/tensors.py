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
    """One input or output of a Model; -1 stands for any size. Where the first dimension is free, it counts rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def by_row(self) -> bool:
        """Whether it has a part for each row; if not, all rows share it whole."""
        return self.shape[:1] == (-1,)


class Signature(msgspec.Struct, frozen=True):
    """What a Version takes and gives, in the artifact's own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    platform: str = ""

    @property
    def one_row(self) -> bool:
        """Whether a call is always exactly one row, of shape [1, …]."""
        return all(spec.shape[:1] == (1,) for spec in self.inputs)

    @property
    def has_rows(self) -> bool:
        """Whether rows can be told apart at all. A call of a Version where they can't counts as one row."""
        return self.one_row or any(spec.by_row for spec in self.inputs)

    def input(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.outputs if spec.name == name), None)

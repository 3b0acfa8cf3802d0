"""What an artifact says of itself, read without running it: its signature and its digest.

Importing onnx takes longer than everything else of a check, so it happens when the first artifact is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from servery.terms.tensors import Signature, TensorSpec

if TYPE_CHECKING:
    import onnx

PLATFORM = "onnxruntime_onnx"

# By onnx.TensorProto.DataType.
_DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}


class ArtifactError(Exception):
    """An artifact that can't be served; the message says why and, where it is known, what to do.

    `key` is what of the Model's declaration it is about ("": the artifact); `file`, `line` and `column` are set where the place is one
    inside of the artifact.
    """

    def __init__(
        self, message: str, fix: str = "", key: str = "", file: str = "", line: int = 0, column: int = 0
    ) -> None:
        super().__init__(message)
        self.fix = fix
        self.key = key
        self.file = file
        self.line = line
        self.column = column


class Artifact(msgspec.Struct, frozen=True):
    """What was read: the signature, all files that decide what it answers, and a digest of them.

    The signature is empty where the declaration would have to say it, and doesn't.
    """

    signature: Signature
    files: tuple[Path, ...]
    digest: str


def read_artifact(path: Path, extra: bytes = b"") -> Artifact:
    """Read the model at `path`; its digest covers `extra` too. Tensors are in the model's own order. ArtifactError."""
    model = _load(path)
    files = (path, *_weight_files(model, path))
    return Artifact(_signature(model), files, digest_of(files, extra))


def digest_of(files: Iterable[Path], extra: bytes) -> str:
    """A SHA-256, in hex, over what is in the files now, and `extra`. ArtifactError."""
    total = hashlib.sha256()
    for file in files:
        total.update(file_digest(file))
    total.update(extra)
    return total.hexdigest()


def weights_beside(path: Path) -> tuple[str, ...]:
    """The names of the files that an ONNX model keeps weights in, below its own folder, whether or not they are there.

    ArtifactError.
    """
    found = {
        entry.value
        for tensor in _tensors(_load(path).graph)
        if tensor.data_location == tensor.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(sorted(name for name in found if name and not name.startswith("/") and ".." not in name.split("/")))


def file_digest(path: Path) -> bytes:
    """SHA-256 of what is in the file. ArtifactError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}") from None


def _load(path: Path) -> onnx.ModelProto:
    try:
        found, is_file = path.exists(), path.is_file()
    except OSError as error:  # a name that is too long, a folder that is closed to us
        raise ArtifactError(f"{path} can't be read: {error.strerror}") from None
    if not is_file:
        raise ArtifactError(f"{path} {'is not a file' if found else 'does not exist'}")
    import onnx  # noqa: PLC0415 (see above)
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    try:
        model = onnx.load_model_from_string(path.read_bytes())  # leaves weights in other files alone
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}") from None
    except DecodeError:
        raise ArtifactError(f"{path} is not an ONNX model, or only a part of one: copy it again") from None
    if not model.ir_version or not model.graph.output:
        raise ArtifactError(f"{path} is not an ONNX model: it has no graph with outputs")
    return model


def _signature(model: onnx.ModelProto) -> Signature:
    if any(not _has_shape(value) for value in _inputs(model)) or any(
        not _has_shape(value) for value in model.graph.output
    ):
        from onnx import shape_inference  # noqa: PLC0415 (see above)

        model = shape_inference.infer_shapes(model)
    return Signature(
        inputs=tuple(_spec("input", value) for value in _inputs(model)),
        outputs=tuple(_spec("output", value) for value in model.graph.output),
        platform=PLATFORM,
    )


def _inputs(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, ...]:
    """The inputs that a caller gives: old files list their weights as inputs too."""
    weights = {weight.name for weight in model.graph.initializer}
    weights.update(weight.values.name for weight in model.graph.sparse_initializer)
    return tuple(value for value in model.graph.input if value.name not in weights)


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return not value.type.HasField("tensor_type") or value.type.tensor_type.HasField("shape")


def _spec(side: str, value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.WhichOneof("value") or "untyped value"
    if kind != "tensor_type":
        advice = ": export it with zipmap=False" if side == "output" and kind in ("sequence_type", "map_type") else ""
        raise ArtifactError(f"{side} {value.name!r} is a {kind.removesuffix('_type')}, not a tensor{advice}")
    tensor = value.type.tensor_type
    if (datatype := _DATATYPES.get(tensor.elem_type)) is None:
        raise ArtifactError(
            f"{side} {value.name!r} has an element type (ONNX number {tensor.elem_type}) that can't be served"
        )
    if not tensor.HasField("shape"):
        raise ArtifactError(f"{side} {value.name!r} has no shape: export it with one; free dimensions may have names")
    return TensorSpec(value.name, datatype, tuple(_size(dimension) for dimension in tensor.shape.dim))


def _size(dimension: onnx.TensorShapeProto.Dimension) -> int:
    return dimension.dim_value if dimension.HasField("dim_value") and dimension.dim_value > 0 else -1


def _weight_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The files beside the artifact that hold its weights, each once, in the order of their first use."""
    folder = path.parent.resolve()
    found: dict[Path, None] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        try:
            # A link may lead out of the folder as well as "..": where the file really is counts.
            file = (folder / location).resolve()
            is_file = file.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, links in a ring, a zero byte
            raise ArtifactError(f"{path} keeps weights in {location!r}, which can't be read: {error}") from None
        if not location or not file.is_relative_to(folder) or file == folder:
            raise ArtifactError(
                f"{path} keeps weights in {location!r}, outside of its own folder: move the file beside it"
            )
        if not is_file:
            raise ArtifactError(f"{path} keeps weights in {location!r}, which does not exist beside it")
        found[file] = None
    return tuple(found)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _tensors(inner)

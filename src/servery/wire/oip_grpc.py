"""The Open Inference Protocol v2 over gRPC: messages to terms and back.

Source: kserve/open-inference-protocol, open_inference_grpc.proto, and Triton's ModelStreamInfer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from servery.terms.request import Answer, Array, Inference, Scalar, Tensor, Wanted
from servery.terms.tensors import Signature, TensorSpec
from servery.wire.parameters import bounded
from servery.wire.proto import open_inference_grpc_pb2 as pb
from servery.wire.tensors import DTYPES, bad, count_elements, from_binary, to_binary

# The field that holds a datatype's elements, where they aren't raw. 16-bit floats have none.
FIELDS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

# What one message can carry, less what its other fields may take.
_MOST_BYTES = 2**31 - 2**20

Parameters = Mapping[str, Any]


def parse_infer(message: bytes) -> pb.ModelInferRequest:
    """The request in a message; Refusal(INVALID_REQUEST) when it is none."""
    try:
        return pb.ModelInferRequest.FromString(message)
    except DecodeError:
        raise bad("this is not a message of the protocol: it can't be read as ModelInferRequest") from None


def decode_infer(request: pb.ModelInferRequest) -> Inference:
    """The Inference of a request with raw or typed contents; raw ones are answered raw.

    Raises Refusal(INVALID_REQUEST) naming the field or tensor that is wrong.
    """
    raw = request.raw_input_contents
    inputs = _from_raw(request, raw) if raw else tuple([_from_typed(tensor) for tensor in request.inputs])
    wanted = tuple([_wanted(output, bool(raw)) for output in request.outputs]) if request.outputs else ()
    if not request.parameters:
        return Inference(request.id, inputs, wanted, bool(raw), 0)
    timeout_ns = _timeout_us(request.parameters) * 1000
    return Inference(request.id, inputs, wanted, bool(raw), timeout_ns, bounded(_others(request.parameters)))


def _from_raw(request: pb.ModelInferRequest, raw: Sequence[bytes]) -> tuple[Tensor, ...]:
    if len(raw) != len(request.inputs):
        raise bad(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; "
            "send one for each, in the same order"
        )
    tensors: list[Tensor] = []
    for tensor, block in zip(request.inputs, raw, strict=True):
        name, datatype = tensor.name, tensor.datatype
        if tensor.HasField("contents") and tensor.contents.ByteSize():
            raise bad(f"tensor '{name}' has `contents` beside raw_input_contents; send one of them")
        if tensor.parameters:
            _check_place(f"tensor '{name}'", tensor.parameters)
        tensors.append(Tensor(name, datatype, from_binary(name, datatype, list(tensor.shape), memoryview(block))))
    return tuple(tensors)


def _from_typed(tensor: Any) -> Tensor:
    """The Tensor of an input with `contents` (pb.ModelInferRequest.InferInputTensor); none stand for no elements."""
    name, datatype, shape = tensor.name, tensor.datatype, list(tensor.shape)
    if tensor.parameters:
        _check_place(f"tensor '{name}'", tensor.parameters)
    count = count_elements(name, shape, datatype)
    field = FIELDS.get(datatype)
    if field is None:
        raise bad(f"tensor '{name}': {datatype} has no typed contents; use raw_input_contents")
    contents = tensor.contents
    for other, _ in contents.ListFields():
        if other.name != field:
            raise bad(f"tensor '{name}': {datatype} belongs into contents.{field}, not into contents.{other.name}")
    values: Sequence[Any] = getattr(contents, field)
    if len(values) != count:
        raise bad(f"tensor '{name}': contents has {len(values)} elements; shape {shape} needs {count}")
    if datatype == "BYTES":
        texts = np.empty(count, dtype=object)
        texts[:] = values
        return Tensor(name, datatype, texts.reshape(shape))
    return Tensor(name, datatype, _numbers(name, datatype, values).reshape(shape))


def _numbers(name: str, datatype: str, values: Sequence[Any]) -> Array:
    dtype = DTYPES[datatype]
    if dtype.kind in "iu" and len(values):
        bounds = np.iinfo(dtype)
        if min(values) < bounds.min or max(values) > bounds.max:
            raise bad(f"tensor '{name}': a number is out of range for {datatype} ({bounds.min} to {bounds.max})")
    return np.array(values, dtype)


def _wanted(output: Any, raw: bool) -> Wanted:
    if output.parameters:
        where = f"output '{output.name}'"
        _check_place(where, output.parameters)
        if "classification" in output.parameters:
            raise bad(f"{where}: the classification extension is not offered; ask for the tensor itself")
    return Wanted(output.name, raw)


def _check_place(where: str, parameters: Parameters) -> None:
    if "shared_memory_region" in parameters:
        raise bad(f"{where}: shared memory is not offered; send the tensors in the messages")


def _timeout_us(parameters: Parameters) -> int:
    if "timeout" not in parameters:
        return 0
    value = parameters["timeout"]
    kind = value.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(value, kind) < 0:
        raise bad("parameters: timeout must be a whole number of microseconds, at least 0")
    return getattr(value, kind)


def _others(parameters: Parameters) -> Iterator[tuple[str, Scalar]]:
    """The parameters that aren't read here."""
    for key, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if key != "timeout" and kind is not None:
            yield key, getattr(value, kind)


def encode_infer(called: str, version: str, inference: Inference, answer: Answer) -> pb.ModelInferResponse:
    """The response, raw where the request was; outputs without a typed form make the whole response raw."""
    response = pb.ModelInferResponse(model_name=called, model_version=version, id=inference.id)
    raw = inference.binary or any(tensor.datatype not in FIELDS for tensor in answer.outputs)
    size = 0
    for tensor in answer.outputs:
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        if raw:
            block = _to_raw(tensor.datatype, tensor.array)
            size += len(block)
            response.raw_output_contents.append(block)
        else:
            values = tensor.array.ravel().tolist()
            if tensor.datatype == "BYTES":
                values = [text.encode() if isinstance(text, str) else text for text in values]
                size += sum(map(len, values))
            else:
                size += 10 * len(values)  # the most that one number takes
            getattr(output.contents, FIELDS[tensor.datatype]).extend(values)
    if size > _MOST_BYTES:
        raise bad(
            f"the outputs have up to {size} bytes, and a gRPC message carries 2 GiB; ask for fewer rows or outputs"
        )
    return response


def _to_raw(datatype: str, array: Array) -> bytes:
    """A raw block of its own: a message copies what it holds."""
    if array.dtype == DTYPES[datatype] and datatype != "BYTES":
        return array.tobytes()
    return bytes(to_binary(datatype, array))


def encode_model_metadata(name: str, signature: Signature, versions: Sequence[str]) -> bytes:
    """ModelMetadataResponse."""
    response = pb.ModelMetadataResponse(name=name, versions=versions, platform=signature.platform)
    _describe(response.inputs, signature.inputs)
    _describe(response.outputs, signature.outputs)
    return response.SerializeToString()


def _describe(described: Any, specs: Iterable[TensorSpec]) -> None:
    for spec in specs:
        described.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)

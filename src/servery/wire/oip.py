"""The Open Inference Protocol v2 over HTTP: JSON heads, the binary tensor data extension, metadata and errors.

Source: kserve/open-inference-protocol, inference_rest.md, and Triton's binary tensor data extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from servery.terms.request import Answer, Inference, Tensor, Wanted
from servery.terms.tensors import DATATYPES, Signature, TensorSpec
from servery.wire.parameters import bounded
from servery.wire.tensors import bad, from_binary, from_json, to_binary, to_json

Parameters = dict[str, Any]
Chunk = bytes | memoryview


class InputHead(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: Parameters | None = None


class OutputWanted(msgspec.Struct, gc=False):
    name: str
    parameters: Parameters | None = None


class InferHead(msgspec.Struct, gc=False):
    inputs: list[InputHead]
    id: str = ""
    outputs: list[OutputWanted] | None = None
    parameters: Parameters | None = None


class OutputHead(msgspec.Struct, gc=False, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Parameters | None = None
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class InferReply(msgspec.Struct, gc=False, omit_defaults=True):
    model_name: str
    outputs: list[OutputHead]
    model_version: str = ""
    id: str = ""


class ModelMetadata(msgspec.Struct, omit_defaults=True):
    name: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: tuple[str, ...] = ()


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: tuple[str, ...]


class Error(msgspec.Struct):
    error: str


class Readiness(msgspec.Struct, omit_defaults=True):
    """The state behind a health answer; `live` or `ready` as the specification names them."""

    ready: bool
    name: str = ""
    reasons: tuple[str, ...] = ()


# Datatypes whose elements JSON writes as they are; NaN and infinities become null.
_PLAIN = frozenset(DATATYPES) - {"BYTES", "BF16"}

_MESSAGE_CHARS = 1000

# Parameters of a request that are read here, and what the others may be.
_OURS = frozenset({"binary_data_output", "timeout"})
_SCALARS = frozenset({str, int, float, bool})

_NOTHING = memoryview(b"")

_decode_head = msgspec.json.Decoder(InferHead).decode
encode = msgspec.json.Encoder().encode


def decode_infer(body: bytes, header_length: bytes | None) -> Inference:
    """The Inference in a body of JSON, or of JSON (`header_length` bytes of it) followed by binary blocks.

    With a `header_length` of 0 the whole body is the data of the only input, as Triton takes it.

    Raises Refusal(INVALID_REQUEST) naming the field or tensor that is wrong.
    """
    binary: memoryview | None = None
    text: bytes | memoryview = body
    if header_length is not None:
        size = _header_size(header_length, len(body))
        if not size:
            return Inference("", (), (), binary=True, timeout_ns=0, raw=body)
        text, binary = memoryview(body)[:size], memoryview(body)[size:]
    try:
        head = _decode_head(text)
    except msgspec.ValidationError as error:
        raise bad(f"the request doesn't have the protocol's form: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad(f"the request is not JSON: {error}") from None
    except RecursionError:
        raise bad("the request's JSON is nested too deeply") from None
    inputs = _decode_inputs(head.inputs, binary)
    parameters = head.parameters
    if parameters is None:
        by_default, timeout_us, more = False, 0, ()
    else:
        by_default = _flag(parameters, "binary_data_output", "parameters")
        timeout_us = _count(parameters, "timeout", "parameters")
        more = bounded(
            [(key, value) for key, value in parameters.items() if key not in _OURS and type(value) in _SCALARS]
        )
    wanted = _decode_wanted(head.outputs, by_default) if head.outputs else ()
    return Inference(head.id, inputs, wanted, by_default, timeout_us * 1000, more)


def _header_size(header_length: bytes, body: int) -> int:
    if not header_length.isdigit() or len(header_length) > 12:
        raise bad("Inference-Header-Content-Length must be a count of bytes, written in digits")
    size = int(header_length)
    if size > body:
        raise bad(f"Inference-Header-Content-Length is {size}, but the body has {body} bytes")
    return size


def _decode_inputs(heads: list[InputHead], binary: memoryview | None) -> list[Tensor]:
    tensors: list[Tensor] = []
    at = 0
    end = 0 if binary is None else len(binary)
    for head in heads:
        parameters = head.parameters
        size = parameters.get("binary_data_size") if parameters else None
        if size is None:
            if not head.data:
                raise bad(f"tensor '{head.name}' has neither `data` nor the parameter binary_data_size")
            array = from_json(head.name, head.datatype, head.shape, head.data)
        else:
            if head.data:
                raise bad(f"tensor '{head.name}' has both `data` and binary_data_size; send one of them")
            if type(size) is not int or size < 0:
                raise bad(f"tensor '{head.name}': binary_data_size must be a count of bytes")
            if at + size > end:
                raise bad(
                    f"tensor '{head.name}': binary_data_size is {size}, but {end - at} bytes are left "
                    "(Inference-Header-Content-Length says where they begin)"
                )
            block = _NOTHING if binary is None else binary[at : at + size]
            array = from_binary(head.name, head.datatype, head.shape, block)
            at += size
        tensors.append(Tensor(head.name, head.datatype, array))
    if at != end:
        raise bad(f"{end - at} bytes of the body belong to no tensor; the binary_data_size of all must add up")
    return tensors


def _decode_wanted(outputs: list[OutputWanted], by_default: bool) -> tuple[Wanted, ...]:
    wanted: list[Wanted] = []
    for output in outputs:
        parameters = output.parameters
        if parameters is not None and "classification" in parameters:
            raise bad(f"output '{output.name}': the classification extension is not offered; ask for the tensor itself")
        binary = by_default
        if parameters is not None and "binary_data" in parameters:
            binary = _flag(parameters, "binary_data", f"output '{output.name}'")
        wanted.append(Wanted(output.name, binary))
    return tuple(wanted)


def _flag(parameters: Parameters, key: str, where: str) -> bool:
    value = parameters.get(key, False)
    if type(value) is not bool:
        raise bad(f"{where}: {key} must be true or false")
    return value


def _count(parameters: Parameters, key: str, where: str) -> int:
    value = parameters.get(key, 0)
    if type(value) is not int or value < 0:
        raise bad(f"{where}: {key} must be a whole number, at least 0")
    return value


def encode_infer(called: str, version: str, inference: Inference, answer: Answer) -> tuple[list[Chunk], int]:
    """The body of a reply in chunks, and the length of its JSON part when binary blocks follow it (else 0)."""
    wanted = {output.name: output.binary for output in inference.wanted} if inference.wanted else None
    binary = inference.binary
    heads: list[OutputHead] = []
    blocks: list[Chunk] = []
    for tensor in answer.outputs:
        name, datatype, array = tensor.name, tensor.datatype, tensor.array
        if binary if wanted is None else wanted[name]:
            block = to_binary(datatype, array)
            blocks.append(block)
            heads.append(OutputHead(name, datatype, array.shape, {"binary_data_size": len(block)}))
        else:
            data = array.ravel().tolist() if datatype in _PLAIN else to_json(name, datatype, array)
            heads.append(OutputHead(name, datatype, array.shape, None, data))
    head = encode(InferReply(called, heads, version, inference.id))
    return ([head, *blocks], len(head)) if blocks else ([head], 0)


def encode_error(message: str) -> bytes:
    """The protocol's form of an error; what callers sent is said back up to a bound."""
    return encode(Error(message if len(message) <= _MESSAGE_CHARS else message[:_MESSAGE_CHARS] + "…"))


def encode_model_metadata(name: str, signature: Signature, versions: Sequence[str]) -> bytes:
    return encode(ModelMetadata(name, signature.platform, signature.inputs, signature.outputs, tuple(versions)))

"""The Open Inference Protocol's bytes: what goes through comes back, and what doesn't fit is told by its name."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Answer, Array, Inference, Tensor, Wanted
from servery.terms.tensors import DATATYPES
from servery.wire.oip import decode_infer, encode_error, encode_infer
from servery.wire.tensors import DTYPES, from_binary, from_json, to_binary, to_json

IN_JSON = sorted(set(DATATYPES) - {"FP16", "BF16"})
LIMITS = {name: np.iinfo(DTYPES[name]) for name in DATATYPES if name.removeprefix("U").startswith("INT")}
WIDTH: dict[str, Literal[16, 32, 64]] = {"FP16": 16, "FP32": 32, "FP64": 64}


@st.composite
def tensors(draw: st.DrawFn, datatypes: list[str], text: bool = False, finite: bool = False) -> Tensor:
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    if datatype == "BYTES":
        element = st.text(max_size=8).map(str.encode) if text else st.binary(max_size=8)
        array = np.empty(math.prod(shape), dtype=object)
        array[:] = draw(st.lists(element, min_size=array.size, max_size=array.size))
        return Tensor("x", datatype, array.reshape(shape))
    elements = None
    if datatype in WIDTH:
        elements = st.floats(width=WIDTH[datatype], allow_nan=not finite, allow_infinity=not finite)
    return Tensor("x", datatype, draw(hnp.arrays(DTYPES[datatype], shape, elements=elements)))


def same(one: Array, other: Array) -> bool:
    if one.dtype == object:
        return one.shape == other.shape and one.ravel().tolist() == other.ravel().tolist()
    return (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())


def body(*heads: dict[str, Any], blocks: bytes = b"", **more: Any) -> tuple[bytes, bytes]:
    head = json.dumps({"inputs": heads, **more}).encode()
    return head + blocks, str(len(head)).encode()


def head(tensor: Tensor, **more: Any) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.array.shape), "datatype": tensor.datatype, **more}


@given(tensors(sorted(DATATYPES)))
def test_binary_goes_through_and_comes_back(tensor: Tensor) -> None:
    block = bytes(to_binary(tensor.datatype, tensor.array))
    assert len(block) == tensor.array.size * DATATYPES[tensor.datatype] or tensor.datatype == "BYTES"
    sent, header = body(head(tensor, parameters={"binary_data_size": len(block)}), blocks=block)
    (got,) = decode_infer(sent, header).inputs
    assert got.datatype == tensor.datatype
    assert same(got.array, tensor.array)


@given(tensors(IN_JSON, text=True, finite=True))
def test_json_goes_through_and_comes_back_flat_or_nested(tensor: Tensor) -> None:
    flat = to_json("x", tensor.datatype, tensor.array)
    nested = np.empty(len(flat), dtype=object)
    nested[:] = flat
    forms = [flat] if tensor.array.ndim == 0 else [flat, nested.reshape(tensor.array.shape).tolist()]
    for data in forms:
        (got,) = decode_infer(body(head(tensor, data=data))[0], None).inputs
        assert same(got.array, tensor.array)


@given(st.lists(tensors(sorted(DATATYPES), text=True, finite=True), min_size=1, max_size=4), st.data())
def test_an_answer_is_read_back(drawn: list[Tensor], data: st.DataObject) -> None:
    outputs = tuple(Tensor(f"y{at}", one.datatype, one.array) for at, one in enumerate(drawn))
    binary = {one.name: one.datatype == "BF16" or data.draw(st.booleans()) for one in outputs}
    inference = Inference("id-1", (), tuple(Wanted(name, form) for name, form in binary.items()), False, 0)
    chunks, json_length = encode_infer("digits", "7", inference, Answer(outputs, "t", "m", "v"))
    whole = b"".join(bytes(chunk) for chunk in chunks)
    assert (json_length > 0) == any(binary.values())
    reply = json.loads(whole[: json_length or None])
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("digits", "7", "id-1")
    at = json_length
    for told, output in zip(reply["outputs"], outputs, strict=True):
        assert (told["name"], told["datatype"], told["shape"]) == (
            output.name,
            output.datatype,
            list(output.array.shape),
        )
        if binary[output.name]:
            size = told["parameters"]["binary_data_size"]
            got = from_binary(output.name, output.datatype, told["shape"], memoryview(whole)[at : at + size])
            at += size
            assert same(got, output.array)
        elif output.datatype != "FP16":
            assert same(from_json("y", output.datatype, told["shape"], json.dumps(told["data"]).encode()), output.array)
        else:
            assert told["data"] == output.array.ravel().tolist()
    assert not json_length or at == len(whole)


def test_nan_and_infinities_are_null_in_json_answers_and_whole_in_binary_ones() -> None:
    wild = Tensor("y", "FP32", np.array([math.nan, math.inf, -math.inf, 1.5], np.float32))
    (text,), _ = encode_infer("m", "", Inference("", (), (), False, 0), Answer((wild,), "", "", ""))
    assert json.loads(bytes(text))["outputs"][0]["data"] == [None, None, None, 1.5]
    (_, block), _ = encode_infer("m", "", Inference("", (), (), True, 0), Answer((wild,), "", "", ""))
    assert bytes(block) == wild.array.tobytes()


def refusal(sent: bytes, header: bytes | None = None) -> str:
    with pytest.raises(Refusal) as refused:
        decode_infer(sent, header)
    assert refused.value.reason is Reason.INVALID_REQUEST
    return refused.value.message


@pytest.mark.parametrize("datatype", sorted(LIMITS))
def test_whole_numbers_reach_their_limits_and_no_further(datatype: str) -> None:
    low, high = int(LIMITS[datatype].min), int(LIMITS[datatype].max)
    tensor = {"name": "age", "shape": [2], "datatype": datatype}
    (got,) = decode_infer(body({**tensor, "data": [low, high]})[0], None).inputs
    assert got.array.tolist() == [low, high]
    for beyond in (low - 1, high + 1, 2**64, -(2**70)):
        message = refusal(body({**tensor, "data": [0, beyond]})[0])
        assert "'age'" in message
        assert datatype in message


X = {"name": "pixels", "shape": [2], "datatype": "FP32"}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("too large for FP32", {"data": [1e39, 0]}, "out of range for FP32"),
    ("one too few", {"data": [1.0]}, "has 1 elements; shape [2] needs 2"),
    ("one too many", {"data": [1.0, 2.0, 3.0]}, "has 3 elements"),
    ("a text", {"data": [1.0, "2"]}, "Expected"),
    ("a null", {"data": [1.0, None]}, "Expected"),
    ("no list", {"data": 5}, "Expected"),
    ("true for a number", {"data": [1.0, True]}, "Expected"),
    ("a fraction for a whole number", {"datatype": "INT32", "data": [1, 1.5]}, "Expected"),
    ("a number for a truth", {"datatype": "BOOL", "data": [1, 0]}, "Expected"),
    ("unknown datatype", {"datatype": "FP31", "data": [1, 2]}, "datatype 'FP31' is unknown; use one of BOOL"),
    ("FP16 in JSON", {"datatype": "FP16", "data": [1, 2]}, "binary tensor data extension"),
    ("negative size", {"shape": [-1], "data": [1.0]}, "negative"),
    ("many dimensions", {"shape": [1] * 17, "data": [1.0]}, "at most 16"),
    ("huge shape", {"shape": [2**62, 2**62], "data": [1.0]}, "larger than any body"),
    ("huge shape of nothing", {"shape": [0, 2**62, 2**62], "data": []}, "shape"),
    ("huger shape of nothing", {"shape": [0, 2**200], "data": []}, "shape"),
    ("nested otherwise", {"shape": [2, 2], "data": [[1.0], [2.0, 3.0, 4.0]]}, "nested"),
    ("nested too deeply", {"shape": [1, 2], "data": [[[1.0, 2.0]]]}, "Expected"),
    ("neither data nor size", {}, "neither"),
    ("both", {"data": [1.0, 2.0], "parameters": {"binary_data_size": 8}}, "both"),
    ("a size that is no count", {"parameters": {"binary_data_size": True}}, "count of bytes"),
    ("a negative size of data", {"parameters": {"binary_data_size": -8}}, "count of bytes"),
    ("a size beyond the body", {"parameters": {"binary_data_size": 8}}, "0 bytes are left"),
]


@pytest.mark.parametrize(("change", "told"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_with_a_tensor_is_told_by_its_name(change: dict[str, Any], told: str) -> None:
    message = refusal(body({**X, **change})[0])
    assert "'pixels'" in message
    assert told in message


FORMS: list[tuple[bytes, bytes | None, str]] = [
    (b"", None, "not JSON"),
    (b"{", None, "not JSON"),
    (b"[1]", None, "form"),
    (b"{}", None, "inputs"),
    (b'{"inputs":[{}]}', None, "inputs[0]"),
    (b"\xff\xfe", None, "not JSON"),
    (b'{"inputs":' + b"[" * 100_000, None, ""),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + b"[" * 5_000 + b"]" * 5_000 + b"}]}", None, ""),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1e999]}]}', None, ""),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}', None, ""),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[Infinity]}]}', None, ""),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\\ud800"]}]}', None, ""),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\xff"]}]}', None, ""),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\\q"]}]}', None, ""),
    (b'{"inputs":[]}', b"-1", "written in digits"),
    (b'{"inputs":[]}', b"1e1", "written in digits"),
    (b'{"inputs":[]}', b"", "written in digits"),
    (b'{"inputs":[]}', b"14", "the body has 13 bytes"),
    (b'{"inputs":[]}', b"9" * 5_000, "written in digits"),
    (b'{"inputs":[]}tail', b"13", "belong to no tensor"),
    (b'{"inputs":[],"parameters":{"timeout":-1}}', None, "timeout"),
    (b'{"inputs":[],"parameters":{"timeout":"9"}}', None, "timeout"),
    (b'{"inputs":[],"parameters":{"timeout":1e300}}', None, "timeout"),
    (b'{"inputs":[],"parameters":{"binary_data_output":1}}', None, "binary_data_output"),
    (b'{"inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":"yes"}}]}', None, "'y'"),
    (b'{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":3}}]}', None, "'y'"),
]


@pytest.mark.parametrize(("sent", "header", "told"), FORMS)
def test_what_is_wrong_with_the_form_is_told(sent: bytes, header: bytes | None, told: str) -> None:
    assert told in refusal(sent, header)


def test_what_is_wrong_with_binary_blocks_is_told() -> None:
    def told(datatype: str, shape: list[int], block: bytes) -> str:
        tensor = {"name": "w", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(block)}}
        sent, header = body(tensor, blocks=block)
        return refusal(sent, header)

    assert "'w': its binary data has 7 bytes; shape [2] of FP32 needs 8" in told("FP32", [2], bytes(7))
    assert "must be the bytes 0 or 1" in told("BOOL", [2], b"\x01\x02")
    assert "too few" in told("BYTES", [2], bytes(7))
    assert "element 1 runs beyond" in told("BYTES", [2], b"\x00\x00\x00\x00\x05\x00\x00\x00abcd")
    assert "left after" in told("BYTES", [1], b"\x01\x00\x00\x00abc")
    assert "shape" in told("FP32", [0, 2**62, 2**62], b"")
    assert "shape" in told("BYTES", [0, 2**200], b"")


def never_raises(sent: bytes, header: bytes | None) -> None:
    refused: Refusal | None = None
    try:
        decode_infer(sent, header)
    except Refusal as refusal:
        refused = refusal
    assert refused is None or refused.reason is Reason.INVALID_REQUEST
    assert refused is None or len(refused.message) < 2_000


@given(st.binary(max_size=200), st.none() | st.binary(max_size=6) | st.integers(0, 210).map(lambda n: str(n).encode()))
def test_any_bytes_are_decoded_or_refused(sent: bytes, header: bytes | None) -> None:
    never_raises(sent, header)


VALID = [
    body({**X, "data": [1.0, 2.0]}, id="7", parameters={"timeout": 5_000, "binary_data_output": True})[0],
    body({"name": "w", "shape": [2, 1], "datatype": "BYTES", "data": [["é\n"], ["\\"]]}, outputs=[{"name": "y"}])[0],
    body({"name": "n", "shape": [2, 2], "datatype": "INT64", "data": [[1, -2], [3, 4]]})[0],
    body({"name": "b", "shape": [], "datatype": "BOOL", "data": [True]})[0],
]
BLOCKS = [
    body({**X, "parameters": {"binary_data_size": 8}}, blocks=bytes(8)),
    body(
        {"name": "w", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}},
        {"name": "f", "shape": [1], "datatype": "BOOL", "parameters": {"binary_data_size": 1}},
        blocks=b"\x03\x00\x00\x00abc\x00\x00\x00\x00\x01",
    ),
]
PIECES = [
    b"\xff",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"-",
    b"null",
    b"[",
    b"]",
    b'"',
    b"2" * 40,
    b"{",
    b"true",
    b"-1",
    b"\x00",
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, bytes | None]:
    sent, header = draw(st.sampled_from([(one, None) for one in VALID] + BLOCKS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(sent)))
        end = min(len(sent), start + draw(st.integers(0, 6)))
        sent = sent[:start] + draw(st.sampled_from(PIECES) | st.binary(max_size=4)) + sent[end:]
    if header is not None and draw(st.booleans()):
        header = str(draw(st.integers(0, len(sent) + 5))).encode()
    return sent, header


@given(mutated())
@example((b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":["\\u"]}]}', None))
def test_a_damaged_request_is_decoded_or_refused(damaged: tuple[bytes, bytes | None]) -> None:
    never_raises(*damaged)


def test_valid_ones_are_valid() -> None:
    for sent in VALID:
        decode_infer(sent, None)
    for sent, header in BLOCKS:
        decode_infer(sent, header)
    first = decode_infer(VALID[0], None)
    assert (first.id, first.binary, first.timeout_ns) == ("7", True, 5_000_000)


@given(st.text())
def test_an_error_is_json(message: str) -> None:
    text = message.encode(errors="replace").decode()
    assert json.loads(encode_error(text)) == {"error": text}

"""The protocol's messages over gRPC: what goes in comes out, and what is wrong is refused by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import artifacts
from server import pack_bytes
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Answer, Tensor
from servery.terms.tensors import DATATYPES, Signature, TensorSpec
from servery.wire.oip_grpc import FIELDS, decode_infer, encode_infer, encode_model_metadata, parse_infer
from servery.wire.proto import open_inference_grpc_pb2 as pb
from servery.wire.tensors import DTYPES

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "src" / "servery" / "wire" / "proto"


def request(datatype: str = "FP32", shape: list[int] | None = None, raw: bytes | None = None, **typed: Any) -> Any:
    """A request of one input `x`."""
    asked = pb.ModelInferRequest(model_name="m", id="r")
    tensor = asked.inputs.add(name="x", datatype=datatype, shape=[2] if shape is None else shape)
    for field, values in typed.items():
        getattr(tensor.contents, field).extend(values)
    if raw is not None:
        asked.raw_input_contents.append(raw)
    return asked


def filled(datatype: str, shape: list[int], field: str, values: list[Any]) -> Any:
    """A request of one input `x` with typed contents."""
    asked = request(datatype, shape)
    getattr(asked.inputs[0].contents, field).extend(values)
    return asked


def answer(datatype: str, array: Any) -> Answer:
    return Answer([Tensor("y", datatype, array)], "cheap", "m", "v")


def check(refusal: Refusal) -> None:
    assert refusal.reason is Reason.INVALID_REQUEST


def refused(asked: Any) -> str:
    with pytest.raises(Refusal) as caught:
        decode_infer(asked)
    check(caught.value)
    return caught.value.message


@pytest.mark.parametrize(("datatype", "_kind", "values"), artifacts.TYPES, ids=[name for name, *_ in artifacts.TYPES])
def test_raw_and_typed_contents_are_the_same_array_and_come_back_in_their_form(
    datatype: str, _kind: int, values: list[Any]
) -> None:
    array = np.array(values, DTYPES[datatype]).reshape(2, 2)
    raw = decode_infer(request(datatype, [2, 2], array.tobytes()))
    assert raw.binary
    np.testing.assert_array_equal(raw.inputs[0].array, array)
    response = encode_infer("m", "1", raw, answer(datatype, array))
    assert response.raw_output_contents[0] == array.tobytes()
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "r")
    assert list(response.outputs[0].shape) == [2, 2]
    assert not response.outputs[0].HasField("contents")
    if datatype not in FIELDS:
        assert "use raw_input_contents" in refused(request(datatype, [2, 2]))
        return
    typed = decode_infer(filled(datatype, [2, 2], FIELDS[datatype], values))
    assert not typed.binary
    assert typed.inputs[0].array.dtype == array.dtype
    np.testing.assert_array_equal(typed.inputs[0].array, array)
    response = encode_infer("m", "", typed, answer(datatype, array))
    assert list(getattr(response.outputs[0].contents, FIELDS[datatype])) == values
    assert not response.raw_output_contents


def test_texts_are_bytes_in_both_forms() -> None:
    texts = [b"", b"a", "naïve 日本".encode(), b"\xff\x00\xfe"]
    raw = decode_infer(request("BYTES", [4], pack_bytes(texts)))
    typed = decode_infer(request("BYTES", [2, 2], bytes_contents=texts))
    assert raw.inputs[0].array.tolist() == texts
    assert typed.inputs[0].array.tolist() == [texts[:2], texts[2:]]
    words = np.array(["é", b"\xff"], object)
    assert encode_infer("m", "", raw, answer("BYTES", words)).raw_output_contents[0] == pack_bytes(
        ["é".encode(), b"\xff"]
    )
    assert list(encode_infer("m", "", typed, answer("BYTES", words)).outputs[0].contents.bytes_contents) == [
        "é".encode(),
        b"\xff",
    ]


def test_an_output_without_a_typed_form_makes_the_answer_raw() -> None:
    typed = decode_infer(request(fp32_contents=[1, 2]))
    half = np.array([0.5, np.nan], np.float16)
    both = Answer([Tensor("y", "FP32", np.ones(2, np.float32)), Tensor("z", "FP16", half)], "", "", "")
    response = encode_infer("m", "", typed, both)
    assert response.raw_output_contents[1] == half.tobytes()
    assert not response.outputs[0].HasField("contents")


def test_no_elements_and_scalars() -> None:
    assert decode_infer(request(shape=[0, 3], raw=b"")).inputs[0].array.shape == (0, 3)
    assert decode_infer(request(shape=[0, 3])).inputs[0].array.shape == (0, 3)
    assert decode_infer(request(shape=[], fp32_contents=[7])).inputs[0].array.shape == ()
    empty = request(shape=[0], raw=b"")
    empty.inputs[0].contents.SetInParent()
    assert decode_infer(empty).binary
    nothing = np.zeros((0, 3), np.float32)
    assert encode_infer("m", "", decode_infer(empty), answer("FP32", nothing)).raw_output_contents[0] == b""


def test_nan_and_infinities_are_numbers() -> None:
    got = decode_infer(request(shape=[3], fp32_contents=[np.nan, np.inf, -np.inf])).inputs[0].array
    assert np.isnan(got[0])
    assert got[1:].tolist() == [np.inf, -np.inf]


def _second(asked: Any) -> None:
    asked.raw_input_contents.append(b"12345678")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (request(fp32_contents=[1, 2], raw=b"12345678"), "'x' has `contents` beside raw_input_contents"),
        (request(raw=b"1234567"), "'x': its binary data has 7 bytes"),
        (request(fp32_contents=[1]), "'x': contents has 1 elements; shape [2] needs 2"),
        (request(), "'x': contents has 0 elements"),
        (request(fp64_contents=[1, 2]), "'x': FP32 belongs into contents.fp32_contents, not into contents.fp64"),
        (request("INT8", int_contents=[1, 128]), "'x': a number is out of range for INT8 (-128 to 127)"),
        (request("UINT16", uint_contents=[65536, 0]), "out of range for UINT16"),
        (request("BF16"), "'x': BF16 has no typed contents"),
        (request("FLOAT", fp32_contents=[1, 2]), "'x': datatype 'FLOAT' is unknown"),
        (request(shape=[-1], raw=b""), "'x': shape [-1] has a negative dimension"),
        (request(shape=[2**62, 2**62], raw=b""), "larger than any body"),
        (request("BOOL", raw=b"\x00\x02"), "'x': BOOL elements must be"),
        (request("BYTES", raw=b"\x05\x00\x00\x00abcde\x01"), "'x'"),
    ],
)
def test_what_is_wrong_is_refused_by_name(asked: Any, told: str) -> None:
    assert told in refused(asked)


def _set(asked: Any, kind: str, value: Any) -> None:
    setattr(asked.parameters["timeout"], kind, value)


def _share_input(asked: Any) -> None:
    asked.inputs[0].parameters["shared_memory_region"].string_param = "region"


def _share_output(asked: Any) -> None:
    asked.outputs.add(name="y").parameters["shared_memory_region"].string_param = "region"


def _classify(asked: Any) -> None:
    asked.outputs.add(name="y").parameters["classification"].int64_param = 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_second, "raw_input_contents has 2 entries for 1 inputs"),
        (partial(_set, kind="string_param", value="5"), "timeout must be a whole number of microseconds"),
        (partial(_set, kind="int64_param", value=-1), "timeout must be a whole number of microseconds"),
        (_share_input, "tensor 'x': shared memory is not offered"),
        (_share_output, "output 'y': shared memory is not offered"),
        (_classify, "output 'y': the classification extension"),
    ],
)
def test_parameters_that_cannot_be_met_are_refused(change: Callable[[Any], None], told: str) -> None:
    asked = request(raw=b"12345678")
    change(asked)
    assert told in refused(asked)


def test_other_parameters_are_ignored_and_the_timeout_is_in_microseconds() -> None:
    asked = request(raw=b"12345678")
    asked.parameters["binary_data_output"].bool_param = False
    asked.parameters["priority"].uint64_param = 2**64 - 1
    asked.parameters["temperature"].double_param = 0.5
    asked.parameters["nothing"].SetInParent()
    asked.parameters["timeout"].uint64_param = 1500
    asked.inputs[0].parameters["binary_data_size"].int64_param = 8
    asked.outputs.add(name="z").parameters["binary_data"].bool_param = False
    asked.outputs.add(name="y")
    inference = decode_infer(asked)
    assert inference.timeout_ns == 1_500_000
    assert [(output.name, output.binary) for output in inference.wanted] == [("z", True), ("y", True)]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(message: bytes) -> None:
    try:
        decode_infer(parse_infer(message))
    except Refusal as refusal:
        check(refusal)


@given(
    st.sampled_from([*DATATYPES, "", "float32"]),
    st.lists(st.integers(-2, 5) | st.sampled_from([2**40, 2**63 - 1, -(2**63)]), max_size=4),
    st.lists(st.binary(max_size=64), max_size=3),
)
def test_any_raw_contents_are_arrays_of_their_shape_or_refused(
    datatype: str, shape: list[int], blocks: list[bytes]
) -> None:
    asked = request(datatype, shape)
    asked.raw_input_contents.extend(blocks)
    try:
        inference = decode_infer(asked)
    except Refusal as refusal:
        check(refusal)
        return
    tensor = inference.inputs[0]
    assert list(tensor.array.shape) == shape
    if blocks:
        assert encode_infer("m", "", inference, answer(datatype, tensor.array)).raw_output_contents[0] == blocks[0]


@given(st.sampled_from(sorted(FIELDS)), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5))
def test_any_typed_numbers_are_an_array_or_refused(datatype: str, values: list[int]) -> None:
    for field in ("int_contents", "int64_contents", "fp64_contents"):
        try:
            inference = decode_infer(filled(datatype, [len(values)], field, values))
        except Refusal as refusal:
            check(refusal)
        else:
            assert inference.inputs[0].array.tolist() == values


def test_metadata() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "INT64", (-1,)),), "onnxruntime_onnx")
    got = pb.ModelMetadataResponse.FromString(encode_model_metadata("m", signature, ("1",)))
    assert (got.name, list(got.versions), got.platform) == ("m", ["1"], "onnxruntime_onnx")
    assert [(one.name, one.datatype, list(one.shape)) for one in got.inputs] == [("x", "FP32", [-1, 4])]
    assert [(one.name, one.datatype, list(one.shape)) for one in got.outputs] == [("y", "INT64", [-1])]


def test_the_messages_are_those_of_triton_and_live_beside_them() -> None:
    """Field by field, by number and type, as its client has them; ours may be fewer."""
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR
    ours = pb.DESCRIPTOR
    assert ours.pool is not theirs.pool
    for name, message in ours.message_types_by_name.items():
        if name != "ModelConfig":  # the configuration is in a file of its own, and its parts have longer names
            _same_fields(message, theirs.message_types_by_name[name])
    _same_parts(ours.message_types_by_name["ModelConfigResponse"], theirs.message_types_by_name["ModelConfigResponse"])
    for method in ours.services_by_name["GRPCInferenceService"].methods:
        other = theirs.services_by_name["GRPCInferenceService"].methods_by_name[method.name]
        assert method.input_type.name == other.input_type.name
        assert method.output_type.name == other.output_type.name
        assert (method.client_streaming, method.server_streaming) == (other.client_streaming, other.server_streaming)


def _same_fields(message: Any, other: Any) -> None:
    for field in message.fields:
        if field.name == "properties":  # of ModelMetadataResponse: the protocol has it, Triton's client has not
            continue
        match = other.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (match.number, match.type, match.is_repeated), field
    for inner in message.nested_types:
        if inner.name != "PropertiesEntry":
            _same_fields(inner, other.nested_types_by_name[inner.name])


def _same_parts(message: Any, other: Any) -> None:
    """As `_same_fields`, but whatever the types of the fields are called."""
    for field in message.fields:
        match = other.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (match.number, match.type, match.is_repeated), field
        if field.message_type is not None:
            _same_parts(field.message_type, match.message_type)
        if field.enum_type is not None:
            values = {value.name: value.number for value in match.enum_type.values}
            assert {value.name: value.number for value in field.enum_type.values} == values


def test_the_compiled_interfaces_are_current(tmp_path: Path) -> None:
    if find_spec("grpc_tools") is None or shutil.which("make") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("grpcio-tools or make is missing")
        pytest.skip("grpcio-tools or make is missing")
    subprocess.run(
        ["make", "-s", "proto", f"INTO={tmp_path}", f"BIN={Path(sys.executable).parent}"],
        cwd=ROOT, check=True, timeout=50,
    )  # fmt: skip
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in PROTO.glob("*_pb2.py*")}

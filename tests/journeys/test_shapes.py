"""Single values, fixed shapes and tensors without elements, asked of a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import artifacts
from server import Server, pack_bytes, tensor, with_binary
from servery.wire.tensors import DTYPES

SINGLE = {name: kind for name, kind, _ in artifacts.TYPES if name in ("BOOL", "INT64", "FP16", "FP64")} | {
    "BYTES": TensorProto.STRING
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("shapes")
    made = {
        f"single-{name.lower()}": artifacts.single(folder / f"single-{name}.onnx", kind)
        for name, kind in SINGLE.items()
    }
    made |= {
        "scaled": artifacts.scaled(folder / "scaled.onnx"),
        "foremost": artifacts.foremost(folder / "foremost.onnx"),
    }
    models = {name: {"runtime": "onnx", "artifact": str(path)} for name, path in made.items()}
    with Server(folder, {"models": models}) as running:
        yield running


@pytest.mark.parametrize("rows", [1, 3])
def test_a_single_value_is_shared_by_all_rows(server: Server, rows: int) -> None:
    inputs = [tensor("x", "FP32", [rows, 2], [1.5] * 2 * rows), tensor("by", "FP32", [], [2.0])]
    reply = server.infer("scaled", {"inputs": inputs})
    assert reply.status == 200, reply.body
    y, most = reply.json["outputs"]
    assert (y["shape"], y["data"]) == ([rows, 2], [3.0] * 2 * rows)
    assert (most["shape"], most["data"]) == ([], [3.0])
    inputs[1]["shape"] = [1]
    assert "'by' has shape []" in server.infer("scaled", {"inputs": inputs}).error


def test_an_input_without_elements_is_the_callers_to_mend_where_the_model_cannot_take_it(server: Server) -> None:
    reply = server.infer("foremost", {"inputs": [tensor("x", "FP32", [0, 2], [])]})
    assert reply.status == 400, reply.body
    assert "without elements, as 'x' is" in reply.error
    reply = server.infer("foremost", {"inputs": [tensor("x", "FP32", [2, 2], [1.0, 2.0, 3.0, 0.0])]})
    assert reply.json["outputs"][0]["data"] == [1, 0]


@pytest.mark.parametrize(
    ("datatype", "value"), [("BOOL", True), ("INT64", 2**53 + 1), ("FP16", 1.5), ("FP64", 0.1), ("BYTES", "naïve")]
)
@pytest.mark.parametrize("binary", [False, True])
def test_a_model_of_single_values(server: Server, datatype: str, value: Any, binary: bool) -> None:
    block = pack_bytes([str(value).encode()]) if datatype == "BYTES" else np.array(value, DTYPES[datatype]).tobytes()
    head: dict[str, Any] = {"inputs": [tensor("x", datatype, [], [value])]}
    body, headers = with_binary(head, {"x": block}) if binary or datatype == "FP16" else (json.dumps(head).encode(), {})
    reply = server.infer(f"single-{datatype.lower()}", body, headers)
    assert reply.status == 200, reply.body
    y, twice = reply.json["outputs"]
    assert (y["shape"], y["data"]) == ([], [value])
    assert (twice["shape"], twice["data"]) == ([2], [value] * 2)
    asked = {**head, "parameters": {"binary_data_output": True}}
    reply = server.infer(f"single-{datatype.lower()}", *with_binary(asked, {"x": block}))
    assert reply.status == 200, reply.body
    if datatype == "BYTES":
        assert reply.tensors()["y"] == ["naïve".encode()]
    else:
        assert reply.tensors()["y"].shape == ()
        assert reply.tensors()["twice"].tobytes() == block * 2

"""What the benchmark serves and sends: two ONNX models, two request bodies, the manifests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from servery.wire.proto import open_inference_grpc_pb2 as pb

FEATURES = 30
BINARY_SHAPE = (1, 150_000)  # 600 KB of FP32
KEY = "bench-key-of-a-loopback-benchmark"  # nothing but this benchmark accepts it


class Ask(msgspec.Struct, frozen=True):
    """A request as wrk sends it, with `grpc` the message that grpc_load.py does, with `stream` what first_token.py asks.
    `header_length` is 0 for JSON.

    Where `answer` is given, every answer must be what this file holds; over gRPC, where not, what the first one was.
    """

    route: str
    body: Path
    header_length: int = 0
    grpc: bool = False
    stream: bool = False
    answer: Path | None = None
    path: str = ""  # where it isn't an infer call
    headers: tuple[str, ...] = ()  # besides, as "name: value"


class Artifacts(msgspec.Struct, frozen=True):
    """Everything in one folder; `models` by the name that both servers give them."""

    folder: Path
    models: dict[str, Path]
    json_row: Ask
    binary: Ask
    message: Ask


def make(folder: Path) -> Artifacts:
    """Write models and bodies into `folder`."""
    models = {"rows": folder / "linear.onnx", "tensors": folder / "identity.onnx"}
    save(_linear(), models["rows"])
    save(_identity(), models["tensors"])
    row = np.random.default_rng(7).normal(size=FEATURES).round(4).tolist()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, FEATURES], "data": row}
    json_row = folder / "row.json"
    json_row.write_bytes(msgspec.json.encode({"inputs": [tensor]}))
    values = np.random.default_rng(8).normal(size=BINARY_SHAPE).astype("<f4")
    header = msgspec.json.encode(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": list(BINARY_SHAPE),
                    "parameters": {"binary_data_size": values.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    binary = folder / "tensor.bin"
    binary.write_bytes(header + values.tobytes())
    message = folder / "row.pb"
    message.write_bytes(_message(np.array([row], "<f4")))
    asks = (Ask("rows", json_row), Ask("tensors", binary, len(header)), Ask("rows", message, grpc=True))
    return Artifacts(folder, models, *asks)


def _message(rows: NDArray[Any]) -> bytes:
    """ModelInferRequest with raw contents."""
    asked = pb.ModelInferRequest(model_name="rows", raw_input_contents=[rows.tobytes()])
    asked.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    return asked.SerializeToString()


def manifest(artifacts: Artifacts, port: int, durability: str, grpc_port: int | None = None) -> Path:
    """A manifest with everything on that a request can meet: key, limits, deadline, price, confidence, Record."""
    declared: dict[str, Any] = {
        "servery": 1,
        "server": {"http_port": port} | ({} if grpc_port is None else {"grpc_port": grpc_port}),
        "models": {
            "linear": {
                "runtime": "onnx",
                "artifact": str(artifacts.models["rows"]),
                "confidence": {"output": "probabilities", "from": "max"},
                "prediction": {"output": "label"},
                "price": {"usd_per_hour": 0.05},
            },
            "identity": {
                "runtime": "onnx",
                "artifact": str(artifacts.models["tensors"]),
                "price": {"usd_per_hour": 0.05},
            },
        },
        "routes": {
            "rows": {"policy": {"kind": "fixed"}, "tiers": [{"name": "only", "model": "linear"}]},
            "tensors": {"policy": {"kind": "fixed"}, "tiers": [{"name": "only", "model": "identity"}]},
        },
        "tenants": {
            "bench": {
                "keys": [{"id": "k1", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}],
                "limits": {"requests_per_minute": 1_000_000_000, "concurrency_per_worker": 200},
            }
        },
        "records": {"durability": durability, "spool_mb": 1024},
    }
    return write_manifest(artifacts.folder / f"bench-{durability}{'' if grpc_port is None else '-grpc'}.yaml", declared)


def empty_manifest(folder: Path, port: int) -> Path:
    """No models: what an idle worker weighs."""
    return write_manifest(folder / "empty.yaml", {"servery": 1, "server": {"http_port": port}})


def large_manifest(folder: Path) -> Path:
    """A cascade whose artifacts hold 20 MB, for `servery check`."""
    large = folder / "large.onnx"
    save(_linear(np.zeros((FEATURES, 170_000), "f4")), large)
    small = folder / "linear.onnx"
    models = {
        name: {"runtime": "onnx", "artifact": str(path), "confidence": {"output": "probabilities"}}
        for name, path in (("small", small), ("large", large))
    }
    tiers = [{"name": "cheap", "model": "small", "accept": {"confidence": 0.9}}, {"name": "premium", "model": "large"}]
    declared = {
        "servery": 1,
        "models": models,
        "routes": {"rows": {"policy": {"kind": "cascade"}, "tiers": tiers}},
    }
    return write_manifest(folder / "large.yaml", declared)


def write_manifest(path: Path, declared: dict[str, Any]) -> Path:
    """Write what is declared, and give the path back."""
    path.write_text(json.dumps(declared, indent=2))  # JSON is YAML
    return path


def _linear(ballast: Any = None) -> onnx.ModelProto:
    """A two-class linear classifier as scikit-learn's converter writes one: label and probabilities."""
    weights = np.random.default_rng(3).normal(size=FEATURES)
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        coefficients=[*(-weights), *weights],
        intercepts=[-0.1, 0.1],
        classlabels_ints=[0, 1],
        multi_class=0,
        post_transform="SOFTMAX",
    )
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
    ]
    held = (
        []
        if ballast is None
        else [helper.make_tensor("ballast", TensorProto.FLOAT, ballast.shape, ballast.tobytes(), raw=True)]
    )
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, FEATURES])]
    return with_opsets(helper.make_graph([node], "linear", inputs, outputs, held))


def _identity() -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, BINARY_SHAPE[1]])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, BINARY_SHAPE[1]])]
    return with_opsets(helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", inputs, outputs))


def with_opsets(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A checked model of this graph."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the model's file."""
    path.write_bytes(model.SerializeToString())

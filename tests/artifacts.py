"""Small ONNX artifacts for tests, built from operators: no training, the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

ROWS = "rows"

# Datatype, its ONNX type, and values at its edges.
TYPES: list[tuple[str, int, list[Any]]] = [
    ("BOOL", TensorProto.BOOL, [True, False, False, True]),
    ("UINT8", TensorProto.UINT8, [0, 255, 1, 7]),
    ("UINT16", TensorProto.UINT16, [0, 65535, 1, 7]),
    ("UINT32", TensorProto.UINT32, [0, 2**32 - 1, 1, 7]),
    ("UINT64", TensorProto.UINT64, [0, 2**64 - 1, 2**53 + 1, 7]),
    ("INT8", TensorProto.INT8, [-128, 127, 0, 7]),
    ("INT16", TensorProto.INT16, [-32768, 32767, 0, 7]),
    ("INT32", TensorProto.INT32, [-(2**31), 2**31 - 1, 0, 7]),
    ("INT64", TensorProto.INT64, [-(2**63), 2**63 - 1, 2**53 + 1, -(2**53) - 1]),
    ("FP16", TensorProto.FLOAT16, [0.5, -65504.0, 0.0, 1.5]),
    ("FP32", TensorProto.FLOAT, [0.5, -3.4028234663852886e38, 0.10000000149011612, 1.5]),
    ("FP64", TensorProto.DOUBLE, [0.1, -1.7976931348623157e308, 5e-324, 1.5]),
]


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, NDArray[np.generic]] | None = None,
) -> Path:
    """Write a model of these nodes; the folders above `path` are made."""
    initializers = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "artifact", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def tensor(name: str, shape: list[int | str | None] | None, datatype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input or output; a text or None in the shape is a free dimension."""
    return helper.make_tensor_value_info(name, datatype, shape)


def identity(path: Path, columns: int | None = None, datatype: int = TensorProto.FLOAT, rows: int | str = ROWS) -> Path:
    """`x` [rows, columns] -> `y`, the same."""
    shape: list[int | str | None] = [rows, columns]
    return save(
        path,
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", shape, datatype)],
        [tensor("y", shape, datatype)],
    )


def classifier(path: Path, features: int = 30, classes: int = 3, seed: int = 0, sharpness: float = 1.0) -> Path:
    """A linear classifier: `x` FP32 [rows, features] -> `label` INT64 [rows], `probabilities` FP32 [rows, classes].

    Its weights come from `seed`; the larger `sharpness`, the surer it is of every row (0: all classes alike).
    """
    draw = np.random.default_rng(seed)
    weights = (draw.standard_normal((features, classes)) * sharpness).astype(np.float32)
    return save(
        path,
        [
            helper.make_node("MatMul", ["x", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        ],
        [tensor("x", [ROWS, features])],
        [tensor("label", [ROWS], TensorProto.INT64), tensor("probabilities", [ROWS, classes])],
        {"weights": weights},
    )


def constant(path: Path, probabilities: list[float], features: int = 30) -> Path:
    """A classifier that gives every row the same `probabilities`; inputs and outputs as of `classifier`."""
    row = np.array([probabilities], dtype=np.float32)
    return save(
        path,
        [
            helper.make_node("ReduceSum", ["x", "axes"], ["sums"], keepdims=1),
            helper.make_node("Mul", ["sums", "zero"], ["zeros"]),
            helper.make_node("Add", ["zeros", "row"], ["probabilities"]),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        [tensor("x", [ROWS, features])],
        [tensor("label", [ROWS], TensorProto.INT64), tensor("probabilities", [ROWS, len(probabilities)])],
        {"row": row, "axes": np.array([1], dtype=np.int64), "zero": np.zeros(1, dtype=np.float32)},
    )


def texts(path: Path) -> Path:
    """`words` BYTES [rows, 1] -> `same` BYTES [rows, 1]."""
    shape: list[int | str | None] = [ROWS, 1]
    return save(
        path,
        [helper.make_node("Identity", ["words"], ["same"])],
        [tensor("words", shape, TensorProto.STRING)],
        [tensor("same", shape, TensorProto.STRING)],
    )


def division(path: Path) -> Path:
    """`a`, `b` INT64 [rows] -> `quotient` INT64 [rows]; onnxruntime fails on a division by zero."""
    pair = [tensor(name, [ROWS], TensorProto.INT64) for name in ("a", "b")]
    return save(
        path,
        [helper.make_node("Div", ["a", "b"], ["quotient"])],
        pair,
        [tensor("quotient", [ROWS], TensorProto.INT64)],
    )


def zipmap(path: Path) -> Path:
    """A classifier as skl2onnx writes it by default: its probabilities are a sequence of maps."""
    entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    scores = helper.make_value_info("probabilities", helper.make_sequence_type_proto(entry))
    return save(
        path,
        [helper.make_node("ZipMap", ["x"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])],
        [tensor("x", [ROWS, 3])],
        [scores],
    )


def external(path: Path, location: str = "weights.bin", write: bool = True) -> Path:
    """`x` FP32 [rows, 4] -> `y`, its 4 x 4 weights in a file beside the artifact (written only if asked)."""
    weights = np.eye(4, dtype=np.float32)
    save(
        path,
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        [tensor("x", [ROWS, 4])],
        [tensor("y", [ROWS, 4])],
        {"weights": weights},
    )
    model: ModelProto = onnx.load_model(path)
    set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    if write:
        (path.parent / location).write_bytes(weights.tobytes())
    return path


def slow(path: Path, size: int = 128) -> Path:
    """`x` FP32 [rows, 1] -> `y`, the same, after work that grows with the largest x: about as many ms on our machines.

    Zeros take some ms too, so that a warm-up finds it slow and no call runs inline.
    """
    step = helper.make_graph(
        [helper.make_node("MatMul", ["state", "turn"], ["next"]), helper.make_node("Identity", ["go"], ["on"])],
        "step",
        [tensor("at", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("state", [size, size])],
        [tensor("on", [], TensorProto.BOOL), tensor("next", [size, size])],
        [numpy_helper.from_array(np.eye(size, dtype=np.float32), "turn")],
    )
    return save(
        path,
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Max", ["most", "least"], ["ms"]),
            helper.make_node("Mul", ["ms", "per_ms"], ["steps"]),
            helper.make_node("Cast", ["steps"], ["trips"], to=TensorProto.INT64),
            helper.make_node("Loop", ["trips", "", "start"], ["end"], body=step),
            helper.make_node("ReduceMax", ["end"], ["one"], keepdims=0),
            helper.make_node("Mul", ["x", "one"], ["y"]),
        ],
        [tensor("x", [ROWS, 1])],
        [tensor("y", [ROWS, 1])],
        {
            "least": np.array(3, dtype=np.float32),
            "per_ms": np.array(20, dtype=np.float32),
            "start": np.eye(size, dtype=np.float32),
        },
    )


def pair(path: Path) -> Path:
    """`a` FP32 [rows, 2], `b` INT64 [rows] -> `c` FP32, the same as a, and `d` INT64, the same as b."""
    a, b = tensor("a", [ROWS, 2]), tensor("b", [ROWS], TensorProto.INT64)
    c, d = tensor("c", [ROWS, 2]), tensor("d", [ROWS], TensorProto.INT64)
    return save(
        path, [helper.make_node("Identity", ["a"], ["c"]), helper.make_node("Identity", ["b"], ["d"])], [a, b], [c, d]
    )


def scaled(path: Path) -> Path:
    """`x` FP32 [rows, 2], `by` FP32 [] -> `y` FP32 [rows, 2], x times by, and `most` FP32 [], the largest of them."""
    return save(
        path,
        [helper.make_node("Mul", ["x", "by"], ["y"]), helper.make_node("ReduceMax", ["y"], ["most"], keepdims=0)],
        [tensor("x", [ROWS, 2]), tensor("by", [])],
        [tensor("y", [ROWS, 2]), tensor("most", [])],
    )


def foremost(path: Path) -> Path:
    """`x` FP32 [rows, 2] -> `row` INT64 [2]: in which row each column is largest. onnxruntime fails without rows."""
    return save(
        path,
        [helper.make_node("ArgMax", ["x"], ["row"], axis=0, keepdims=0)],
        [tensor("x", [ROWS, 2])],
        [tensor("row", [2], TensorProto.INT64)],
    )


def single(path: Path, datatype: int) -> Path:
    """`x` [] -> `y` [], the same, and `twice` [any], two of it."""
    return save(
        path,
        [
            helper.make_node("Identity", ["x"], ["y"]),
            helper.make_node("Unsqueeze", ["x", "axes"], ["one"]),
            helper.make_node("Concat", ["one", "one"], ["twice"], axis=0),
        ],
        [tensor("x", [], datatype)],
        [tensor("y", [], datatype), tensor("twice", ["any"], datatype)],
        {"axes": np.array([0], np.int64)},
    )


def long_to_load(path: Path, nodes: int = 30_000) -> Path:
    """`x` FP32 [rows, 1] -> `y` through so many nodes that onnxruntime takes more than a second to look at them."""
    adds = [helper.make_node("Add", [f"v{at}" if at else "x", "one"], [f"v{at + 1}"]) for at in range(nodes)]
    return save(
        path,
        [*adds, helper.make_node("Identity", [f"v{nodes}"], ["y"])],
        [tensor("x", [ROWS, 1])],
        [tensor("y", [ROWS, 1])],
        {"one": np.ones(1, np.float32)},
    )


def unknown_operator(path: Path) -> Path:
    """`x` -> `y`: a sound file that can't be run."""
    return save(
        path, [helper.make_node("NoSuchThing", ["x"], ["y"])], [tensor("x", [ROWS, 1])], [tensor("y", [ROWS, 1])]
    )


_MOODY = """
import os
import time

import numpy as np


class Moody:
    def predict(self, inputs):
        x = inputs["x"]
        for ms in x.ravel().tolist():
            if ms < 0:
                os._exit(3)
            if ms > 60_000:
                time.sleep(3_600)
            time.sleep(ms / 1_000)
        return {"y": x, "process": np.full(len(x), os.getpid(), np.int64)}
"""


def moody(folder: Path) -> dict[str, Any]:
    """A model that is a class: `x` FP32 [rows, 1] -> `y`, the same, after as many ms for each row; and its process's id.

    A row above a minute never ends, and one below 0 ends the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "moody.py").write_text(_MOODY)
    x = {"name": "x", "datatype": "FP32", "shape": [-1, 1]}
    outputs = [{**x, "name": "y"}, {"name": "process", "datatype": "INT64", "shape": [-1]}]
    return {"runtime": "python", "artifact": "moody.py", "class": "Moody", "inputs": [x], "outputs": outputs}

"""Write the two small ONNX models that the examples serve: python examples/make_models.py

Both take `features` (FP32 [rows, 4]) and give `probabilities` (FP32 [rows, 3]) and `label` (INT64 [rows]).
`flowers` is a linear classifier; `usual` gives every row the same answer: what is most often right.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent

# A logistic regression on Fisher's irises, right on 97 % of them. Rows: sepal length, sepal width, petal length, petal
# width in cm; columns: setosa, versicolor, virginica.
FLOWERS = np.array([[-0.4, 0.5, -0.1], [1.0, -0.3, -0.7], [-2.5, -0.2, 2.7], [-1.1, -0.9, 2.0]], np.float32)
FLOWERS_BIAS = np.array([9.8, 2.2, -12.1], np.float32)


def classifier(weights, bias):
    """softmax(features · weights + bias), and the class with the largest value."""
    nodes = [
        helper.make_node("Gemm", ["features", "weights", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 4])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 3]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
        ],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def main():
    folder = HERE / "models"
    folder.mkdir(exist_ok=True)
    onnx.save(classifier(FLOWERS, FLOWERS_BIAS), folder / "flowers.onnx")
    onnx.save(classifier(np.zeros_like(FLOWERS), np.array([0, 1, 0], np.float32)), folder / "usual.onnx")
    print(f"wrote {folder / 'flowers.onnx'} and {folder / 'usual.onnx'}")


if __name__ == "__main__":
    main()

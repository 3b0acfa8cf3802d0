"""The model that every peer serves, as a careful user would write it: one thread, no spinning, lists in and out."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime as ort

Rows = np.ndarray


class Linear:
    """Runs the ONNX file that the environment names, on rows of an Open Inference Protocol request in JSON."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])

    def predict(self, rows: Rows) -> tuple[Rows, Rows]:
        """Labels and probabilities."""
        label, probabilities = self._session.run(["label", "probabilities"], {"x": rows})
        return label, probabilities

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """One request to one reply."""
        return reply(*self.predict(rows_of(asked)))

    def answers(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A batch of requests, run as one."""
        parts = [rows_of(one) for one in asked]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        outputs = (np.split(output, ends) for output in self.predict(np.concatenate(parts)))
        return [reply(*both) for both in zip(*outputs, strict=True)]


def rows_of(asked: dict[str, Any]) -> Rows:
    tensor = asked["inputs"][0]
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


def reply(label: Rows, probabilities: Rows) -> dict[str, Any]:
    outputs = [("label", "INT64", label), ("probabilities", "FP32", probabilities)]
    return {
        "model_name": "rows",
        "outputs": [
            {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, datatype, array in outputs
        ],
    }

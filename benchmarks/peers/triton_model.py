"""What Triton's Python backend runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))

from linear import Linear


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:  # noqa: ARG002 (its interface)
        self._model = Linear()

    def execute(self, requests: list[Any]) -> list[Any]:
        parts = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        label, probabilities = (np.split(output, ends) for output in self._model.predict(np.concatenate(parts)))
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("label", one), pb_utils.Tensor("probabilities", other)])
            for one, other in zip(label, probabilities, strict=True)
        ]

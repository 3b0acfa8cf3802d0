"""BentoML: one service with one worker. No batching: what it waits for is dearer than what it saves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml
from linear import Linear


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Rows:
    def __init__(self) -> None:
        self._model = Linear()

    @bentoml.api(route="/v2/models/rows/infer")
    def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return self._model.answer({"inputs": inputs})


if __name__ == "__main__":
    here = str(Path(__file__).parent)
    port = int(os.environ["PEER_PORT"])
    bentoml.serve("bentoml_app:Rows", working_dir=here, host="127.0.0.1", port=port, blocking=True)

"""Mosec: one worker process behind its Rust server. PEER_BATCH: what is queued runs as batches of at most so many."""

from __future__ import annotations

import os
import sys
from typing import Any

from linear import Linear
from mosec import Runtime, Server, Worker

BATCH = int(os.environ.get("PEER_BATCH", "1"))


class Rows(Worker):
    def __init__(self) -> None:
        super().__init__()
        self._model = Linear()

    def forward(self, data: Any) -> Any:
        """A request, or a list of them where it batches."""
        return self._model.answers(data) if BATCH > 1 else self._model.answer(data)


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", os.environ["PEER_PORT"], "--log-level", "warning"]
    server = Server()
    server.register_runtime({"/v2/models/rows/infer": [Runtime(Rows, num=1, max_batch_size=BATCH, max_wait_time=1)]})
    server.run()

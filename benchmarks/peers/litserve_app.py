"""LitServe: one worker process behind one of uvicorn. No batching: what it waits for is dearer than what it saves."""

import os
from typing import Any

import litserve as ls
from linear import Linear


class Rows(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 (its interface)
        self._model = Linear()

    def decode_request(self, request) -> dict[str, Any]:  # an annotation would choose another way of parsing
        return request

    def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self._model.answer(asked)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    server = ls.LitServer(Rows(api_path="/v2/models/rows/infer"), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )

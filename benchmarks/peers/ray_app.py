"""Ray Serve: one replica behind its proxy, over HTTP and gRPC, in a Ray of its own on loopback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import numpy as np
import open_inference_grpc_pb2 as pb
import ray
from linear import Linear
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=200, ray_actor_options={"num_cpus": 0})
class Rows:
    def __init__(self) -> None:
        self._model = Linear()

    async def __call__(self, request: Request) -> dict[str, Any]:
        return self._model.answer(await request.json())

    async def ModelInfer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:  # noqa: N802 (its name over gRPC)
        rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(request.inputs[0].shape)
        label, probabilities = self._model.predict(rows)
        response = pb.ModelInferResponse(model_name=request.model_name)
        for name, datatype, array in (("label", "INT64", label), ("probabilities", "FP32", probabilities)):
            response.outputs.add(name=name, datatype=datatype, shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return response


if __name__ == "__main__":
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=200_000_000,
        log_to_driver=False,
        _temp_dir=sys.argv[1],
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])},
        grpc_options={"port": int(os.environ["PEER_GRPC_PORT"]), "grpc_servicer_functions": ["ray_oip.add_inference"]},
        proxy_location="HeadOnly",
    )
    serve.run(Rows.bind(), route_prefix="/v2/models/rows/infer")
    ended.wait()
    ray.shutdown()

"""The floor over gRPC: the least that a bare grpc.aio server on uvloop can do to answer with an ONNX model.

Typed messages, raw contents both ways, onnxruntime inline on the event loop. No key, no limits, no validation, no Record.

    python benchmarks/grpc_floor.py PORT NAME=MODEL.onnx [NAME=MODEL.onnx ...]
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc.aio
import numpy as np
import uvloop

from floor import DTYPES, Predictor
from servery.wire.proto import open_inference_grpc_pb2 as pb


class Floor:
    """ModelInfer, and nothing else."""

    def __init__(self, predictors: list[Predictor]) -> None:
        self._by_name = {predictor.name: predictor for predictor in predictors}

    async def infer(self, request: pb.ModelInferRequest, _context: object) -> pb.ModelInferResponse:
        feed = {
            tensor.name: np.frombuffer(block, DTYPES[tensor.datatype]).reshape(tensor.shape)
            for tensor, block in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        response = pb.ModelInferResponse(model_name=request.model_name)
        for name, datatype, array in self._by_name[request.model_name].predict(feed):
            response.outputs.add(name=name, datatype=datatype, shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return response


async def serve(port: int, floor: Floor) -> None:
    server: Any = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    handler: Any = grpc.unary_unary_rpc_method_handler(
        floor.infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main(arguments: list[str]) -> None:
    port, *models = arguments
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(port), Floor([Predictor(*model.split("=", 1)) for model in models])))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The Open Inference Protocol's ModelInfer, as Ray Serve's gRPC proxy wants to be told of a service."""

from __future__ import annotations

from typing import Any

import grpc
import open_inference_grpc_pb2 as pb


def add_inference(servicer: Any, server: Any) -> None:
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.ModelInfer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
    server.add_generic_rpc_handlers((service,))

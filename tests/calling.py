"""Plain ways to call a server over gRPC: raw stubs over bytes or our own messages, as no client library would."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import msgspec
import numpy as np

from server import Server
from servery.wire.proto import open_inference_grpc_pb2 as pb

SERVICE = "inference.GRPCInferenceService"


class Ended(msgspec.Struct, frozen=True):
    """How a call ended: its code by name, the message of an error, the answer, and the trailing metadata."""

    code: str
    message: str
    answer: Any
    metadata: dict[str, str]


def grpc_port(server: Server) -> int:
    found = re.search(r"gRPC on \S+:(\d+)", server.written())
    assert found, server.written()
    return int(found[1])


def channel_to(server: Server, *options: tuple[str, Any]) -> grpc.Channel:
    """A connection of its own, which is made anew at once when it was lost."""
    own = (("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50), *options)
    return grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}", options=own)


def call(
    channel: grpc.Channel,
    name: str,
    message: Any,
    metadata: Mapping[str, str] | None = None,
    limit_s: float = 20.0,
    service: str = SERVICE,
    **options: Any,
) -> Ended:
    """One unary call; `message` is bytes or a message of ours. The answer is parsed where we know its type."""
    sent = message if isinstance(message, bytes) else message.SerializeToString()
    stub: Any = channel.unary_unary(f"/{service}/{name}")
    try:
        ended: Any
        answer, ended = stub.with_call(sent, timeout=limit_s, metadata=tuple((metadata or {}).items()), **options)
    except grpc.RpcError as error:
        answer, ended = None, error
    kind = getattr(pb, f"{name}Response", None)
    parsed = kind.FromString(answer) if kind is not None and answer is not None else answer
    trailing: Any = ended.trailing_metadata() or ()
    return Ended(ended.code().name, ended.details() or "", parsed, dict(trailing))


def ask(name: str, *inputs: Any, raw: Iterable[bytes] = (), **fields: Any) -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name=name, inputs=inputs, **fields)
    asked.raw_input_contents.extend(raw)
    return asked


def tensor(name: str, datatype: str, shape: Iterable[int], field: str = "", values: Any = ()) -> Any:
    made = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=list(shape))
    if field:
        getattr(made.contents, field).extend(values)
    return made


def ask_rows(name: str, rows: np.ndarray[Any, Any], **fields: Any) -> pb.ModelInferRequest:
    """A raw request of one FP32 input `x`."""
    return ask(name, tensor("x", "FP32", rows.shape), raw=[rows.astype("<f4").tobytes()], **fields)


def slowly(ms: float, name: str = "slow") -> pb.ModelInferRequest:
    return ask_rows(name, np.full((1, 1), ms, np.float32))

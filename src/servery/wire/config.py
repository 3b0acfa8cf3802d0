"""Triton's model configuration extension: how a Model is called and batched, in the form that its clients read.

Source: triton-inference-server/server, docs/protocol/extension_model_configuration.md; field numbers from the descriptors of
tritonclient. What a Model here has no word for is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from servery.terms.tensors import TensorSpec
from servery.wire.proto import open_inference_grpc_pb2 as pb


class Config(msgspec.Struct, frozen=True):
    """What is told of a Route or Model. With `max_rows` above 0 the first dimension of all tensors counts rows."""

    name: str
    platform: str
    backend: str
    versions: tuple[str, ...]
    max_rows: int
    max_wait_us: int
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    copies: int
    device: str


def encode_config(config: Config) -> bytes:
    """As JSON."""
    told: dict[str, Any] = {
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "version_policy": {"specific": {"versions": _numbers(config)}},
        "max_batch_size": config.max_rows,
        "input": [_tensor(spec, config) for spec in config.inputs],
        "output": [_tensor(spec, config) for spec in config.outputs],
        "instance_group": [{"kind": _kind(config), "count": config.copies}],
    }
    if config.max_rows > 1:
        told["dynamic_batching"] = {"max_queue_delay_microseconds": config.max_wait_us}
    return msgspec.json.encode(told)


def encode_config_grpc(config: Config) -> bytes:
    """As a ModelConfigResponse."""
    response = pb.ModelConfigResponse()
    told = response.config
    told.name, told.platform, told.backend = config.name, config.platform, config.backend
    told.version_policy.specific.versions.extend(_numbers(config))
    told.max_batch_size = config.max_rows
    for spec in config.inputs:
        told.input.add(**_tensor(spec, config))
    for spec in config.outputs:
        told.output.add(**_tensor(spec, config))
    told.instance_group.add(kind=_kind(config), count=config.copies)
    if config.max_rows > 1:
        told.dynamic_batching.max_queue_delay_microseconds = config.max_wait_us
    return response.SerializeToString()


def _tensor(spec: TensorSpec, config: Config) -> dict[str, Any]:
    dims = spec.shape[1:] if config.max_rows else spec.shape
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(dims)}


def _numbers(config: Config) -> list[int]:
    return [int(version) for version in config.versions if version.isdigit()]


def _kind(config: Config) -> str:
    return "KIND_GPU" if config.device == "cuda" else "KIND_CPU"

"""Triton's model repository and statistics extensions, over HTTP and gRPC.

Source: triton-inference-server/server, docs/protocol/extension_model_repository.md and extension_statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from servery.terms.statistics import Spent, State, VersionStatistics
from servery.wire.proto import open_inference_grpc_pb2 as pb
from servery.wire.tensors import bad


class IndexAsked(msgspec.Struct, frozen=True):
    """The body of an index call; it may be empty."""

    ready: bool = False


class ChangeAsked(msgspec.Struct, frozen=True):
    """The body of a load or unload call; it may be empty."""

    parameters: dict[str, Any] = {}


class ReasonGiven(msgspec.Struct, frozen=True):
    """The body of an apply call: why. It may be empty."""

    reason: Annotated[str, Meta(max_length=2_000)] = ""


_reason = msgspec.json.Decoder(ReasonGiven)
_index = msgspec.json.Decoder(IndexAsked)
_change = msgspec.json.Decoder(ChangeAsked)


def decode_index(body: bytes) -> IndexAsked:
    """A Refusal for what isn't one."""
    return _decode(_index, body)


def decode_change(body: bytes) -> ChangeAsked:
    """A Refusal for what isn't one."""
    return _decode(_change, body)


def decode_reason(body: bytes) -> str:
    """A Refusal for what holds none."""
    return _decode(_reason, body).reason.strip()


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body if body.strip() else b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad(f"the body must be empty or a JSON object: {error}") from None


def encode_index(states: Iterable[State]) -> bytes:
    return msgspec.json.encode([msgspec.structs.asdict(state) for state in states])


def encode_statistics(statistics: Iterable[VersionStatistics]) -> bytes:
    return msgspec.json.encode({"model_stats": [_statistics(one) for one in statistics]})


def _statistics(one: VersionStatistics) -> dict[str, Any]:
    durations = (
        "success",
        "fail",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
        "cache_hit",
        "cache_miss",
    )
    known = {"success": one.success, "fail": one.fail, "queue": one.queue, "compute_infer": one.compute}
    return {
        "name": one.model,
        "version": one.number,
        "last_inference": one.last_ns // 1_000_000,
        "inference_count": one.inferences,
        "execution_count": one.executions,
        "inference_stats": {name: _spent(known.get(name, Spent())) for name in durations},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _spent(Spent(ran.count)),
                "compute_infer": _spent(ran),
                "compute_output": _spent(Spent(ran.count)),
            }
            for rows, ran in one.batches.items()
        ],
    }


def _spent(spent: Spent) -> dict[str, int]:
    return {"count": spent.count, "ns": spent.ns}


def encode_index_grpc(states: Iterable[State]) -> bytes:
    """RepositoryIndexResponse."""
    response = pb.RepositoryIndexResponse()
    for state in states:
        response.models.add(name=state.name, version=state.version, state=state.state, reason=state.reason)
    return response.SerializeToString()


def encode_statistics_grpc(statistics: Iterable[VersionStatistics]) -> bytes:
    """ModelStatisticsResponse."""
    response = pb.ModelStatisticsResponse()
    for one in statistics:
        said = _statistics(one)
        line = response.model_stats.add(
            **{name: said[name] for name in ("name", "version", "last_inference", "inference_count", "execution_count")}
        )
        for name, spent in said["inference_stats"].items():
            getattr(line.inference_stats, name).MergeFrom(pb.StatisticDuration(**spent))
        for batch in said["batch_stats"]:
            parts = {name: pb.StatisticDuration(**spent) for name, spent in batch.items() if name != "batch_size"}
            line.batch_stats.add(batch_size=batch["batch_size"], **parts)
    return response.SerializeToString()

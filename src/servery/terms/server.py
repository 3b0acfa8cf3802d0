"""The part of a Manifest that says where and within which bounds Servery runs, and how it keeps Records."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from msgspec import Meta

from servery.terms.content import ContentKey
from servery.terms.declared import Count, Declared, Positive


class Drain(Declared, frozen=True):
    """How a worker stops after SIGTERM."""

    grace_s: Annotated[float, Meta(ge=0, le=600, description="keep accepting this long after becoming unready")] = 0
    limit_s: Annotated[float, Meta(gt=0, le=600, description="finish what is in flight within this time")] = 30


class Server(Declared, frozen=True):
    """Where and within which bounds Servery listens."""

    host: Annotated[
        str, Meta(min_length=1, description="address to listen on; without tenants only loopback is allowed")
    ] = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=65535, description="port of the HTTP face; 0 takes a free one")] = 8000
    grpc_port: (
        Annotated[
            int,
            Meta(ge=0, le=65535, description="port of the gRPC face, by custom 8001; 0 takes a free one, none: off"),
        ]
        | None
    ) = None
    max_body_mb: Annotated[int, Meta(ge=1, le=2048, description="largest request body or gRPC message, in MiB")] = 64
    receive_limit_s: Annotated[
        float, Meta(gt=0, le=3600, description="a request must have arrived within this time")
    ] = 20
    workers: Annotated[
        int, Meta(ge=0, le=1024, description="processes that answer callers; 0: one for each core that may be used")
    ] = 1
    concurrency_per_worker: Annotated[Count, Meta(description="requests that one worker runs at once")] = 256
    queue_per_worker: Annotated[int, Meta(ge=0, description="requests that may wait for a turn in one worker")] = 1024
    drain: Drain = Drain()
    in_process_ms: Annotated[
        Positive,
        Meta(
            description="a model whose call of one row takes up to this long runs in each worker; slower ones run apart"
        ),
    ] = 1.0
    in_process_mb: Annotated[
        Count,
        Meta(
            description="an artifact whose copies in all workers take up to this, in MiB, runs in them; larger ones apart"
        ),
    ] = 512

    loaded_mb: (
        Annotated[
            Count,
            Meta(
                description="artifacts that are loaded at once, in MiB over all copies; beyond it the least recently used models sleep until they are asked for"
            ),
        ]
        | None
    ) = None
    fetch_mb: Annotated[
        Count,
        Meta(description="what an artifact that is fetched from a URL, or kept as a copy, may take at most, in MiB"),
    ] = 20_480
    keep_revisions: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="so many of the last revisions can be returned to; of older ones a line remains",
        ),
    ] = 20


class Records(Declared, frozen=True):
    """How Records are kept."""

    durability: Annotated[
        Literal["process", "power"],
        Meta(
            description="`process`: survive the worker's death after 50 ms and the machine's after a second; `power`: every group is synced to disk"
        ),
    ] = "process"
    when_full: Annotated[
        Literal["summarise", "refuse"],
        Meta(description="when the spool is full: fold Records into counts and money, or refuse requests (503)"),
    ] = "summarise"
    spool_mb: Annotated[
        int, Meta(ge=1, le=1_000_000, description="disk that Records may take before they reach the ledger, in MiB")
    ] = 256
    keep_days: Annotated[int, Meta(ge=1, le=36_500, description="days that the ledger keeps a Record")] = 400
    content_key: Annotated[
        ContentKey | None,
        Meta(
            description="where the keys are found that [Content](contents.md) is encrypted with; default: a file in the data folder, made at need"
        ),
    ] = None
    content_mb: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="disk that Content may take before it reaches its database, in MiB"),
    ] = 256


def on_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. A name may mean any address, but for `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

"""The trained files that routes name: read when a Snapshot comes, kept by their digests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from servery.routing.router_file import Router
from servery.routing.verifier import Verifier
from servery.terms.change import Pinned, Snapshot

Kind = TypeVar("Kind")


class Trained(msgspec.Struct, frozen=True):
    """What was read, by digest."""

    routers: Mapping[str, Router] = {}
    verifiers: Mapping[str, Verifier] = {}


class Reads(msgspec.Struct, frozen=True):
    """How a published file is read, by its digest. OSError, BadFile."""

    router: Callable[[str], Router]
    verifier: Callable[[str], Verifier]


def read_trained(snapshot: Snapshot, before: Trained, reads: Reads) -> Trained:
    """What a Snapshot names, and nothing else; what was read before isn't read again. OSError, BadFile."""
    return Trained(
        _kept(snapshot.routers.values(), before.routers, reads.router),
        _kept(snapshot.verifiers.values(), before.verifiers, reads.verifier),
    )


def _kept(pinned: Iterable[Pinned], before: Mapping[str, Kind], read: Callable[[str], Kind]) -> dict[str, Kind]:
    return {digest: before.get(digest) or read(digest) for digest in {one.digest for one in pinned}}

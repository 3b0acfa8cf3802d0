"""How each process is started: its command line, and what it is told there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from servery.fleet.processes import children
from servery.host.settings import DataFolder
from servery.host.supervisor import Child, python
from servery.terms.change import Snapshot

# What stops in which order: the highest first.
SHIPPER, REPLICAS, WORKERS = range(3)
FLEET_WORD = "fleet"  # the controller says it once it has written which Replicas are to run
ADMIN_WORD = "admin "  # the controller says it before the address of the admin API, whenever that is opened


class WorkerSettings(msgspec.Struct, frozen=True):
    data: str
    listener: int  # descriptor
    number: int
    grpc: str = ""  # the address of the gRPC face; none: it is off


class ControllerSettings(msgspec.Struct, frozen=True):
    data: str
    manifest: str


class ShipperSettings(msgspec.Struct, frozen=True):
    data: str


def command(kind: str, settings: msgspec.Struct) -> tuple[str, ...]:
    """A process of this kind."""
    return python("-m", "servery.wiring", kind, msgspec.json.encode(settings).decode())


def needed_replicas(snapshot: Snapshot, folder: DataFolder) -> list[Child]:
    """The Replicas that a Snapshot needs."""
    return list(children(snapshot, folder.run, _replica, REPLICAS))


def _replica(settings: Path) -> tuple[str, ...]:
    return python("-m", "servery.wiring", "replica", str(settings))

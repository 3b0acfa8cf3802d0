"""The supervisor: what it starts, and in which order it stops that."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from servery.host.ports import address_of
from servery.host.settings import DataFolder
from servery.host.supervisor import Child, Supervisor
from servery.terms.change import Snapshot
from servery.wiring.commands import (
    FLEET_WORD,
    REPLICAS,
    SHIPPER,
    WORKERS,
    ControllerSettings,
    ShipperSettings,
    WorkerSettings,
    command,
    needed_replicas,
)

_SHIPPER_STOP_S = 30.0
_CONTROLLER_STOP_S = 10.0


class Listeners(msgspec.Struct, frozen=True):
    """The sockets that callers reach. The worker binds gRPC's port itself; ours only keeps it."""

    http: socket.socket
    grpc: socket.socket | None


def supervise(
    folder: DataFolder,
    lock: int,
    manifest: Path,
    snapshot: Snapshot,
    listeners: Listeners,
    said: Callable[[str, str], None],
) -> Supervisor:
    """The supervisor of the workers, the controller, the shipper and the Replicas; OSError. The shipper starts first and stops last.

    All but the Replicas share the folder's `lock`: were the supervisor killed, there would be two shippers or controllers
    otherwise for a moment.
    """
    drain = snapshot.manifest.server.drain
    http, grpc = listeners.http, listeners.grpc
    data = str(folder.path)
    shipper = Child(
        "shipper", command("shipper", ShipperSettings(data)), (lock,), _SHIPPER_STOP_S, SHIPPER, finishes=True
    )
    controller = Child(
        "controller",
        command("controller", ControllerSettings(data, str(manifest.absolute()))),
        (lock,),
        _CONTROLLER_STOP_S,
        REPLICAS,  # together: while a Rollout is under way it is connected to some, and they wait for who is
    )
    workers = [
        Child(
            f"worker-{number}",
            command("worker", WorkerSettings(data, http.fileno(), number, "" if grpc is None else address_of(grpc))),
            (http.fileno(), lock),
            drain.grace_s + drain.limit_s + 15.0,
            WORKERS,
        )
        for number in range(snapshot.workers)
    ]

    def everything(replicas: Iterable[Child]) -> list[Child]:
        return [shipper, controller, *replicas, *workers]

    def hear(name: str, word: str) -> None:
        if name == "controller" and word == FLEET_WORD:
            supervisor.want(everything(msgspec.json.decode(folder.fleet.read_bytes(), type=tuple[Child, ...])))
        said(name, word)

    first = everything(needed_replicas(snapshot, folder))
    supervisor = Supervisor(first, [http] if grpc is None else [http, grpc], hear)
    return supervisor

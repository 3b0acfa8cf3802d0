"""Replicas as processes of this machine: where each listens, and what the supervisor runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from servery.host.supervisor import Child, Watch
from servery.terms.change import Snapshot, Standing, Version
from servery.terms.limits import Limits
from servery.terms.manifest import Manifest, Model, Versions
from servery.terms.placement import asked_at, replicas_of
from servery.terms.rollouts import RolloutPolicy

_STOP_S = 15.0  # beside the limit for what is in flight


class ReplicaSettings(msgspec.Struct, frozen=True):
    """All that a Replica is started with. It is written to a file: a signature may be longer than a command line."""

    model: Model
    version: Version
    socket: str
    name: str
    drain_limit_s: float
    secrets: tuple[str, ...] = ()  # environment variables that user code must not see


def sockets(folder: Path, model: Model, version: Version, count: int) -> tuple[Path, ...]:
    """Where the Replicas of a Version listen. Those of another Version, or run in another way, listen elsewhere."""
    depends = msgspec.json.encode((running(model), version), order="sorted")
    key = hashlib.sha256(depends).hexdigest()[:16]
    return tuple(folder / f"{key}-{index}.sock" for index in range(count))


def running(model: Model) -> Model:
    """What of a Model's declaration a running copy depends on: with a change of the rest it runs on."""
    return msgspec.structs.replace(
        model,
        artifact="",
        artifacts=(),
        keep=False,
        versions=Versions(),
        labels={},
        confidence=None,
        prediction=None,
        price=None,
        region=None,
        expose=False,
        replicas=None,
        limits=Limits(),
        rollout=RolloutPolicy(),
    )


def children(
    snapshot: Snapshot, folder: Path, command: Callable[[Path], tuple[str, ...]], stage: int
) -> Iterator[Child]:
    """A Child for each Replica of each Version of a Snapshot; OSError. `command` starts one from its settings' file."""
    drain = snapshot.manifest.server.drain
    secrets = tuple(sorted({name for view in snapshot.views for name in _secrets(view.manifest)}))
    served_now = [(name, model, snapshot.models[name]) for name, model in snapshot.manifest.models.items()]
    candidates = [(name, one.model, one.served) for name, one in snapshot.candidates.items()]
    for name, model, served in (*served_now, *candidates):
        for version in served.versions if served.standing is Standing.LOADED else ():
            for index, socket in enumerate(sockets(folder, model, version, replicas_of(model, served, version.number))):
                label = f"replica {name}/{version.number}#{index}"
                settings = ReplicaSettings(running(model), version, str(socket), label, drain.limit_s, secrets)
                path = socket.with_suffix(".json")
                _write(path, msgspec.json.encode(settings))
                health = model.health
                watch = Watch(str(socket), "/v2/health/live", health.interval_s, health.limit_s, health.threshold)
                yield Child(label, command(path), (), drain.limit_s + _STOP_S, stage, watch)


def _secrets(manifest: Manifest) -> set[str]:
    """The environment variables that hold one."""
    names = {name for model in manifest.models.values() for _, name in asked_at(model) if name}
    others = (manifest.counters.credentials, manifest.records.content_key)
    return names | {one.env for one in others if one is not None}


def read_settings(path: Path) -> ReplicaSettings:
    """OSError, or msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=ReplicaSettings)


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".tmp")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    fresh.replace(path)

"""The published Snapshot: written by the controller, read by every process that serves."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from servery.host.settings import DataFolder
from servery.terms.change import Pinned, Snapshot


class SnapshotError(Exception):
    """A snapshot that isn't there, or can't be read."""


def publish(snapshot: Snapshot, folder: DataFolder) -> Snapshot:
    """Write the Snapshot so that a reader sees the old one or the new one, whole, even after a power cut; OSError."""
    for pinned in snapshot.routers.values():
        _keep(pinned, folder.router(pinned.digest))
    for pinned in snapshot.verifiers.values():
        _keep(pinned, folder.verifier(pinned.digest))
    write_whole(folder.snapshot, msgspec.json.encode(snapshot))
    directory = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return snapshot


def _keep(pinned: Pinned, kept: Path) -> None:
    """Copy a pinned file into the data folder, where it is called by its digest."""
    if kept.exists():
        return
    content = Path(pinned.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != pinned.digest:
        raise OSError(f"{pinned.path} changed while it was published; try again")
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    write_whole(kept, content)


def write_whole(path: Path, content: bytes) -> None:
    """Put a synced file in the place of the one at `path`. Only its owner may read it: it may name tenants and keys."""
    fresh = path.with_suffix(".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # a file that was left behind keeps its old mode
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_took(path: Path) -> dict[str, float]:
    """What was measured of Versions in earlier runs; nothing where that can't be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def read_snapshot(path: Path) -> Snapshot:
    """The published Snapshot, or SnapshotError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except OSError as error:
        raise SnapshotError(f"{path} can't be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotError(f"{path} is not a snapshot: {error}") from None

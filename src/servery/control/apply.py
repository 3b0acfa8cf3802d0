"""Apply: a Manifest that was found good, with its Versions, becomes the Snapshot that workers read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from servery.control.artifacts import Artifacts
from servery.control.declare import Declared, declare
from servery.control.resolve import resolve
from servery.control.trained import Files
from servery.control.validate import validate
from servery.host.settings import DataFolder
from servery.terms.change import Pinned, Problem, Served, Severity, Snapshot
from servery.terms.manifest import Manifest

Copies = Callable[[int], Artifacts]  # by the most MiB that one may take


class SnapshotError(Exception):
    """A snapshot that isn't there, or can't be read."""


class Checked(msgspec.Struct, frozen=True):
    """A file that went through declare, resolve and validate; all problems, in the order of their lines."""

    declared: Declared
    models: dict[str, Served]
    problems: tuple[Problem, ...]
    files: Files = Files()
    notes: tuple[str, ...] = ()  # what is no problem, but should be known

    @property
    def manifest(self) -> Manifest | None:
        return self.declared.manifest

    @property
    def digest(self) -> str:
        return self.declared.digest

    def snapshot(self, epoch: int, workers: int) -> Snapshot:
        """What is published of it."""
        assert self.manifest is not None, "only a manifest without errors is published"
        return Snapshot(
            epoch, self.manifest, self.digest, self.models, workers, self.files.routers, self.files.verifiers
        )

    @property
    def servable(self) -> bool:
        """Whether it may be served: an artifact that can't be read costs its own Model only."""
        return self.manifest is not None and all(p.severity is Severity.UNAVAILABLE for p in self.problems)


def into(folder: DataFolder, fallback: bool = False) -> Copies:
    """Copies in a data folder, for what is published from it."""
    return lambda most: Artifacts(folder.artifacts, most, fallback=fallback)


def beside(path: Path) -> Copies:
    """Copies of what is fetched, for who only looks at the manifest at `path`."""
    folder = DataFolder(path.absolute().parent / ".servery").artifacts
    return lambda most: Artifacts(folder, most, keeps=False)


def check(path: Path, copies: Copies | None = None) -> Checked:
    """All that is wrong with the manifest at `path`, at once. Never raises for what the file holds.

    Without `copies` what lies behind a URL is fetched into `.servery` beside the manifest.
    """
    declared = declare(path)
    models: dict[str, Served] = {}
    problems, files, notes = declared.problems, Files(), ()
    if declared.sound is not None:
        most = declared.sound.server.fetch_mb
        made = beside(path)(most) if copies is None else copies(most)
        resolved = resolve(declared.sound, path.parent, declared.places, made)
        notes = tuple(made.notes)
        models, files = resolved.models, resolved.files
        problems = (*problems, *resolved.problems, *validate(declared.sound, models, declared.places))
    return Checked(declared, models, tuple(sorted(problems, key=lambda p: (p.line, p.column, p.where))), files, notes)


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


def sweep(folder: DataFolder, needed: Iterable[Snapshot], now_s: float) -> int:
    """Remove the copies of artifacts and of trained files that none of these Snapshots serves; how many. OSError."""
    paths: set[Path] = set()
    for snapshot in needed:
        for view in snapshot.views:
            paths |= {Path(version.artifact) for served in view.models.values() for version in served.versions}
        paths |= {folder.router(pinned.digest) for pinned in snapshot.routers.values()}
        paths |= {folder.verifier(pinned.digest) for pinned in snapshot.verifiers.values()}
    removed = Artifacts(folder.artifacts, 0).sweep(paths, now_s)
    for trained in (folder.router("").parent, folder.verifier("").parent):
        for file in trained.iterdir() if trained.is_dir() else ():
            if file.suffix == ".npz" and file not in paths:
                file.unlink()
                removed += 1
    return removed


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

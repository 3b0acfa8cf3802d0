"""Apply: a Manifest that was found good, with its Versions, becomes the Snapshot that workers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from servery.control.artifacts import Artifacts
from servery.control.declare import Declared, declare
from servery.control.resolve import resolve
from servery.control.trained import Files
from servery.control.validate import validate
from servery.host.settings import DataFolder
from servery.terms.change import Problem, Served, Severity, Snapshot
from servery.terms.manifest import Manifest

Copies = Callable[[int], Artifacts]  # by the most MiB that one may take


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

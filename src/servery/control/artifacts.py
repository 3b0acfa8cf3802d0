"""Copies of artifacts in the data folder, by the digest of what is in them: what was fetched from a URL, and what is to be
served again though its file was overwritten. Blocking.

A copy is made beside the others and moved into its place, whole and synced. What is in it is looked at each time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from servery.control.remote import Lying, Remote
from servery.control.urls import plain, wrong
from servery.runtimes.artifact import ArtifactError, file_digest

log = logging.getLogger("servery.artifacts")

_STAGING = ".new-"
_MIB = 2**20
_LEFT_MIB = 512  # of the disk, that no copy may take
_YOUNG_S = 3_600  # what was used within this time isn't removed: somebody may be about to publish it


class Copy(msgspec.Struct, frozen=True):
    """What was fetched from a URL last: `mark` tells whether what lies there is still that."""

    mark: str
    digest: str
    name: str  # of the file or folder inside of the copy


class Artifacts:
    """The copies in one folder. `fallback`: where a URL can't be read, what was fetched from it last is good enough.

    With `keeps` models that ask for it get copies of files on this machine too. `notes` grows by what somebody should know.
    """

    def __init__(self, folder: Path, most_mib: int, keeps: bool = True, fallback: bool = False) -> None:
        self.folder = folder
        self.keeps = keeps
        self.notes: list[str] = []
        self._most = most_mib * _MIB
        self._fallback = fallback

    def numbers(self, url: str) -> tuple[int, ...]:
        """The numbered folders at `url`; none where it is one artifact, or can't be. ArtifactError."""
        if wrong(url)[0]:
            return ()
        try:
            return Remote(url).numbers()
        except ArtifactError:
            last = self._index()
            known = [int(name) for one in last if (name := one.removeprefix(url.rstrip("/") + "/")).isdigit()]
            if not self._fallback or not (known or url in last):
                raise
            return tuple(sorted(known))

    def fetched(self, url: str, beside: Callable[[Path], Collection[str]]) -> Path:
        """The copy of what lies at `url` now; `beside` says which other files of its folder a fetched file needs.

        ArtifactError.
        """
        message, fix = wrong(url)
        if message:
            raise ArtifactError(message, fix)
        last = self._index().get(url)
        try:
            return self._fetched(url, last, beside)
        except ArtifactError as error:
            if not self._fallback or last is None or (there := self._there(last)) is None:
                raise
            self.notes.append(f"{error}; what was fetched from there before is served")
            return there

    def _fetched(self, url: str, last: Copy | None, beside: Callable[[Path], Collection[str]]) -> Path:
        remote = Remote(url)
        files = remote.files()
        mark = _mark_of(files)
        if last is not None and mark and last.mark == mark and (there := self._there(last)) is not None:
            return there
        name = posixpath.basename(urlsplit(url).path.rstrip("/")) or "artifact"

        def fill(staging: Path) -> None:
            left = self._room(sum(one.size for one in files), plain(url))
            for one in files:
                left -= _fetch(remote, one.name, staging / name, left)
            if files[0].name == "" and (others := beside(staging / name)):
                folder = Remote(posixpath.dirname(url))
                for other in others:
                    left -= _fetch(folder, other, staging, left)

        digest = self._copied(fill)
        self._remember(url, Copy(mark, digest, name))
        log.info("fetched %s", plain(url))
        return self.folder / digest / name

    def copy_of(self, path: Path, files: Iterable[Path]) -> Path:
        """The copy of an artifact on this machine, which is made of these files. ArtifactError."""
        files = tuple(files)
        inside = path.parent.resolve()

        def fill(staging: Path) -> None:
            self._room(sum(file.stat().st_size for file in files), str(path))
            for file in files:
                to = staging / file.resolve().relative_to(inside) if file != path else staging / path.name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, to)

        return self.folder / self._copied(fill) / path.name

    def sweep(self, needed: Collection[Path], now_s: float) -> int:
        """Remove the copies that none of these artifacts lies in, and that nobody has used lately; how many."""
        names = {path.relative_to(self.folder).parts[0] for path in needed if path.is_relative_to(self.folder)}
        removed = 0
        for one in self.folder.iterdir() if self.folder.is_dir() else ():
            if one.is_dir() and one.name not in names and now_s - one.stat().st_mtime > _YOUNG_S:
                shutil.rmtree(one, ignore_errors=True)
                removed += 1
        return removed

    def _copied(self, fill: Callable[[Path], None]) -> str:
        """Have `fill` write a copy; its digest. One that is there already is left as it is, if it is what it should be."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(dir=self.folder, prefix=_STAGING))
            try:
                fill(staging)
                digest = _digest(staging)
                there = self.folder / digest
                if there.is_dir() and _digest(there) != digest:
                    shutil.rmtree(there)
                if not there.is_dir():
                    _sync(staging)
                    _move(staging, there)
                    _sync_folder(self.folder)
                os.utime(there)
                return digest
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise ArtifactError(f"no copy can be kept in {self.folder}: {error.strerror or error}") from None

    def _there(self, copy: Copy) -> Path | None:
        """Where a copy is, if it is what was fetched."""
        folder = self.folder / copy.digest
        if not folder.is_dir() or _digest(folder) != copy.digest:
            return None
        os.utime(folder)
        return folder / copy.name

    def _room(self, wanted: int, what: str) -> int:
        """How many bytes a copy may have. ArtifactError, if it is known to have more."""
        if wanted > self._most:
            raise ArtifactError(
                f"{what} takes {wanted / _MIB:.0f} MiB, more than server.fetch_mb", "raise it, or fetch less"
            )
        free = shutil.disk_usage(self.folder).free - _LEFT_MIB * _MIB
        if wanted > free:
            raise ArtifactError(
                f"{what} takes {wanted / _MIB:.0f} MiB, and the disk of {self.folder} has no room for it"
            )
        return min(self._most, free)

    def _index(self) -> dict[str, Copy]:
        try:
            return msgspec.json.decode((self.folder / "index.json").read_bytes(), type=dict[str, Copy])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):  # then everything is fetched again
            return {}

    def _remember(self, url: str, copy: Copy) -> None:
        known = {one: kept for one, kept in self._index().items() if (self.folder / kept.digest).is_dir()}
        handle, fresh = tempfile.mkstemp(dir=self.folder, prefix=_STAGING)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode({**known, url: copy}))
        Path(fresh).replace(self.folder / "index.json")


def _move(staging: Path, there: Path) -> None:
    try:
        staging.rename(there)
    except OSError:
        if not there.is_dir():  # or somebody else was as quick, with the same
            raise


def _fetch(remote: Remote, name: str, root: Path, most: int) -> int:
    to = root / name if name else root
    to.parent.mkdir(parents=True, exist_ok=True)
    return remote.fetch(name, to, most)


def _mark_of(files: Collection[Lying]) -> str:
    """What tells whether anything was replaced; "" where nobody can tell."""
    if not all(one.mark for one in files):
        return ""
    return hashlib.sha256(msgspec.json.encode([(one.name, one.mark) for one in files])).hexdigest()


def _digest(folder: Path) -> str:
    """Over the names and the bytes of all files; what Python leaves behind doesn't count."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            total.update(f"{file.relative_to(folder)}\0".encode() + file_digest(file))
    return total.hexdigest()


def _sync(folder: Path) -> None:
    for one in folder.rglob("*"):
        if one.is_dir():
            _sync_folder(one)
        else:
            one.chmod(0o600)
            with one.open("rb") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""What a skops file says of itself. It is opened in a process of its own, which takes a second or two.

A pickle is never opened: it runs what its maker put in it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec

from servery.runtimes.artifact import Artifact, ArtifactError, digest_of
from servery.terms.tensors import Signature

PLATFORM = "sklearn"
MISSING = "the runtime `sklearn` needs scikit-learn and skops, which are not installed"
INSTALL = "pip install 'servery[sklearn]'"

_PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".sav"})
# How pickles begin since protocol 2, alone or compressed as joblib does it: zlib, gzip, bzip2, xz, lzma.
_PICKLE_HEADS = (b"\x80", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00")
_LIMIT_S = 60.0
_CHILD = "from servery.runtimes.sklearn import describe; describe()"


class Asked(msgspec.Struct, frozen=True):
    """What the process that opens the file is asked."""

    path: str
    trusted: tuple[str, ...]
    declared: Signature  # empty sides: to be derived


class Found(msgspec.Struct, frozen=True):
    """What it answers: the signature, or the `problem`."""

    signature: Signature = Signature((), ())
    problem: str = ""
    fix: str = ""
    key: str = ""


def read_skops(path: Path, trusted: tuple[str, ...], declared: Signature, extra: bytes) -> Artifact:
    """The estimator in the skops file at `path`; what of its signature is not declared is derived. ArtifactError."""
    _check_form(path)
    if importlib.util.find_spec("skops") is None or importlib.util.find_spec("sklearn") is None:
        raise ArtifactError(MISSING, INSTALL, "runtime")
    digest = digest_of((path,), extra)
    found = _open(Asked(str(path), trusted, declared))
    if found.problem:
        raise ArtifactError(found.problem, found.fix, found.key)
    if digest_of((path,), extra) != digest:
        raise ArtifactError(f"{path} changed while it was read", "try again when it is at rest")
    return Artifact(found.signature, (path,), digest)


def _check_form(path: Path) -> None:
    try:
        if not path.is_file():
            raise ArtifactError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
        with path.open("rb") as file:
            head = file.read(8)
        whole = zipfile.is_zipfile(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if path.suffix.lower() in _PICKLES or (not whole and head.startswith(_PICKLE_HEADS)):
        fix = (
            f"where you trust it, convert it: `skops.io.dump(joblib.load({path.name!r}), {path.stem + '.skops'!r})`; "
            f"then write `artifact: {path.stem}.skops`"
        )
        raise ArtifactError(f"{path} is a pickle, and a pickle runs its maker's code when it is opened", fix)
    if not whole:
        raise ArtifactError(f"{path} is not a skops file, or only a part of one", "write it with `skops.io.dump`")


def _open(asked: Asked) -> Found:
    command = [sys.executable, "-P", "-W", "ignore", "-c", _CHILD]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(asked), capture_output=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Found(problem=f"{asked.path} could not be opened within {_LIMIT_S:g} s")
    try:
        return msgspec.json.decode(done.stdout.rpartition(b"\n")[2], type=Found)
    except msgspec.DecodeError:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Found(problem=f"{asked.path} ended the process that opened it: {last[:300]}")

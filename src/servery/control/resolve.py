"""Resolve: each declared Model is pinned to a Version, by what its artifact holds now."""

from __future__ import annotations

from pathlib import Path

import msgspec

from servery.control.places import Places, at
from servery.runtimes.artifact import ArtifactError, read_artifact
from servery.terms.change import Problem, Severity, Version
from servery.terms.manifest import Manifest, Model

NUMBER = "1"


class Resolved(msgspec.Struct, frozen=True):
    """A Version for every Model, in the Manifest's order; a Problem for each artifact that can't be read."""

    versions: tuple[Version, ...]
    problems: tuple[Problem, ...]


def resolve(manifest: Manifest, folder: Path, places: Places) -> Resolved:
    """Read the artifacts, whose paths are relative to `folder`. One that can't be read leaves its Model unavailable."""
    versions: list[Version] = []
    problems: list[Problem] = []
    for name, model in manifest.models.items():
        path = (folder / model.artifact).absolute()
        try:
            artifact = read_artifact(path, answers_depend_on(model))
            files = tuple(str(file) for file in artifact.files)
            pinned = Version(name, NUMBER, artifact.digest, str(path), files, artifact.signature)
        except ArtifactError as error:
            pinned = Version(name, NUMBER, "", str(path), problem=str(error))
            where = at("models", name, "artifact")
            problems.append(places.problem(where, str(error), severity=Severity.UNAVAILABLE))
        versions.append(pinned)
    return Resolved(tuple(versions), tuple(problems))


def answers_depend_on(model: Model) -> bytes:
    """What of the declaration decides what a Version answers. Threads, queues and prices don't."""
    return msgspec.json.encode({"runtime": model.runtime}, order="sorted")

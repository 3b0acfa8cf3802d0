"""Resolve: each declared Model is pinned to a Version, by what its artifact holds now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from servery.control.places import Places, at
from servery.control.versions import find, pick
from servery.runtimes.artifact import ArtifactError, read_artifact
from servery.terms.change import Problem, Served, Severity, Version
from servery.terms.manifest import Manifest, Model


class Resolved(msgspec.Struct, frozen=True):
    """What of every Model is served, in the Manifest's order; a Problem for each artifact that can't be read."""

    models: dict[str, Served]
    problems: tuple[Problem, ...]


def resolve(manifest: Manifest, folder: Path, places: Places) -> Resolved:
    """Read the artifacts, whose paths are relative to `folder`. One that can't be read leaves its Version unavailable."""
    models: dict[str, Served] = {}
    problems: list[Problem] = []
    for name, model in manifest.models.items():
        versions: list[Version] = []
        for number, path, where in _pinned(name, model, folder, places, problems):
            try:
                versions.append(read_version(name, model, number, path))
            except ArtifactError as error:
                versions.append(Version(name, str(number), "", str(path), problem=str(error)))
                problems.append(places.problem(where, str(error), severity=Severity.UNAVAILABLE))
        models[name] = Served(tuple(versions), {label: str(number) for label, number in model.labels.items()})
    return Resolved(models, tuple(problems))


def read_version(name: str, model: Model, number: int, path: Path) -> Version:
    """The Version that the artifact at `path` is now. ArtifactError."""
    artifact = read_artifact(path, answers_depend_on(model))
    files = tuple(str(file) for file in artifact.files)
    return Version(name, str(number), artifact.digest, str(path), files, artifact.signature)


def _pinned(
    name: str, model: Model, folder: Path, places: Places, problems: list[Problem]
) -> Iterator[tuple[int, Path, str]]:
    """The numbers that are served: each with its artifact, and where that is declared."""
    where = at("models", name, "artifacts" if model.artifacts else "artifact")
    found = find(model, folder)
    if found.problem:
        problems.append(places.problem(where, found.problem, severity=Severity.UNAVAILABLE))
    served = pick(found.artifacts, model.versions)
    there = ", ".join(map(str, found.artifacts))
    for index, number in enumerate(model.versions.only or ()):
        if number not in found.artifacts:
            here = at("models", name, "versions", "only", index)
            problems.append(places.problem(here, f"the model {name!r} has no version {number}", f"there is {there}"))
    served = served or tuple(found.artifacts)[-1:]  # later steps look at something all the same
    declared = [one.number for one in model.artifacts]
    for number in served:
        here = at(where, declared.index(number), "artifact") if declared else where
        yield number, found.artifacts[number], here


def answers_depend_on(model: Model) -> bytes:
    """What of the declaration decides what a Version answers. Threads, queues and prices don't."""
    return msgspec.json.encode({"runtime": model.runtime}, order="sorted")

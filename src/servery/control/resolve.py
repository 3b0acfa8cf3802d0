"""Resolve: each declared Model is pinned to a Version, by what its artifact holds now."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec

from servery.control.artifacts import Artifacts
from servery.control.content import policies_of
from servery.control.places import Places, at
from servery.control.prices import token_price
from servery.control.trained import Files, pin_trained
from servery.control.urls import plain, wrong
from servery.control.versions import artifact_in, find, pick
from servery.runtimes.artifact import Artifact, ArtifactError, digest_of, read_artifact, weights_beside
from servery.runtimes.code import PLATFORM, code_digest, read_code
from servery.runtimes.skops_file import read_skops
from servery.store.sealing import BadKeys, read_keys
from servery.terms.change import Problem, Served, Severity, Version
from servery.terms.manifest import DeclaredTensor, Manifest, Model
from servery.terms.placement import asked_at, speaks
from servery.terms.tensors import Signature, TensorSpec
from servery.terms.text import TokenPrice


class Resolved(msgspec.Struct, frozen=True):
    """What of every Model is served, in the Manifest's order; a Problem for each artifact that can't be read."""

    models: dict[str, Served]
    problems: tuple[Problem, ...]
    files: Files = Files()


def resolve(manifest: Manifest, folder: Path, places: Places, copies: Artifacts) -> Resolved:
    """Read the artifacts, whose paths are relative to `folder`. One that can't be read leaves its Version unavailable.

    What lies behind a URL is fetched into `copies`.
    """
    models: dict[str, Served] = {}
    problems: list[Problem] = []
    for name, model in manifest.models.items():
        if speaks(model):
            models[name] = Served((_spoken(name, model, places, problems),))
            continue
        versions: list[Version] = []
        for number, lies, where in _pinned(name, model, folder, places, problems, copies):
            try:
                versions.append(read_version(name, model, number, _here(model, lies, copies)))
            except ArtifactError as error:
                versions.append(Version(name, str(number), "", plain(str(lies)), problem=str(error)))
                if not (isinstance(lies, str) and wrong(lies)[0]):  # who validates says that
                    problems.append(_problem(error, at("models", name, error.key) if error.key else where, places))
        models[name] = Served(tuple(versions), {label: str(number) for label, number in model.labels.items()})
    files = pin_trained(manifest, folder, places, problems)
    problems.extend(_counters(manifest, places))
    problems.extend(_content_key(manifest, places))
    problems.extend(_certificate(manifest, folder, places))
    return Resolved(models, tuple(problems), files)


def _counters(manifest: Manifest, places: Places) -> Iterator[Problem]:
    """What is missing here for counting in a Redis. Without it nothing that is declared about limits would hold."""
    counters = manifest.counters
    if counters.redis and find_spec("redis") is None:
        message = "counting in a Redis needs redis-py, which is not installed"
        yield places.problem(at("counters", "redis"), message, "pip install 'servery[redis]'")
    secret = counters.credentials
    if counters.redis and secret is not None and not os.environ.get(secret.env):
        message = f"the environment variable {secret.env}, which holds the password of the Redis, is not set"
        yield places.problem(at("counters", "credentials", "env"), message, "set it where Servery starts")


def _certificate(manifest: Manifest, folder: Path, places: Places) -> Iterator[Problem]:
    """What keeps the admin API's door shut. Callers are served all the same."""
    tls = manifest.admin.tls if manifest.admin is not None else None
    if tls is None:
        return
    from servery.host.tls import TlsError, server_side  # noqa: PLC0415 OpenSSL, where it is needed

    try:
        server_side(folder / tls.cert, folder / tls.key, folder / tls.client_ca if tls.client_ca else None)
    except TlsError as error:
        fix = "name PEM files that belong together; the paths are relative to the manifest"
        yield places.problem(at("admin", "tls"), str(error), fix, Severity.UNAVAILABLE)


def _here(model: Model, lies: Path | str, copies: Artifacts) -> Path:
    """Where the artifact is on this machine, after it was fetched or copied if it is to be. ArtifactError."""
    if isinstance(lies, str):
        there = copies.fetched(lies, weights_beside if model.runtime == "onnx" else _nothing)
        return artifact_in(there, model) if there.is_dir() else there
    if model.keep and copies.keeps:
        return copies.copy_of(lies, read_version_artifact(model, lies).files)
    return lies


def _nothing(_: Path) -> tuple[str, ...]:
    return ()


def _content_key(manifest: Manifest, places: Places) -> Iterator[Problem]:
    """Keys of Content that are declared, needed, and not there."""
    declared = manifest.records.content_key
    if declared is None or not any(policies_of(manifest)):
        return
    try:
        read_keys(declared, Path(), os.environ)
    except BadKeys as error:
        where = at("records", "content_key", "env")
        yield places.problem(where, str(error), "set it where Servery starts; without it no Content could be kept")


def _spoken(name: str, model: Model, places: Places, problems: list[Problem]) -> Version:
    """The one Version of a language model: what we ask, and whom."""
    urls = [url for url, _ in asked_at(model)]
    asked = {"runtime": model.runtime, "endpoints": urls, "serves": model.serves or name}
    content = msgspec.json.encode({**asked, "replies": model.replies}, order="sorted")
    problem = ""
    missing = {secret for _, secret in asked_at(model) if secret and not os.environ.get(secret)}
    for secret in sorted(missing):
        problem = f"the environment variable {secret}, which holds its credentials, is not set"
        own = model.credentials is not None and model.credentials.env == secret
        where = at("models", name, "credentials", "env") if own else at("models", name, "endpoints")
        problems.append(places.problem(where, problem, "set it where Servery starts", Severity.UNAVAILABLE))
    price = TokenPrice() if model.runtime == "heuristic" else token_price(name, model)
    return Version(name, "1", hashlib.sha256(content).hexdigest(), " ".join(urls), problem=problem, price=price)


def read_version(name: str, model: Model, number: int, path: Path) -> Version:
    """The Version that the artifact at `path` is now. ArtifactError."""
    artifact = read_version_artifact(model, path)
    files = tuple(str(file) for file in artifact.files)
    known = artifact.signature.outputs and (artifact.signature.inputs or model.runtime == "onnx")
    signature = artifact.signature if known else None
    unsaid = "" if signature else "its inputs or its outputs are not declared"
    return Version(name, str(number), artifact.digest, str(path), files, signature, unsaid, _size(artifact.files))


def _size(files: Iterable[Path]) -> int:
    try:
        return sum(file.stat().st_size for file in files)
    except OSError as error:
        raise ArtifactError(f"{error.filename} can't be read: {error.strerror}") from None


def _pinned(
    name: str, model: Model, folder: Path, places: Places, problems: list[Problem], copies: Artifacts
) -> Iterator[tuple[int, Path | str, str]]:
    """The numbers that are served: each with its artifact, and where that is declared."""
    where = at("models", name, "artifacts" if model.artifacts else "artifact")
    found = find(model, folder, copies.numbers)
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


def read_version_artifact(model: Model, path: Path) -> Artifact:
    """What the artifact at `path` is as a Version of `model`, read without running it. ArtifactError."""
    extra = answers_depend_on(model)
    declared = Signature(_specs(model.inputs), _specs(model.outputs), PLATFORM)
    match model.runtime:
        case "onnx":
            return read_artifact(path, extra)
        case "python":
            return read_code(path, model.entry, declared, extra)
        case "sklearn":
            return read_skops(path, model.trusted, declared, extra)
        case "openai" | "anthropic" | "heuristic":
            raise ArtifactError("a language model has no artifact")


def digest_now(model: Model, version: Version) -> str:
    """The digest of what is on the disk now: another one than the Version's where that was changed. ArtifactError."""
    extra = answers_depend_on(model)
    if model.runtime == "python":
        return code_digest(Path(version.artifact), extra)
    return digest_of(map(Path, version.files), extra)


def answers_depend_on(model: Model) -> bytes:
    """What of the declaration decides what a Version answers. Threads, queues and prices don't."""
    device = "" if model.device == "cpu" else "cuda"  # whose last digits are others
    decides = {"class": model.entry, "inputs": model.inputs, "outputs": model.outputs, "device": device}
    written = {key: value for key, value in decides.items() if value}
    return msgspec.json.encode({"runtime": model.runtime, **written}, order="sorted")


def _specs(tensors: tuple[DeclaredTensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)


def _problem(error: ArtifactError, where: str, places: Places) -> Problem:
    """Where the mistake is: in the artifact's own text, or in the manifest that names it."""
    if error.line:
        return Problem(error.file, error.line, error.column, where, str(error), error.fix, Severity.UNAVAILABLE)
    return places.problem(where, str(error), error.fix, Severity.UNAVAILABLE)

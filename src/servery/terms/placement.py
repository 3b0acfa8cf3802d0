"""In process or in a Replica? Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from servery.terms.change import Served, Snapshot, Standing, Version
from servery.terms.manifest import Model

# Runtimes that ask a language model at an endpoint.
RENTED = ("openai", "anthropic")
# Forms of a prompt that a model takes only where it is declared.
OFFERED = ("responses", "moderations")
_NEVER = {
    "anthropic": {"logprobs", "completions", "embeddings"},
    "heuristic": {"embeddings"},
}
# All that a prompt may need, and a model lack.
NEEDS = ("tools", "images", "json_schema", "logprobs", "completions", "embeddings", *OFFERED)


class Placement(enum.Enum):
    """Where a Version runs: in every worker, or in processes of its own that all workers call."""

    IN_PROCESS = "in process"
    REPLICAS = "replicas"
    ELSEWHERE = "elsewhere"  # a language model's endpoint


def speaks(model: Model) -> bool:
    """Whether it answers in text, and is asked in text."""
    return model.runtime in (*RENTED, "heuristic")


def lacking(model: Model) -> frozenset[str]:
    """What a language model can't do of what a prompt may need."""
    lacks = {*model.lacks, *(form for form in OFFERED if form not in model.offers)}
    return frozenset(lacks | _NEVER.get(model.runtime, set[str]()))


def asked_at(model: Model) -> list[tuple[str, str]]:
    """The endpoints of a language model, each with the environment variable that holds its secret ("": none)."""
    own = model.credentials.env if model.credentials is not None else ""
    if not model.endpoints:
        return [(model.endpoint, own)] if model.endpoint else []
    return [(one.url, one.credentials.env if one.credentials is not None else own) for one in model.endpoints]


def declared_apart(model: Model) -> bool:
    """Whether its Versions run in Replicas, whatever is measured."""
    return (
        model.isolation == "dedicated"
        or model.replicas is not None
        or model.runtime in ("python", "sklearn")
        or model.device != "cpu"
    )


def placement_of(model: Model, served: Served, number: str) -> Placement:
    """Replicas where the declaration asks for them, for whatever may run a user's code, on a GPU, and by measurement."""
    if speaks(model):
        return Placement.ELSEWHERE
    if declared_apart(model) or number in served.apart:
        return Placement.REPLICAS
    return Placement.IN_PROCESS


def replicas_of(model: Model, served: Served, number: str) -> int:
    """How many copies of a Version run in processes of their own."""
    return served.copies or model.replicas or 1 if placement_of(model, served, number) is Placement.REPLICAS else 0


def place(snapshot: Snapshot, took_ns: Mapping[str, float]) -> Snapshot:
    """`snapshot` with every Version apart that a worker must not run: too slow by `took_ns` (by `timed`), too large in all
    workers, or being rolled out, with the one that it is compared with.
    """
    manifest, replace = snapshot.manifest, msgspec.structs.replace
    models = {
        name: _all_apart(served)
        if name in snapshot.candidates
        else replace(served, apart=tuple(_apart(snapshot, manifest.models[name], served, took_ns)))
        for name, served in snapshot.models.items()
    }
    candidates = {name: replace(one, served=_all_apart(one.served)) for name, one in snapshot.candidates.items()}
    return replace(snapshot, models=models, candidates=candidates)


def _all_apart(served: Served) -> Served:
    """What is compared runs in the same way, and on nobody else's event loop."""
    return msgspec.structs.replace(served, apart=tuple(version.number for version in served.versions))


def placed(snapshot: Snapshot, name: str) -> int:
    """How many copies of a Model run while it is loaded, over all its Versions; none of a language model."""
    model, served = snapshot.manifest.models[name], snapshot.models[name]
    if speaks(model):
        return 0
    return sum(replicas_of(model, served, version.number) or snapshot.workers for version in served.versions)


def copies_bytes(snapshot: Snapshot, name: str) -> int:
    """What a Model's artifacts take, over all its Versions and copies."""
    model, served = snapshot.manifest.models[name], snapshot.models[name]
    return sum(
        version.size * (replicas_of(model, served, version.number) or snapshot.workers) for version in served.versions
    )


def fit(snapshot: Snapshot, last_ns: Mapping[str, int], keep: str = "") -> Snapshot:
    """`snapshot` with Models asleep until the others fit into server.loaded_mb: the least recently used ones first
    (`last_ns`, by Model), of those never used the last declared ones, and never `keep`.
    """
    most = snapshot.manifest.server.loaded_mb
    loaded = [name for name, served in snapshot.models.items() if served.standing is Standing.LOADED]
    taken = {name: copies_bytes(snapshot, name) for name in loaded}
    models, total = dict(snapshot.models), sum(taken.values())
    for name in sorted(loaded, key=lambda name: (last_ns.get(name, 0), -loaded.index(name))):
        if most is None or total <= most << 20:
            break
        if name != keep and taken[name]:
            models[name] = msgspec.structs.replace(models[name], standing=Standing.ASLEEP)
            total -= taken[name]
    return msgspec.structs.replace(snapshot, models=models)


def making_room(old: Snapshot, new: Snapshot) -> Snapshot | None:
    """`old` with those asleep that sleep in `new`, as the Snapshot between the two; None where there are none."""
    asleep = {
        name: msgspec.structs.replace(served, standing=Standing.ASLEEP)
        for name, served in old.models.items()
        if served.standing is Standing.LOADED and name in new.models
        and new.models[name].standing is Standing.ASLEEP
    }  # fmt: skip
    return msgspec.structs.replace(old, epoch=old.epoch + 1, models={**old.models, **asleep}) if asleep else None


def timed(model: Model, version: Version) -> str:
    """What a measured time holds for: these bytes, with so many threads."""
    return f"{version.digest}/{model.threads}"


def _apart(snapshot: Snapshot, model: Model, served: Served, took_ns: Mapping[str, float]) -> list[str]:
    manifest = snapshot.manifest
    most_ns, share = manifest.server.in_process_ms * 1e6, manifest.server.in_process_mb * 2**20 / snapshot.workers
    return [
        version.number
        for version in served.versions
        if not declared_apart(model) and (took_ns.get(timed(model, version), 0.0) > most_ns or version.size > share)
    ]

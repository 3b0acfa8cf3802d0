"""What callers notice of a Model that is added, replaced, changed or removed. Pure; in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from servery.control.sums import limits
from servery.terms.change import Served, Snapshot, Standing, Version
from servery.terms.manifest import Manifest
from servery.terms.tensors import TensorSpec


def of_model(name: str, before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Which names appear or go, who is answered by another Version, which calls no longer fit."""
    old, new = before.models.get(name), after.models.get(name)
    was, will = callable_by_name(before.manifest, name), callable_by_name(after.manifest, name)
    if will and not was:
        yield f"the name `{name}` appears"
    elif was and not will:
        yield f"calls of `{name}` are refused (404)"
    yield from _answered(name, before, after, was and will)
    if old is None or new is None:
        return
    if old.standing is Standing.UNLOADED:
        yield "it is loaded, and answers again"
    gone = [version.number for version in old.versions if new.named(version.number) is None]
    if gone and was and will:
        yield f"calls of its version {', '.join(gone)} are refused (404)"
    yield from _forms(old, new)
    yield from limits(before.manifest.models[name].limits, after.manifest.models[name].limits)
    for version in new.versions:
        earlier = old.named(version.number)
        if version.problem and (earlier is None or not earlier.problem):
            yield f"version {version.number} can't answer: {version.problem}"


def callable_by_name(manifest: Manifest, name: str) -> bool:
    """Whether callers may use the Model's own name."""
    model = manifest.models.get(name)
    return model is not None and (model.expose or not manifest.tenants)


def _answered(name: str, before: Snapshot, after: Snapshot, by_name: bool) -> Iterator[str]:
    """Who is answered by another Version of the Model than until now."""
    asked: list[tuple[str, str | None]] = [(f"calls of `{name}`", None)] if by_name else []
    for route, declared in after.manifest.routes.items():
        earlier = before.manifest.routes.get(route)
        there = {tier.name: tier.model for tier in earlier.tiers} if earlier is not None else {}
        same = [tier for tier in declared.tiers if tier.model == name == there.get(tier.name)]
        asked += [(f"route `{route}`, tier {tier.name}", tier.version) for tier in same]
    for who, named in asked:
        old, new = _named(before.models.get(name), named), _named(after.models.get(name), named)
        if old is not None and new is not None and old.digest != new.digest:
            yield f"{who}: version {_said(new)} answers instead of {_said(old)}"


def _named(served: Served | None, name: str | None) -> Version | None:
    return None if served is None else served.named(name)


def _said(version: Version) -> str:
    return f"{version.number} ({version.name or 'unavailable'})"


def _forms(old: Served, new: Served) -> Iterator[str]:
    """How the form of a call and of its answer differ."""
    before, after = old.latest.signature, new.latest.signature
    if before is not None and after is not None:
        yield from _sides("a call", before.inputs, after.inputs)
        yield from _sides("an answer", before.outputs, after.outputs)


def _sides(what: str, before: Iterable[TensorSpec], after: Iterable[TensorSpec]) -> Iterator[str]:
    old, new = {spec.name: spec for spec in before}, {spec.name: spec for spec in after}
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            yield f"{what} has no {name!r} any more"
        elif old.get(name) != new[name]:
            yield f"{what} has {name!r} as {_form(new[name])}" + (f", not {_form(old[name])}" if name in old else "")


def _form(spec: TensorSpec) -> str:
    return f"{spec.datatype} [{', '.join(map(str, spec.shape))}]"

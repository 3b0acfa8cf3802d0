"""Plan: from what is served to what is declared, as ordered steps. Pure: what is served and declared comes as values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from servery.control import effects, sums
from servery.control.differences import differences
from servery.control.places import Places, at
from servery.control.restart import needs_restart
from servery.terms.change import Snapshot, Standing, same
from servery.terms.history import Held
from servery.terms.manifest import Manifest
from servery.terms.plan import Act, Apart, Difference, Plan, Step
from servery.terms.rollouts import RolloutPolicy, reach

_TOLD = 4  # differences of a step that its line has room for
# What is loaded comes first, what goes comes last; all of it is put into effect at one stroke.
_ORDER = (Act.RESTART, Act.ADD, Act.LOAD, Act.REPLACE, Act.CHANGE, Act.REMOVE)


def plan(served: Snapshot | None, wanted: Snapshot, held: Sequence[Held] = (), revision: int = 0) -> Plan:
    """What it takes to serve `wanted` where `served` is (None: nothing). `held` are all Versions that are held."""
    now = served or Snapshot(0, Manifest(1), "", {}, wanted.workers)
    coming = [
        name for name, one in now.candidates.items() if name in wanted.models and same(one.served, wanted.models[name])
    ]
    before = now.promoted(coming)  # what is being rolled out already is no step
    steps = sorted(_steps(before, wanted, served is not None), key=lambda step: _ORDER.index(step.act))
    declared = {(version.model, version.digest) for one in wanted.models.values() for version in one.versions}
    found = Plan(
        "",
        before.epoch,
        revision,
        before.manifest_digest,
        wanted.manifest_digest,
        tuple(steps),
        tuple(one for one in held if (one.model, one.digest) in declared),
        tuple(_apart(now)),
        (_usd_per_hour(before), _usd_per_hour(wanted)),
    )
    return msgspec.structs.replace(found, mark=_mark(found, wanted))


def _mark(found: Plan, wanted: Snapshot) -> str:
    """What tells this Plan from every other. Where a Version runs isn't a part of it: that is measured meanwhile."""
    models = {name: msgspec.structs.replace(one, apart=()) for name, one in wanted.models.items()}
    content = msgspec.json.encode((found, msgspec.structs.replace(wanted, models=models)), order="sorted")
    return hashlib.sha256(content).hexdigest()[:32]


def _steps(before: Snapshot, after: Snapshot, runs: bool) -> Iterator[Step]:
    old, new = before.manifest, after.manifest
    if runs:
        yield from _restarts(old, new)
    yield from _models(before, after)
    for part, steps in (("routes", effects.of_route), ("tenants", effects.of_tenant)):
        olds, news = getattr(old, part), getattr(new, part)
        for name in dict.fromkeys((*olds, *news)):
            where = at(part, name)
            found = tuple(differences(where, olds.get(name), news.get(name)))
            if part == "routes":
                found += tuple(_trained(where, name, before, after))
            if found:
                act = Act.ADD if name not in olds else Act.REMOVE if name not in news else Act.CHANGE
                callers, money = steps(name, before, after)
                yield Step(act, where, found, callers, money)
    yield from _others(old, new, runs)


def _models(before: Snapshot, after: Snapshot) -> Iterator[Step]:
    old, new = before.manifest.models, after.manifest.models
    for name in dict.fromkeys((*old, *new)):
        where = at("models", name)
        found = tuple(differences(where, old.get(name), new.get(name)))
        versions = tuple(_versions(where, before, after, name))
        if name not in old:
            act = Act.ADD
        elif name not in new:
            act = Act.REMOVE
        elif versions:
            act = Act.REPLACE
        elif before.models[name].standing is Standing.UNLOADED:
            act = Act.LOAD
        elif found:
            act = Act.CHANGE
        else:
            continue
        callers, money = effects.of_model(name, before, after)
        yield Step(act, where, (*found, *versions), callers, money, _how(name, before, after))
    for name, candidate in before.candidates.items():  # none of those that go on
        if name in new and same(before.models[name], after.models[name]):
            where = at("models", name)
            ends = Difference(f"{where} rollout to version", candidate.served.latest.name, "")
            yield Step(
                Act.CHANGE, where, (ends,), (f"all are answered by version {before.models[name].latest.name} again",)
            )


def _how(name: str, before: Snapshot, after: Snapshot) -> str:
    """How other Versions come."""
    policy = after.manifest.models[name].rollout if name in after.manifest.models else RolloutPolicy()
    if policy.kind == "at-once" or name not in before.models:
        return "at once"
    if policy.kind == "blue-green":
        checks = f", {len(policy.checks)} checks" if policy.checks else ""
        return (
            f"blue-green: beside the old one{checks}, then to all in one swap, and back in one for {policy.bake_s:g} s"
        )
    if policy.kind == "rolling":
        return f"rolling: in the place of one Replica after the other, of {after.manifest.models[name].replicas or 1}"
    if policy.kind == "shadow":
        end = "and then all" if policy.when_passed == "promote" else "and promoted by hand"
        return f"shadow: asked beside the old one for {policy.share:.3g} of the units, {end}"
    return f"{policy.kind}: {', '.join(f'{step.share:.3g}' for step in policy.steps)} of the units, and then all"


def _versions(where: str, before: Snapshot, after: Snapshot, name: str) -> Iterator[Difference]:
    """The Versions that another one takes the place of, by their numbers."""
    old, new = (
        {version.number: version.name or "unavailable" for version in one.models[name].versions}
        if name in one.models
        else {}
        for one in (before, after)
    )
    for number in dict.fromkeys((*old, *new)):
        if old.get(number) != new.get(number):
            yield Difference(f"{where} version {number}", old.get(number, ""), new.get(number, ""))


def _trained(where: str, name: str, before: Snapshot, after: Snapshot) -> Iterator[Difference]:
    """The trained files of a Route whose content is another one."""
    old, new = (dict(effects.trained(name, one)) for one in (before, after))
    for key in new:
        if key in old and old[key] != new[key]:
            yield Difference(f"{where}.{key}", old[key][:12], new[key][:12])


def _restarts(old: Manifest, new: Manifest) -> Iterator[Step]:
    found = {one.where: one for one in differences("", old, new)}
    for problem in needs_restart(old, new, Places("")):
        where = problem.where
        yield Step(Act.RESTART, where, (found[where],) if where in found else (), (effects.RESTART,))


def _others(old: Manifest, new: Manifest, runs: bool) -> Iterator[Step]:
    """All that is neither a model nor a route nor a tenant."""
    restarts = {problem.where for problem in needs_restart(old, new, Places(""))} if runs else set[str]()
    found: dict[str, list[Difference]] = {}
    for one in differences("", old, new):
        part = one.where.partition(".")[0].partition("[")[0]
        if part not in ("models", "routes", "tenants") and one.where not in restarts:
            found.setdefault(part, []).append(one)
    for part, those in found.items():
        yield Step(Act.CHANGE, part, tuple(those), effects.of_part(part))


def _apart(served: Snapshot) -> Iterator[Apart]:
    """Where what is served isn't what its own manifest declares."""
    for name, one in served.candidates.items():
        said = (
            f"version {one.served.latest.name} is being rolled out, to {reach(one.model.rollout.kind, one.share)} now"
        )
        yield Apart(at("models", name), said)
    for name, one in served.models.items():
        if one.standing is Standing.UNLOADED:
            yield Apart(at("models", name), "it is declared, but was unloaded by hand: `apply` loads it again")
        for version in one.versions:
            if version.problem:
                yield Apart(at("models", name), f"version {version.number} is unavailable: {version.problem}")


def _usd_per_hour(snapshot: Snapshot) -> float:
    return sum(sums.usd_per_hour(snapshot, name) for name in snapshot.models)


def summary(found: Plan) -> tuple[str, ...]:
    """A line for each step."""
    return tuple(_line(step) for step in found.steps)


def _line(step: Step) -> str:
    if step.act in (Act.ADD, Act.REMOVE) or not step.differences:
        return f"{step.act.value} {step.where}"
    told = [
        f"{one.where.removeprefix(step.where).lstrip('. ')} {one.before or '–'} → {one.after or '–'}"
        for one in step.differences
    ]
    more = f", and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return f"{step.act.value} {step.where}: {'; '.join(told[:_TOLD])}{more}"

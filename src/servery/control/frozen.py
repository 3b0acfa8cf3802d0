"""What must stay as it is while an Experiment runs: its design, the Route, and the Models that its arms ask. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from servery.control.places import Places, at
from servery.terms.change import Problem, Snapshot, same
from servery.terms.experiments import Design, Experiment, route_of
from servery.terms.manifest import Manifest


def models_of(design: Design, manifest: Manifest) -> tuple[str, ...]:
    """The Models that the arms of an Experiment ask."""
    route = manifest.routes[design.route]
    return tuple(dict.fromkeys(tier.model for arm in design.arms for tier in route_of(route, arm).tiers))


def frozen(serving: Snapshot, wanted: Snapshot, places: Places) -> Iterator[Problem]:
    """A Problem for everything that can't be put into effect because of what runs."""
    for experiment in serving.experiments.values():
        yield from _changed(experiment, serving, wanted, places)


def _changed(experiment: Experiment, serving: Snapshot, wanted: Snapshot, places: Places) -> Iterator[Problem]:
    name, design = experiment.name, experiment.design
    fix = f"put it back, or end the experiment first: servery experiment stop {name}"
    if wanted.manifest.experiments.get(name) != design:
        message = "this experiment runs, and what it is can't change meanwhile"
        yield places.problem(at("experiments", name), message, fix)
    where = at("routes", design.route)
    trained = [(one.routers.get(design.route), one.verifiers) for one in (serving, wanted)]
    if wanted.manifest.routes.get(design.route) != serving.manifest.routes[design.route] or trained[0] != trained[1]:
        message = f"the experiment '{name}' runs on this route, which can't change meanwhile"
        yield places.problem(where, message, fix)
    for model in models_of(design, serving.manifest):
        if model not in wanted.models or wanted.manifest.models[model] != serving.manifest.models[model]:
            message = f"arms of the experiment '{name}' ask this model, whose declaration can't change meanwhile"
        elif not same(serving.models[model], wanted.models[model]):
            message = f"arms of the experiment '{name}' ask this model, whose version can't change meanwhile"
        else:
            continue
        yield places.problem(at("models", model), message, fix)


def carried(old: Snapshot, wanted: Snapshot) -> tuple[Snapshot, tuple[str, ...]]:
    """`wanted` with the Experiments that go on over a new start, and why the others can't."""
    going, ended = dict(old.experiments), list[str]()
    for name, experiment in old.experiments.items():
        found = next(_changed(experiment, old, wanted, Places("")), None)
        if found is not None:
            del going[name]
            ended.append(f"the experiment '{name}' has ended: {found.where}: {found.message}")
    return msgspec.structs.replace(wanted, experiments=going), tuple(ended)


def why_frozen(model: str, serving: Snapshot) -> str:
    """Why another Version of a Model can't be served now; "" where it can."""
    for name, experiment in serving.experiments.items():
        if model in models_of(experiment.design, serving.manifest):
            return f"arms of the experiment '{name}' ask '{model}': end it first, with servery experiment stop {name}"
    return ""

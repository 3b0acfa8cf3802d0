"""Validate: does what is declared hold together? All problems at once; pure, given the Versions that were read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

from servery.control.content import check_content
from servery.control.designs import check_design
from servery.control.doors import check_admin
from servery.control.drift import check_drift
from servery.control.fits import check_model, check_tiers
from servery.control.guards import check_rollout
from servery.control.kinds import check_checks, check_outputs, check_way
from servery.control.language import check_language_model, check_language_route, known_prices
from servery.control.limits import check_limits
from servery.control.needs import check_needs
from servery.control.paces import check_pacing
from servery.control.places import Places, at, did_you_mean
from servery.control.policies import check_policy
from servery.identity.keys import OWN_TENANT
from servery.terms.change import Problem, Served
from servery.terms.manifest import Manifest, Model
from servery.terms.placement import speaks
from servery.terms.residency import may_flow
from servery.terms.routes import Route, Tier
from servery.terms.server import on_loopback


def validate(manifest: Manifest, models: Mapping[str, Served], places: Places) -> tuple[Problem, ...]:
    """What can't hold, each with its place and its fix.

    `manifest` may be what remains of a broken file: a part that was written but is not in it is never called missing.
    """
    problems = [*_names(manifest, places), *_tenants(manifest, places), *_room(manifest, models, places)]
    problems.extend(check_content(manifest, places))
    problems.extend(check_admin(manifest, places))
    for name, model in manifest.models.items():
        problems.extend(check_needs(name, model, places))
        problems.extend(check_rollout(name, model, places))
        known = models[name].versions if name in models else ()
        signatures = [version.signature for version in known if version.signature is not None]
        problems.extend(check_drift(name, model, signatures, places))
        problems.extend(check_checks(name, model, models.get(name), places))
        problems.extend(check_way(name, model, models.get(name), places))
        problems.extend(check_outputs(name, model, models.get(name), places))
        problems.extend(check_language_model(name, model, models.get(name), places))
        if (served := models.get(name)) is not None and not speaks(model):
            problems.extend(_versions(name, model, served, places))
            signatures = [version.signature for version in served.versions if version.signature is not None]
            found = [problem for signature in signatures for problem in check_model(name, model, signature, places)]
            problems.extend(dict.fromkeys(found))  # said once, though several Versions have it

    def check_route(route: Route, where: str) -> Iterator[Problem]:
        yield from _tiers(manifest, models, route, where, places)
        yield from check_pacing(route, where, places)
        yield from check_policy(manifest, route, where, places)
        yield from check_language_route(manifest, route, where, places)
        yield from _promises(manifest, models, route, where, places)
        yield from check_tiers(route, models, where, places)

    for name, route in manifest.routes.items():
        problems.extend(check_route(route, at("routes", name)))
        problems.extend(_residency(manifest, name, route, places))
    for name in manifest.experiments:
        problems.extend(check_design(name, manifest, models, places, check_route))
    problems.extend(check_limits(manifest, models, places))
    return tuple(problems)


def _names(manifest: Manifest, places: Places) -> Iterator[Problem]:
    """Names that callers use must be told apart and survive a URL and a header."""
    for name in manifest.routes:
        if name in manifest.models or places.wrote(at("models", name)):
            message = f"a route and a model are both called {name!r}"
            yield places.problem(
                at("routes", name), message, "give one of them another name: callers use both the same way"
            )
    for part, names in (
        ("models", manifest.models),
        ("routes", manifest.routes),
        ("tenants", manifest.tenants),
        ("experiments", manifest.experiments),
    ):
        for name in names:
            yield from _name(name, at(part, name), places)
    for name, route in manifest.routes.items():
        for index, tier in enumerate(route.tiers):
            where = at("routes", name, "tiers", index, "name")
            yield from _name(tier.name, where, places)
            if "," in tier.name or "=" in tier.name:
                yield places.problem(
                    where,
                    f"the tier name {tier.name!r} holds `,` or `=`, which separate tiers in the reply header servery-tier",
                    "use letters, digits, `-` and `_`",
                )


def _name(name: str, where: str, places: Places) -> Iterator[Problem]:
    if name != name.strip():
        yield places.problem(where, f"the name {name!r} begins or ends with a space", f"write {name.strip()!r}")
    elif any(part in ("", ".", "..") for part in name.split("/")):
        message = f"the name {name!r} can't be called: HTTP clients drop empty, `.` and `..` parts of a path"
        yield places.problem(where, message, "leave them out")


def _versions(name: str, model: Model, served: Served, places: Places) -> Iterator[Problem]:
    """Where the artifacts are, and whether labels name what is served."""
    where = at("models", name)
    if bool(model.artifact) == bool(model.artifacts):
        message = "`artifact` and `artifacts` are both there" if model.artifact else "`artifact` is missing"
        yield places.problem(where, message, "write `artifact: PATH`, or a list under `artifacts`, not both")
    first: dict[int, int] = {}
    for index, one in enumerate(model.artifacts):
        if first.setdefault(one.number, index) != index:
            here = at(where, "artifacts", index, "number")
            yield places.problem(here, f"two artifacts have the number {one.number}", "give each its own number")
    chosen = model.versions
    if (chosen.latest is not None) + (chosen.only is not None) + chosen.all > 1:
        message = "`latest`, `only` and `all` say different things about which versions are served"
        yield places.problem(at(where, "versions"), message, "write one of them")
    numbers = [version.number for version in served.versions]
    for label, number in model.labels.items():
        here = at(where, "labels", label)
        if label.isdigit():
            yield places.problem(here, f"the label {label!r} looks like a number", "use a word, such as `stable`")
        elif str(number) not in numbers:
            fix = f"point it at one of {', '.join(numbers)}, or serve {number} too with `versions: {{only: [{number}, …]}}`"
            yield places.problem(here, f"the label {label!r} points at {number}, which is not served", fix)


def _tiers(
    manifest: Manifest, models: Mapping[str, Served], route: Route, where: str, places: Places
) -> Iterator[Problem]:
    first: dict[str, int] = {}
    cascade = route.policy.kind == "cascade"
    for index, tier in enumerate(route.tiers):
        here = at(where, "tiers", index)
        if first.setdefault(tier.name, index) != index:
            message = f"two tiers are called {tier.name!r} (tiers {first[tier.name]} and {index})"
            yield places.problem(at(here, "name"), message, "give each tier of a route its own name")
        yield from _points_at(manifest, models, tier, here, places)
        speaking = tier.model in manifest.models and speaks(manifest.models[tier.model])
        if tier.accept is not None and not cascade and not (speaking and route.policy.kind == "complexity"):
            message = (
                f"`accept` does nothing under the policy `{route.policy.kind}`: the tier it picks answers every row"
            )
            yield places.problem(
                at(here, "accept"), message, "write `policy: {kind: cascade}` in the route, or remove `accept`"
            )
        if cascade and index < len(route.tiers) - 1 and not speaking:
            yield from _can_pass_on(manifest, tier, here, places)


def _points_at(
    manifest: Manifest, models: Mapping[str, Served], tier: Tier, here: str, places: Places
) -> Iterator[Problem]:
    if tier.model in manifest.models:
        served = models.get(tier.model)
        if served is not None and served.named(tier.version) is None:
            known = [*served.labels, *(version.number for version in served.versions)]
            fix = f"name one of {', '.join(known)}, or serve it: `versions` of {at('models', tier.model)}"
            message = f"the model {tier.model!r} serves no version {tier.version!r}"
            yield places.problem(at(here, "version"), message, fix)
        return
    if places.wrote(at("models", tier.model)):
        return
    guess = did_you_mean(tier.model, manifest.models)
    known = ", ".join(f"`{name}`" for name in manifest.models)
    fix = f"did you mean `{guess}`?" if guess else f"the models are {known}" if known else "declare it under `models`"
    yield places.problem(at(here, "model"), f"there is no model {tier.model!r}", fix)


def _can_pass_on(manifest: Manifest, tier: Tier, here: str, places: Places) -> Iterator[Problem]:
    """In a cascade, every tier but the last must be able to say which rows it is sure of."""
    if tier.accept is None:
        message = f"the tier {tier.name!r} of a cascade has no `accept`, so no row would reach the next tier"
        yield places.problem(here, message, "add for instance `accept: {confidence: 0.9}`")
    model = manifest.models.get(tier.model)
    if model is not None and model.confidence is None:
        message = f"the model {tier.model!r} does not say how sure it is, but a cascade goes on by that"
        fix = f"add for instance `confidence: {{output: probabilities}}` to {at('models', tier.model)}"
        yield places.problem(at(here, "model"), message, fix)


def _promises(
    manifest: Manifest, models: Mapping[str, Served], route: Route, where: str, places: Places
) -> Iterator[Problem]:
    if route.slo is not None:
        declared = (("p50_ms", route.slo.p50_ms), ("p95_ms", route.slo.p95_ms), ("p99_ms", route.slo.p99_ms))
        written = [(key, value) for key, value in declared if value is not None]
        for (low_key, low), (key, value) in pairwise(written):
            if low > value:
                message = f"{key} ({value:g}) is below {low_key} ({low:g}), which can't be"
                yield places.problem(at(where, "slo", key), message, f"write {low:g} or more")
        for key, value in written:
            if value > route.deadline_ms:
                message = f"{key} ({value:g}) is above the deadline of the route ({route.deadline_ms:g} ms)"
                yield places.problem(at(where, "slo", key), message, "promise less, or raise `deadline_ms`")
    ceiling = route.ceiling
    if ceiling is None:
        return
    priced = known_prices(models)
    unpriced = sorted(
        {
            tier.model
            for tier in route.tiers
            if (m := manifest.models.get(tier.model)) and m.price is None and tier.model not in priced
        }
    )
    if unpriced:
        message = f"a ceiling can't be measured: no price is declared for {', '.join(map(repr, unpriced))}"
        fix = f"add for instance `price: {{usd_per_hour: 0.05}}` to {at('models', unpriced[0])}"
        yield places.problem(at(where, "ceiling"), message, fix)
    mean, most = ceiling.mean_usd_per_million, ceiling.max_usd_per_inference
    if mean is not None and most is not None and most * 1e6 < mean:
        message = f"the mean ceiling ({mean:g} dollars per million) is above the most that one may cost ({most * 1e6:g} per million)"
        yield places.problem(
            at(where, "ceiling"), message, "lower `mean_usd_per_million`, or raise `max_usd_per_inference`"
        )


def _residency(manifest: Manifest, name: str, route: Route, places: Places) -> Iterator[Problem]:
    """A route that no tier of may serve some tenant, because of where the models run."""
    models = [manifest.models.get(tier.model) for tier in route.tiers]
    if not all(models):
        return
    regions = sorted({model.region or manifest.region for model in models if model is not None})
    for tenant, declared in manifest.tenants.items():
        if may_flow(declared.regions, manifest.region) and not any(
            may_flow(declared.regions, region) for region in regions
        ):
            message = (
                f"no tier may serve the tenant {tenant!r}: its data may flow to {', '.join(declared.regions)}, "
                f"and the tiers run in {', '.join(regions)}"
            )
            fix = f"add a tier in one of its regions, or a region to {at('tenants', tenant, 'regions')}"
            yield places.problem(at("routes", name), message, fix)


def _room(manifest: Manifest, models: Mapping[str, Served], places: Places) -> Iterator[Problem]:
    most = manifest.server.loaded_mb
    for name, served in models.items():
        if name not in manifest.models:
            continue
        size = sum(version.size for version in served.versions) * (manifest.models[name].replicas or 1)
        if most is not None and size > most << 20:
            message = (
                f"its artifacts take {math.ceil(size / 2**20)} MiB, and server.loaded_mb allows {most} for all models"
            )
            yield places.problem(at("models", name), message, "allow more, or serve fewer of its versions and copies")


def _tenants(manifest: Manifest, places: Places) -> Iterator[Problem]:
    hashes: dict[str, str] = {}
    for name, tenant in manifest.tenants.items():
        ids: set[str] = set()
        if name == OWN_TENANT:
            message = f"{name!r} is who asks where Servery does so itself, as for the checks of a new version"
            yield places.problem(at("tenants", name), message, "choose another name, so that each has its own bill")
        for index, key in enumerate(tenant.keys):
            where = at("tenants", name, "keys", index)
            if key.id in ids:
                message = f"two keys of the tenant {name!r} are called {key.id!r}"
                yield places.problem(at(where, "id"), message, "give each key its own id: Records name it")
            ids.add(key.id)
            if (owner := hashes.setdefault(key.sha256, where)) != where:
                message = f"this is the same key as {owner}, so its caller could not be told"
                yield places.problem(at(where, "sha256"), message, f"make another with `servery key new {name}`")
        if not may_flow(tenant.regions, manifest.region):
            message = (
                f"the data of the tenant {name!r} may flow to {', '.join(tenant.regions)}, "
                f"but its requests would pass through this Servery in {manifest.region!r}, and its Records rest there"
            )
            fix = f"write where this Servery runs, for instance `region: {tenant.regions[0]}`, or add the region here"
            yield places.problem(at("tenants", name, "regions"), message, fix)
    if not manifest.tenants and not places.wrote_in("tenants") and not on_loopback(manifest.server.host):
        message = f"{manifest.server.host!r} can be reached from other machines, and no tenants are declared"
        fix = "declare a tenant with the lines of `servery key new NAME`, or write `host: 127.0.0.1`"
        yield places.problem(at("server", "host"), message, fix)

"""Does an Experiment, as it is declared, hold together: can its arms be told apart, serve the same requests, and be compared? Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

from servery.control.guards import check_unit
from servery.control.language import known_prices
from servery.control.places import Places, at, did_you_mean
from servery.terms.change import Problem, Served
from servery.terms.experiments import BEFORE, EXCLUDED, OTHER, Arm, Design, Metric, Segments, route_of
from servery.terms.manifest import Manifest
from servery.terms.placement import NEEDS, lacking, speaks
from servery.terms.residency import may_flow
from servery.terms.routes import Route
from servery.terms.tensors import Signature

_QUANTILES = (0.5, 0.999)
_SLACK = 1e-6  # three times 0.333333 is not quite 1
_BUDGETS = ("tokens_per_minute", "usd_per_day", "usd_per_month")

RouteCheck = Callable[[Route, str], Iterator[Problem]]


def check_design(
    name: str, manifest: Manifest, models: Mapping[str, Served], places: Places, check_route: RouteCheck
) -> Iterator[Problem]:
    """What can't hold of `experiments.NAME`. `check_route` finds what is wrong with a Route, told of a place."""
    design, where = manifest.experiments[name], at("experiments", name)
    if design.unit is not None:
        yield from check_unit(design.unit, at(where, "unit"), places)
    yield from _shares(design, where, places)
    yield from _metrics(design, where, places)
    if design.segments is not None:
        yield from _segments(design.segments, at(where, "segments", "values"), places)
    if design.before_s and design.unit is None:
        message = "nobody who came before comes again where each request is a unit of its own"
        yield places.problem(at(where, "before_s"), message, "declare `unit`, or remove it")
    if design.units < design.min_units:
        message = f"{design.units} units are expected, and below {design.min_units} nothing is said"
        yield places.problem(at(where, "units"), message, f"write {design.min_units} or more, or lower `min_units`")
    route = manifest.routes.get(design.route)
    if route is None:
        if not places.wrote(at("routes", design.route)):
            guess = did_you_mean(design.route, manifest.routes)
            known = ", ".join(f"`{one}`" for one in manifest.routes) or "none"
            fix = f"did you mean `{guess}`?" if guess else f"the routes are {known}"
            yield places.problem(at(where, "route"), f"there is no route {design.route!r}", fix)
        return
    wrong = [*_arms(design, route, manifest, where, places)]
    yield from wrong
    yield from _shared(design, route, manifest, where, places)
    if wrong:
        return
    for index, arm in enumerate(design.arms[1:], 1):
        here = at(where, "arms", index)
        found = [*check_route(route_of(route, arm), here)]
        yield from found
        if not found:
            yield from _serves_the_same(route, route_of(route, arm), manifest, models, here, places)
    yield from _priced(design, route, manifest, models, where, places)


def _shares(design: Design, where: str, places: Places) -> Iterator[Problem]:
    whole = sum(arm.share for arm in design.arms)
    if abs(whole - 1) > _SLACK:
        yield places.problem(at(where, "arms"), f"the shares add up to {whole:g}, not to 1", "let them add up to 1")
    first: dict[str, int] = {}
    for index, arm in enumerate(design.arms):
        here = at(where, "arms", index, "name")
        if arm.name in (EXCLUDED, BEFORE):
            yield places.problem(here, f"`{arm.name}` means something of its own in Records", "choose another name")
        if first.setdefault(arm.name, index) != index:
            message = f"two arms are called {arm.name!r} (arms {first[arm.name]} and {index})"
            yield places.problem(here, message, "give each arm its own name")


def _metrics(design: Design, where: str, places: Places) -> Iterator[Problem]:
    metrics = [(design.primary, at(where, "primary"))]
    metrics += [(one, at(where, "guardrails", index)) for index, one in enumerate(design.guardrails)]
    first: dict[str, str] = {}
    for metric, here in metrics:
        if metric.metric == "feedback" and not metric.name:
            message = "a metric of feedback needs the `name` of the feedback"
            yield places.problem(here, message, "write such as `name: label`")
        if metric.quantile is not None:
            yield from _quantile(metric, metric.quantile, here, places)
        if metric.bounds[0] >= metric.bounds[1]:
            message = f"bounds from {metric.bounds[0]:g} to {metric.bounds[1]:g} hold nothing"
            yield places.problem(at(here, "bounds"), message, "write the smallest value first")
        if metric.metric == "errors" and metric.per == "request" and metric.margin >= 1:
            message = f"a margin of {metric.margin:g} tolerates an arm that always fails"
            yield places.problem(at(here, "margin"), message, "write a difference of shares, such as 0.01")
        if first.setdefault(metric.called, here) != here:
            yield places.problem(here, f"{first[metric.called]} is the same metric", "leave one of them out")
    for risk in ("false_winners", "false_passes"):
        if not 0 < getattr(design, risk) < 1:
            message = f"a risk of {getattr(design, risk):g} can't be kept"
            yield places.problem(at(where, risk), message, "write a chance between 0 and 1, such as 0.05")


def _segments(segments: Segments, where: str, places: Places) -> Iterator[Problem]:
    for index, value in enumerate(segments.values):
        if value == OTHER:
            message = f"`{OTHER}` are the units that say none of these"
            yield places.problem(at(where, index), message, "remove it, or have callers say something else")
        elif value in segments.values[:index]:
            yield places.problem(at(where, index), f"{value!r} is there twice", "remove one of them")


def _quantile(metric: Metric, quantile: float, here: str, places: Places) -> Iterator[Problem]:
    where = at(here, "quantile")
    if metric.metric != "latency":
        yield places.problem(where, f"`{metric.metric}` has no quantile: only `latency` has", "remove it")
    elif metric.per == "unit":
        message = "a quantile is that of all requests, and not of what a unit adds up to"
        yield places.problem(where, message, "remove `per: unit`, or `quantile`")
    if not _QUANTILES[0] <= quantile <= _QUANTILES[1]:
        message = f"a quantile of {quantile:g} can't be compared"
        yield places.problem(where, message, "write one from 0.5 to 0.999, such as 0.95")


def _arms(design: Design, route: Route, manifest: Manifest, where: str, places: Places) -> Iterator[Problem]:
    """What arms name, and whether they are different ones."""
    if design.arms[0].changes:
        message = "the first arm is the control, which is the route as it is declared"
        yield places.problem(
            at(where, "arms", 0), message, "write it with `name` and `share` alone, and this one after it"
        )
    for index, arm in enumerate(design.arms[1:], 1):
        here = at(where, "arms", index)
        yield from _names(arm, route, manifest, here, places)
        if not arm.changes or route_of(route, arm) == route:
            message = f"the arm {arm.name!r} is the same as the control, so there is nothing to learn"
            yield places.problem(here, message, "write what it does otherwise, such as `models: {cheap: other}`")
    for one, other in combinations(range(1, len(design.arms)), 2):
        if route_of(route, design.arms[one]) == route_of(route, design.arms[other]) != route:
            yield places.problem(
                at(where, "arms", other), f"the arms {one} and {other} do the same", "leave one of them out"
            )


def _names(arm: Arm, route: Route, manifest: Manifest, here: str, places: Places) -> Iterator[Problem]:
    tiers = {tier.name: tier for tier in arm.tiers or route.tiers}
    for key in ("models", "accept"):
        for tier in getattr(arm, key):
            if tier not in tiers:
                guess = did_you_mean(tier, tiers)
                known = ", ".join(f"`{one}`" for one in tiers)
                fix = f"did you mean `{guess}`?" if guess else f"the tiers are {known}"
                yield places.problem(at(here, key, tier), f"this route has no tier {tier!r}", fix)
    for tier in arm.accept:
        if tier in tiers and tiers[tier].accept is None:
            message = f"the tier {tier!r} has no `accept`: it answers every row that it gets"
            yield places.problem(at(here, "accept", tier), message, "name a tier whose rows may go on, or leave it out")
    for tier, model in arm.models.items():
        if model not in manifest.models and not places.wrote(at("models", model)):
            guess = did_you_mean(model, manifest.models)
            fix = f"did you mean `{guess}`?" if guess else "declare it under `models`"
            yield places.problem(at(here, "models", tier), f"there is no model {model!r}", fix)
    if arm.thresholds and (arm.policy or route.policy).kind != "complexity":
        message = f"`thresholds` does nothing under the policy `{(arm.policy or route.policy).kind}`"
        yield places.problem(at(here, "thresholds"), message, "write `accept`, or leave it out")
    if arm.policy is not None and arm.policy.router not in ("", route.policy.router):
        message = "an arm goes by the router of its route"
        yield places.problem(
            at(here, "policy", "router"), message, f"write `router: {route.policy.router or chr(34) * 2}`"
        )
    known = {tier.accept.verifier for tier in route.tiers if tier.accept is not None}
    for index, tier in enumerate(arm.tiers):
        if tier.accept is not None and tier.accept.verifier and tier.accept.verifier not in known:
            message = "an arm goes by the verifiers of its route"
            yield places.problem(at(here, "tiers", index, "accept", "verifier"), message, "name one of those")


def _shared(design: Design, route: Route, manifest: Manifest, where: str, places: Places) -> Iterator[Problem]:
    """What arms would have in common though they must not: what one of them does would change the others."""
    routes = [(route_of(route, arm), index) for index, arm in enumerate(design.arms)]
    paced = [index for one, index in routes if _paced(one)]
    if paced:
        message = "thresholds that follow the traffic would follow that of all arms together, so that none is what it is declared to be"
        fix = "remove `range` and `ranges` while the experiment runs: experiments on fixed thresholds only"
        yield places.problem(at(where, "arms", paced[0]), message, fix)
    names = dict.fromkeys(tier.model for one, _ in routes for tier in one.tiers)
    limits = [(route.limits, at("routes", design.route, "limits"))]
    limits += [(manifest.models[one].limits, at("models", one, "limits")) for one in names if one in manifest.models]
    for of, here in limits:
        key = next((key for key in _BUDGETS if getattr(of, key) is not None and of.mode == "enforce"), None)
        if key is not None:
            message = f"the arms of the experiment '{_last(where)}' would share this budget: what one of them spends, the others lack"
            yield places.problem(
                at(here, key), message, "write `mode: observe` while the experiment runs, or remove it"
            )


def _last(where: str) -> str:
    return where.partition(".")[2]


def _paced(route: Route) -> bool:
    return bool(route.policy.ranges) or any(tier.accept is not None and tier.accept.range for tier in route.tiers)


def _serves_the_same(
    route: Route, other: Route, manifest: Manifest, models: Mapping[str, Served], here: str, places: Places
) -> Iterator[Problem]:
    """Whether an arm takes what the control takes, gives what it gives, and may do so for the same tenants."""
    pair = [[manifest.models[tier.model] for tier in one.tiers] for one in (route, other)]
    if speaks(pair[0][0]) != speaks(pair[1][0]):
        says = ["text" if speaks(one[0]) else "tensors" for one in pair]
        yield places.problem(here, f"it answers in {says[1]}, and the route in {says[0]}", "make another route of it")
        return
    if speaks(pair[0][0]):
        first, second = ({need for need in NEEDS if all(need in lacking(model) for model in one)} for one in pair)
        for need in sorted(second - first):
            yield places.problem(
                here,
                f"no tier of this arm can do `{need}`, which the control can",
                "add a tier that can, or use another model",
            )
    for spec in _inputs(route, models):
        taken = next((one for one in _inputs(other, models) if one[0] == spec[0]), None)
        if taken != spec and _inputs(other, models):
            message = (
                f"it can't be asked what the control is asked: the input `{spec[0]}` is {spec[1]} {list(spec[2])} there"
            )
            yield places.problem(here, message, "use models that take the same inputs")
    for tenant, declared in manifest.tenants.items():
        open_ = [any(may_flow(declared.regions, model.region or manifest.region) for model in one) for one in pair]
        if open_[0] and not open_[1]:
            message = f"no tier of this arm may serve the tenant {tenant!r}, which the control may"
            yield places.problem(here, message, "add a tier in one of its regions")


def _inputs(route: Route, models: Mapping[str, Served]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Of the first tier whose signature is known: validate has seen to it that the others agree."""
    for tier in route.tiers:
        version = models[tier.model].named(tier.version) if tier.model in models else None
        signature: Signature | None = None if version is None else version.signature
        if signature is not None:
            return [(spec.name, spec.datatype, spec.shape) for spec in signature.inputs]
    return []


def _priced(
    design: Design, route: Route, manifest: Manifest, models: Mapping[str, Served], where: str, places: Places
) -> Iterator[Problem]:
    costs = [(design.primary, at(where, "primary"))]
    costs += [(one, at(where, "guardrails", index)) for index, one in enumerate(design.guardrails)]
    here = next((place for metric, place in costs if metric.metric == "cost"), None)
    if here is None:
        return
    known = known_prices(models)
    for name in dict.fromkeys(tier.model for arm in design.arms for tier in route_of(route, arm).tiers):
        if manifest.models[name].price is None and name not in known:
            fix = f"add for instance `price: {{usd_per_hour: 0.05}}` to {at('models', name)}"
            yield places.problem(here, f"costs can't be compared: no price is known for {name!r}", fix)

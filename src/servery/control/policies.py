"""Does a Route's policy hold together? What it needs, what it names, and what does nothing under its kind. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from servery.control.places import Places, at, did_you_mean
from servery.terms.change import Problem
from servery.terms.manifest import Manifest
from servery.terms.routes import Policy, Route

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # what RFC 9110 lets a header be called
# Secrets must not be written into a manifest; the others mean something to the protocols already.
_TAKEN_HEADERS = {"authorization", "x-api-key", "content-length", "content-type", "host", "te", "user-agent"}
_TAKEN_PARAMETERS = {"timeout", "binary_data_output", "binary_data", "binary_data_size"}
_BY = ("subscription", "header", "parameter")


def check_policy(manifest: Manifest, route: Route, where: str, places: Places) -> Iterator[Problem]:
    """All that is wrong with the policy of one Route."""
    policy, here = route.policy, at(where, "policy")
    if policy.kind == "static":
        yield from _by(policy, here, places)
        if policy.by == "subscription":
            yield from _subscriptions(manifest, policy, here, places)
    else:
        yield from _idle(policy, here, places)
    names = [tier.name for tier in route.tiers]
    named = [(tier, at(here, "choose", value)) for value, tier in policy.choose.items()]
    if policy.default is not None:
        named.append((policy.default, at(here, "default")))
    named += [(tier, at(here, "fallback", index)) for index, tier in enumerate(policy.fallback or ())]
    for tier, place in named:
        if tier not in names:
            guess = did_you_mean(tier, names)
            fix = f"did you mean `{guess}`?" if guess else f"the tiers are {_list(names)}"
            yield places.problem(place, f"this route has no tier {tier!r}", fix)
    seen: set[str] = set()
    for index, tier in enumerate(policy.fallback or ()):
        if tier in seen:
            message = f"the tier {tier!r} stands twice in the order of fallbacks"
            yield places.problem(at(here, "fallback", index), message, "name it once: no tier is asked twice")
        seen.add(tier)


def _by(policy: Policy, here: str, places: Places) -> Iterator[Problem]:
    """What chooses, by which name."""
    if not policy.choose and not places.wrote_in(at(here, "choose")):
        message = "a `static` policy has no `choose`, so every request would get the same tier"
        yield places.problem(here, message, "add for instance `choose: {gold: premium}`, or write `kind: fixed`")
    if policy.by is None:
        if not places.wrote(at(here, "by")):
            message = "a `static` policy doesn't say what chooses the tier"
            yield places.problem(here, message, f"add `by:` with one of {_list(_BY)}")
        return
    if policy.by == "subscription":
        if policy.name:
            message = "`name` does nothing with `by: subscription`"
            yield places.problem(at(here, "name"), message, "remove it, or write `by: header` or `by: parameter`")
        return
    if not policy.name:
        if not places.wrote(at(here, "name")):
            example = "x-quality" if policy.by == "header" else "quality"
            message = f"`by: {policy.by}` doesn't say which {policy.by}"
            yield places.problem(here, message, f"add for instance `name: {example}`")
    elif policy.by == "header":
        yield from _header(policy.name, at(here, "name"), places)
    elif policy.name in _TAKEN_PARAMETERS:
        message = f"the parameter {policy.name!r} is the protocol's own"
        yield places.problem(at(here, "name"), message, "choose another name, for instance `quality`")


def _header(name: str, where: str, places: Places) -> Iterator[Problem]:
    lower = name.lower()
    if not _TOKEN.fullmatch(name):
        message = f"{name!r} can't be the name of a header"
        yield places.problem(where, message, "use letters, digits and `-`, for instance `x-quality`")
    elif lower in _TAKEN_HEADERS or lower.startswith("grpc-"):
        message = f"the header {name!r} has a meaning of its own"
        yield places.problem(where, message, "choose another name, for instance `x-quality`")
    elif lower.endswith("-bin"):
        message = f"over gRPC, {name!r} would hold bytes and no text: its name ends in `-bin`"
        yield places.problem(where, message, f"choose another name, for instance `{name[:-4]}`")


def _subscriptions(manifest: Manifest, policy: Policy, here: str, places: Places) -> Iterator[Problem]:
    """A subscription that nobody has is most likely a slip."""
    if places.wrote_in("tenants") and not manifest.tenants:
        return  # they are broken, and it isn't known what they say
    known = dict.fromkeys([tenant.subscription for tenant in manifest.tenants.values()] or ["standard"])
    known |= dict.fromkeys(manifest.subscriptions)
    for value in policy.choose:
        if value not in known and not places.wrote(at("subscriptions", value)):
            guess = did_you_mean(value, known)
            fix = f"did you mean `{guess}`?" if guess else f"the subscriptions are {_list(known)}"
            message = f"no tenant has the subscription {value!r}, and `subscriptions` doesn't declare it"
            yield places.problem(at(here, "choose", value), message, fix)


def _idle(policy: Policy, here: str, places: Places) -> Iterator[Problem]:
    """What is for `static` only."""
    written = {"by": policy.by, "name": policy.name, "choose": policy.choose, "default": policy.default}
    for key, value in written.items():
        if value:
            message = f"`{key}` does nothing under the policy `{policy.kind}`"
            yield places.problem(at(here, key), message, "write `kind: static`, or remove it")


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

"""What a step of a Plan means for callers and for money, in sentences. Pure.

Whoever reads them decides whether to go on: they say what is refused, who answers, what is promised and what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator

from servery.control import model_effects, sums
from servery.control.differences import shown
from servery.terms.change import Snapshot
from servery.terms.manifest import Key, Manifest, Tenant
from servery.terms.routes import Route, Tier

RESTART = "only a new start of Servery does this; `apply` refuses it"

Told = tuple[tuple[str, ...], tuple[str, ...]]  # for callers, for money

_PARTS = {
    "region": "requests pass, and Records rest, in another region",
    "subscriptions": "where calls wait, those of some tenants run before or after others than until now",
    "records": "Records are kept in another way",
    "admin": "other people may look at this Servery or change it, or by another door; a key that goes is refused at once",
    "experiments": "nothing, until `servery experiment start` says so",
}


def of_model(name: str, before: Snapshot, after: Snapshot) -> Told:
    """A Model that is added, replaced, changed or removed."""
    return tuple(model_effects.of_model(name, before, after)), tuple(sums.of_model(name, before, after))


def of_route(name: str, before: Snapshot, after: Snapshot) -> Told:
    """A Route that is added, changed or removed."""
    old, new = before.manifest.routes.get(name), after.manifest.routes.get(name)
    if old is None or new is None:
        callers = [f"the name `{name}` appears" if old is None else f"calls of `{name}` are refused (404)"]
    else:
        callers = [*_tiers(old, new), *_promises(old, new), *sums.limits(old.limits, new.limits)]
        files = dict(trained(name, before))
        if any(key in files and files[key] != digest for key, digest in trained(name, after)):
            callers.append("a file that was trained anew decides which tier answers")
    ceilings = sums.ceilings(*(None if one is None else one.ceiling for one in (old, new)))
    budgets = sums.budgets(*(None if one is None else one.limits for one in (old, new)))
    return tuple(callers), (*ceilings, *budgets)


def of_tenant(name: str, before: Snapshot, after: Snapshot) -> Told:
    """A tenant that is added, changed or removed."""
    old, new = before.manifest.tenants.get(name), after.manifest.tenants.get(name)
    callers = [*_doors(name, before.manifest, after.manifest), *_keys(old, new)]
    if old is not None and new is not None:
        callers += [*sums.limits(old.limits, new.limits), *_tenant(old, new)]
    money = sums.budgets(*(None if one is None else one.limits for one in (old, new)))
    before_keys, after_keys = _keys_of(old), _keys_of(new)
    for key in dict.fromkeys((*before_keys, *after_keys)):
        both = (keys[key].limits if key in keys else None for keys in (before_keys, after_keys))
        money += [f"key {key}: {line}" for line in sums.budgets(*both)]
    return tuple(callers), tuple(money)


def trained(name: str, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """The digests of the trained files that a Route goes by, by where they are declared."""
    route = snapshot.manifest.routes.get(name)
    if name in snapshot.routers:
        yield "policy.router", snapshot.routers[name].digest
    for tier in route.tiers if route is not None else ():
        if tier.accept is not None and tier.accept.verifier in snapshot.verifiers:
            yield f"tiers.{tier.name}.accept.verifier", snapshot.verifiers[tier.accept.verifier].digest


def of_part(part: str) -> tuple[str, ...]:
    """Any other part of the manifest: sentences for callers."""
    return (_PARTS[part],) if part in _PARTS else ()


def _tiers(old: Route, new: Route) -> Iterator[str]:
    before, after = {tier.name: tier for tier in old.tiers}, {tier.name: tier for tier in new.tiers}
    for name in dict.fromkeys((*before, *after)):
        if name in before and name in after:
            yield from _tier(before[name], after[name])
        else:
            yield f"tier {name} {'may answer' if name in after else 'answers no more'}"
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield f"tiers are asked in another order: {', '.join(after)}"
    if old.policy != new.policy:
        yield "another tier than until now may be asked first, or where one fails"


def _tier(old: Tier, new: Tier) -> Iterator[str]:
    if old.model != new.model:
        yield f"tier {new.name}: {new.model} answers instead of {old.model}"
    elif old.version != new.version:
        named = [tier.version or "the highest number" for tier in (new, old)]
        yield f"tier {new.name}: version {named[0]} answers instead of {named[1]}"
    before, after = (tier.accept.confidence if tier.accept is not None else 0.0 for tier in (old, new))
    if before != after:
        stand, go_on = ("fewer", "more") if after > before else ("more", "fewer")
        yield f"tier {new.name}: {stand} of its answers stand, {go_on} rows go on"


def _promises(old: Route, new: Route) -> Iterator[str]:
    if old.deadline_ms != new.deadline_ms:
        yield f"a request is ended after {shown(new.deadline_ms)} ms, not {shown(old.deadline_ms)}"
    for key in ("p50_ms", "p95_ms", "p99_ms"):
        before, after = (getattr(one.slo, key, None) for one in (old, new))
        if before != after:
            now, then = (f"≤ {shown(value)} ms" if value is not None else "nothing" for value in (after, before))
            yield f"promised of the {key.removesuffix('_ms')}: {now}, not {then}"


def _doors(name: str, before: Manifest, after: Manifest) -> Iterator[str]:
    """The first tenant closes Servery to everybody else, the last one opens it; told once, with the first of them."""
    if not before.tenants and name == next(iter(after.tenants), None):
        yield "whoever has no key is refused (401)"
    elif not after.tenants and name == next(iter(before.tenants), None):
        yield "nobody needs a key any more: everybody on this machine may ask"


def _keys_of(tenant: Tenant | None) -> dict[str, Key]:
    return {} if tenant is None else {key.id: key for key in tenant.keys}


def _keys(old: Tenant | None, new: Tenant | None) -> Iterator[str]:
    before, after = _keys_of(old), _keys_of(new)
    for key in dict.fromkeys((*before, *after)):
        if key not in after:
            yield f"key {key} is refused (401)"
        elif key not in before:
            yield f"key {key} may ask"
        elif before[key].sha256 != after[key].sha256:
            yield f"key {key} is another one: the old one is refused (401)"
        else:
            yield from (f"key {key}: {line}" for line in sums.limits(before[key].limits, after[key].limits))
        if key in before and key in after and before[key].role != after[key].role:
            yield f"key {key} is that of {'an operator' if after[key].role == 'operator' else 'a caller'}"


def _tenant(old: Tenant, new: Tenant) -> Iterator[str]:
    if old.regions != new.regions:
        yield f"its requests may flow to {', '.join(new.regions) or 'any region'}, not {', '.join(old.regions) or 'any'}"
    if old.subscription != new.subscription:
        yield f"its subscription is {new.subscription}, not {old.subscription}"
    if old.isolation != new.isolation:
        apart = new.isolation == "dedicated"
        yield f"its rows {'never run in one batch' if apart else 'may run in one batch'} with those of other tenants"

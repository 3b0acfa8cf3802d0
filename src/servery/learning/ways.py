"""Whether a Route, declared anew, goes on after the first tier as it did when it was recorded: Records tell of nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from servery.routing.next import Kind, Plan, Step
from servery.terms.manifest import Manifest, Model
from servery.terms.rollouts import RolloutPolicy
from servery.terms.routes import Accept, Policy, Route, Tier

_UNSURE = ("cascade", "complexity")


def plan_of(route: Route) -> Plan:
    """The Route as far as its first choice goes."""
    return Plan(Kind(route.policy.kind), tuple([Step(tier.name) for tier in route.tiers]))


def models_of(route: Route) -> dict[str, str]:
    """The Model of each tier."""
    return {tier.name: tier.model for tier in route.tiers}


def otherwise(before: Route, after: Route) -> Iterator[str]:
    """Where `after` would go on otherwise than was recorded, so that no Record says what would come of it."""
    old, new = _ways(before), _ways(after)
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            yield (
                f"after the tier `{name}` it goes on otherwise: {_told(new[name])}, where Records are of {_told(old[name])}. Records don't "
                "hold how sure an answer was"
            )


def unlike(before: Manifest, after: Manifest, route: str) -> Iterator[str]:
    """What is declared otherwise and isn't weighed: Requests count as they went when they were recorded."""
    old, new = before.routes[route], after.routes[route]
    policies = (old.policy, new.policy)
    pairs = [
        ("who stands in where a tier fails", *[_stand_ins(one) for one in (old, new)]),
        ("`retries`", *[policy.retries for policy in policies]),
        ("`hedge`", *[policy.hedge for policy in policies]),
        ("`hold_tokens`", *[policy.hold_tokens for policy in policies]),
        ("`deadline_ms`", old.deadline_ms, new.deadline_ms),
        ("`ceiling.max_usd_per_inference`", *[_most(one) for one in (old, new)]),
    ]
    pairs += [
        (f"the model `{name}`", _asked(before.models[name]), _asked(after.models[name]))
        for name in sorted({tier.model for tier in old.tiers} & {tier.model for tier in new.tiers})
    ]
    for what, one, other in pairs:
        if one != other:
            yield f"{what} is declared otherwise than what is served: Requests count as they went with that"
    if new.policy.ranges or any(tier.accept is not None and tier.accept.range is not None for tier in new.tiers):
        yield "its thresholds are taken as they are declared, not as they would follow the traffic"


def _asked(model: Model) -> Model:
    """Without what changes no answer and no dollar."""
    return msgspec.structs.replace(model, drift=None, rollout=RolloutPolicy())


def _ways(route: Route) -> dict[str, tuple[Accept, tuple[str, ...]] | None]:
    """By tier, when its answer stands and who is asked where it doesn't; None where it always stands."""
    names = tuple([tier.name for tier in route.tiers])
    ways: dict[str, tuple[Accept, tuple[str, ...]] | None] = {}
    for at, tier in enumerate(route.tiers):
        accept = tier.accept if _weighed(route.policy, tier) and at < len(names) - 1 else None
        # How far a threshold may move is no part of what it is.
        ways[tier.name] = None if accept is None else (_still(accept), names[at + 1 :])
    return ways


def _weighed(policy: Policy, tier: Tier) -> bool:
    return policy.kind in _UNSURE and tier.accept is not None and tier.accept.check is not None


def _still(accept: Accept) -> Accept:
    return Accept(accept.confidence, None, accept.check, accept.verifier)


def _told(way: tuple[Accept, tuple[str, ...]] | None) -> str:
    if way is None:
        return "an answer that always stands"
    accept, later = way
    return f"`{accept.check}` at {accept.confidence:g}, then {', '.join(f'`{name}`' for name in later)}"


def _stand_ins(route: Route) -> tuple[str, ...]:
    """Who is asked where a tier fails, and whether that depends on where a prompt began."""
    names = tuple([tier.name for tier in route.tiers])
    if route.policy.fallback is not None:
        return route.policy.fallback
    return ("upwards", *names) if route.policy.kind == "complexity" else names


def _most(route: Route) -> float | None:
    return None if route.ceiling is None else route.ceiling.max_usd_per_inference

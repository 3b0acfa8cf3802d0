"""What a Table holds of routes and models that answer in text, and what the gateway needs of those who call them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from servery.routing.hardness import hardness
from servery.routing.next import Kind, Plan, Step
from servery.routing.router_file import Router
from servery.routing.static import Static
from servery.routing.static import compiled as compile_static
from servery.terms.change import Snapshot, Version
from servery.terms.manifest import DEADLINE_MS, Manifest, Model, Route
from servery.terms.placement import speaks
from servery.terms.reasons import Reason
from servery.terms.residency import may_flow
from servery.terms.text import Piece, Prompt, TokenPrice, Tokens

Score = Callable[[str], float]


class Exchange(Protocol):
    """One call of a language model. What it took is known at any time, however it ends."""

    @property
    def answered_as(self) -> str: ...
    @property
    def stated(self) -> bool:
        """Whether `tokens` are the vendor's own count."""
        ...

    @property
    def tokens(self) -> Tokens | None: ...
    def pieces(self) -> AsyncGenerator[Piece]:
        """The answer as it comes. Refusal where it fails."""
        ...


class TextTarget(Protocol):
    """A way to ask a language model."""

    @property
    def version(self) -> Version: ...
    @property
    def unready(self) -> str: ...
    @property
    def refusal(self) -> Reason | None: ...
    @property
    def pico_per_hour(self) -> int: ...
    @property
    def price(self) -> TokenPrice: ...
    def forecast(self, prompt: Prompt) -> Tokens: ...
    def open(self, prompt: Prompt) -> Exchange: ...


class TextTier(msgspec.Struct, frozen=True):
    """A Tier whose model answers in text. `window`: the tokens that a prompt and its answer may have (0: unknown)."""

    name: str
    target: TextTarget
    model: str
    version: str
    lacks: frozenset[str] = frozenset()
    window: int = 0
    first_token_ns: int = 0  # 0: as long as the Request has
    prediction: str = ""  # kept of tensors only


class Scored(msgspec.Struct, frozen=True):
    """A `complexity` policy: above the n-th threshold a prompt goes to the tier after the n-th."""

    score: Score
    thresholds: tuple[float, ...]


class TextEntry(msgspec.Struct, frozen=True):
    """A public name that answers in text."""

    name: str
    plan: Plan
    tiers: tuple[TextTier, ...]
    deadline_ns: int
    max_pico: int = 0  # what an answer may cost; 0: anything
    closed: dict[str, frozenset[int]] = {}  # by tenant: the steps whose region its data may not flow to
    static: Static | None = None
    scored: Scored | None = None

    @property
    def unready(self) -> str:
        """Why no tier can answer ("" when one can)."""
        if any(tier.target.refusal is None for tier in self.tiers):
            return ""
        return "; ".join(f"{tier.model}: {tier.target.unready}" for tier in self.tiers)

    @property
    def refusal(self) -> Reason:
        """WARMING while a tier may still become ready, else MODEL_UNAVAILABLE."""
        warming = any(tier.target.refusal is Reason.WARMING for tier in self.tiers)
        return Reason.WARMING if warming else Reason.MODEL_UNAVAILABLE


class Speaker(Protocol):
    """Who takes the answer to the caller."""

    @property
    def begun(self) -> bool:
        """Whether the caller has been sent something."""
        ...

    record_id: bytes  # of the Request, once it is known

    def header(self, name: str) -> str | None: ...
    def left(self) -> Awaitable[None]:
        """Done when the caller has left."""
        ...

    def whole(self, entry: TextEntry, tier: TextTier, body: bytes) -> None:
        """All of the answer; it is sent once the Record is written."""
        ...

    async def say(self, entry: TextEntry, tier: TextTier, chunks: list[bytes]) -> None:
        """A part of a stream; the first one begins it."""
        ...

    async def end(self) -> None:
        """The stream was complete."""
        ...


TextTargets = Mapping[str, TextTarget]  # by Model


def text_entries(snapshot: Snapshot, targets: TextTargets, routers: Mapping[str, Router]) -> dict[str, TextEntry]:
    """Every name that answers in text. `routers` are the trained ones, by digest."""
    manifest = snapshot.manifest
    entries = {
        name: _route(name, route, manifest, targets, _scored(name, route, snapshot, routers))
        for name, route in manifest.routes.items()
        if speaks(manifest.models[route.tiers[0].model])
    }
    for name, model in manifest.models.items():
        if speaks(model) and (model.expose or not manifest.tenants):
            plan = Plan(Kind.FIXED, (Step("direct", None, _region(manifest, name)),))
            entries[name] = _entry(name, plan, (_tier("direct", model, targets[name]),), DEADLINE_MS, manifest)
    return entries


def _route(name: str, route: Route, manifest: Manifest, targets: TextTargets, scored: Scored | None) -> TextEntry:
    tiers = tuple(_tier(tier.name, manifest.models[tier.model], targets[tier.model]) for tier in route.tiers)
    steps = tuple(Step(tier.name, None, _region(manifest, tier.model)) for tier in route.tiers)
    at = {tier.name: step for step, tier in enumerate(route.tiers)}
    fallback = None if route.policy.fallback is None else tuple(at[tier] for tier in route.policy.fallback)
    kind = Kind(route.policy.kind)
    entry = _entry(name, Plan(kind, steps, fallback), tiers, route.deadline_ms, manifest)
    most = route.ceiling.max_usd_per_inference if route.ceiling is not None else None
    return msgspec.structs.replace(
        entry,
        max_pico=0 if most is None else max(round(most * 1e12), 1),
        static=compile_static(route.policy, at) if kind is Kind.STATIC else None,
        scored=scored,
    )


def _scored(name: str, route: Route, snapshot: Snapshot, routers: Mapping[str, Router]) -> Scored | None:
    policy = route.policy
    if policy.kind != "complexity":
        return None
    if not policy.router:
        return Scored(hardness, policy.thresholds)
    router = routers[snapshot.routers[name].digest]
    return Scored(router.scorer.gain, policy.thresholds or (router.threshold,))


def _entry(name: str, plan: Plan, tiers: tuple[TextTier, ...], deadline_ms: float, manifest: Manifest) -> TextEntry:
    closed: dict[str, frozenset[int]] = {}
    for tenant, declared in manifest.tenants.items():
        steps = {at for at, step in enumerate(plan.steps) if not may_flow(declared.regions, step.region)}
        if steps:
            closed[tenant] = frozenset(steps)
    return TextEntry(name, plan, tiers, round(deadline_ms * 1e6), closed=closed)


def _tier(name: str, model: Model, target: TextTarget) -> TextTier:
    return TextTier(
        name,
        target,
        target.version.model,
        target.version.name,
        frozenset(model.lacks),
        model.context_window or 0,
        round((model.first_token_ms or 0) * 1e6),
    )


def _region(manifest: Manifest, model: str) -> str:
    return manifest.models[model].region or manifest.region

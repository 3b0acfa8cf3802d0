"""What a Table holds of routes and models that answer in text, and what the gateway needs of those who call them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from typing import Protocol

import msgspec

from servery.gateway.arms import Arms
from servery.gateway.holdings import UNBOUND, Bound
from servery.gateway.trained import Trained
from servery.gateway.trials import Exposed, Shadow
from servery.gateway.watch import Watch
from servery.quota.extra import Extra
from servery.routing.checks import Check, check_of
from servery.routing.hardness import hardness
from servery.routing.next import Kind, Plan, Step
from servery.routing.static import Static
from servery.routing.static import compiled as compile_static
from servery.routing.verifier import check_by
from servery.terms.change import Snapshot, Version
from servery.terms.limits import Limits
from servery.terms.manifest import Manifest, Model
from servery.terms.placement import NEEDS, lacking, speaks
from servery.terms.reasons import Reason
from servery.terms.residency import may_flow
from servery.terms.routes import DEADLINE_MS, Policy, Route, Tier
from servery.terms.text import Look, Piece, Prompt, Said, TokenPrice, Tokens

Score = Callable[[str], float]


class Exchange(Protocol):
    """One call of a language model. What it took is known at any time, however it ends.

    `asked` is the endpoint; `may_pass`: what failed may not fail a moment later; `said` is what was looked at.
    """

    @property
    def asked(self) -> object: ...
    @property
    def answered_as(self) -> str: ...
    @property
    def may_pass(self) -> bool: ...
    @property
    def said(self) -> Said | None: ...
    @property
    def stated(self) -> bool:
        """Whether `tokens` are the vendor's own count."""
        ...

    @property
    def tokens(self) -> Tokens | None: ...
    async def whole(self) -> bytes:
        """The answer in one. Refusal where it fails."""
        ...

    def pieces(self) -> AsyncGenerator[Piece]:
        """The answer to a prompt for a stream, as it comes. Refusal where it fails."""
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
    @property
    def extra(self) -> Extra:
        """The calls that it may get beside those that are needed."""
        ...

    def forecast(self, prompt: Prompt) -> Tokens: ...
    async def count(self, prompt: Prompt) -> int:
        """The tokens of a prompt in Anthropic's form. Refusal."""
        ...

    def rest_ns(self, now_ns: int) -> int:
        """For how long it wants no calls; 0: it takes them."""
        ...

    def late_ns(self, share: float, stream: bool) -> int:
        """The time that this share of answers didn't exceed lately: to the end, or of streams to the first word. 0: unknown."""
        ...

    def open(self, prompt: Prompt, look: Look, avoid: Collection[object]) -> Exchange:
        """A call that begins when its answer is asked for. Refusal."""
        ...


class TextTier(msgspec.Struct, frozen=True):
    """A Tier whose model answers in text. `window`: the tokens that a prompt and its answer may have (0: unknown).

    `told` are the header lines that say that it has answered; `check` says how sure an answer is, where that is wanted.
    """

    name: str
    target: TextTarget
    model: str
    version: str
    lacks: frozenset[str] = frozenset()
    window: int = 0
    first_token_ns: int = 0  # 0: as long as the Request has
    told: bytes = b""
    check: Check | None = None
    prediction: str = ""  # kept of tensors only
    bound: Bound = UNBOUND  # of the model
    arm: str = ""  # what Attempts are compared by, while its Model is rolled out
    accept: float | None = None  # as of TierEntry
    shadow: Shadow | None = None  # as of TierEntry
    measures: tuple[str, ...] = ()  # of tensors only


class Hedge(msgspec.Struct, frozen=True):
    """When a second call is made beside a slow one: after `after_ns` or, where that is 0, what the `quantile` of calls took.

    Such calls may cost this `share` of what the others do.
    """

    quantile: float
    after_ns: int
    share: float


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
    hedge: Hedge | None = None
    capable: Mapping[str, tuple[str, ...]] = {}  # by what not all can do: the names that can
    explore: float = 0.0  # the share of Requests whose first step is drawn
    hold_tokens: int = 0  # of a stream that are held back before it begins
    promised: float = 0.95  # the share of answers that are meant to be there by the deadline
    bound: Bound = UNBOUND  # of the route
    exposed: Exposed | None = None
    arms: Arms | None = None  # of an Experiment
    watch: Watch | None = None  # where its thresholds follow the traffic

    @property
    def window(self) -> int:
        """The longest prompt that one of the tiers takes, with its answer (tokens; 0: unknown)."""
        windows = [tier.window for tier in self.tiers]
        return max(windows) if all(windows) else 0

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

    def whole(self, tier: TextTier, body: bytes, degraded: str) -> None:
        """All of the answer; it is sent once the Record is written. `degraded`: why it is less sure than wanted, or ""."""
        ...

    async def say(self, tier: TextTier, chunks: list[bytes], degraded: str = "") -> None:
        """A part of a stream; the first one begins it."""
        ...

    async def end(self) -> None:
        """The stream was complete."""
        ...


TextTargets = Mapping[str, TextTarget]  # by Model


def text_entries(
    snapshot: Snapshot,
    targets: TextTargets,
    trained: Trained,
    bounds: Mapping[str, Bound],
    of_route: Callable[[str, Limits], Bound],
) -> dict[str, TextEntry]:
    """Every name that answers in text. `bounds` are those of models."""
    manifest = snapshot.manifest
    entries = {
        name: _route(name, route, snapshot, targets, trained)
        for name, route in manifest.routes.items()
        if speaks(manifest.models[route.tiers[0].model])
    }
    for name, model in manifest.models.items():
        if speaks(model) and (model.expose or not manifest.tenants):
            plan = Plan(Kind.FIXED, (Step("direct", None, _region(manifest, name)),), None, Policy().retries)
            tier = _tier(name, "direct", model, targets[name])
            entries[name] = _entry(name, plan, (tier,), DEADLINE_MS, manifest)
    capable = {
        need: tuple(name for name, entry in entries.items() if any(need not in tier.lacks for tier in entry.tiers))
        for need in NEEDS
    }
    replace = msgspec.structs.replace
    return {
        name: replace(
            entry,
            capable=capable,
            tiers=tuple(replace(tier, bound=bounds[tier.model]) for tier in entry.tiers),
            bound=of_route(name, manifest.routes[name].limits) if name in manifest.routes else UNBOUND,
        )
        for name, entry in entries.items()
    }


def _route(name: str, route: Route, snapshot: Snapshot, targets: TextTargets, trained: Trained) -> TextEntry:
    manifest, policy = snapshot.manifest, route.policy
    kind = Kind(policy.kind)
    checks = [_check(tier, kind, snapshot, trained) for tier in route.tiers[:-1]] + [None]
    tiers = tuple(
        _tier(name, tier.name, manifest.models[tier.model], targets[tier.model], check)
        for tier, check in zip(route.tiers, checks, strict=True)
    )
    steps = tuple(
        Step(
            tier.name,
            tier.accept.confidence if tier.accept is not None and check is not None else None,
            _region(manifest, tier.model),
            check is not None and check.twice,
        )
        for tier, check in zip(route.tiers, checks, strict=True)
    )
    at = {tier.name: step for step, tier in enumerate(route.tiers)}
    fallback = None if policy.fallback is None else tuple(at[tier] for tier in policy.fallback)
    entry = _entry(name, Plan(kind, steps, fallback, policy.retries), tiers, route.deadline_ms, manifest)
    hedge = policy.hedge
    most = route.ceiling.max_usd_per_inference if route.ceiling is not None else None
    return msgspec.structs.replace(
        entry,
        max_pico=0 if most is None else max(round(most * 1e12), 1),
        static=compile_static(policy, at) if kind is Kind.STATIC else None,
        scored=_scored(name, route, snapshot, trained),
        hedge=None if hedge is None else Hedge(hedge.quantile, round((hedge.after_ms or 0) * 1e6), hedge.share),
        explore=policy.explore,
        hold_tokens=policy.hold_tokens,
        promised=_promised(route),
    )


def _check(tier: Tier, kind: Kind, snapshot: Snapshot, trained: Trained) -> Check | None:
    """How a tier's own answer is weighed, where another tier may be asked for a better one."""
    accept = tier.accept
    if accept is None or accept.check is None or kind not in (Kind.CASCADE, Kind.COMPLEXITY):
        return None
    if accept.check == "verifier":
        return check_by(trained.verifiers[snapshot.verifiers[accept.verifier].digest])
    return check_of(accept.check)


def _promised(route: Route) -> float:
    """The quantile of the promise about latency."""
    slo = route.slo
    if slo is None or (slo.p95_ms is not None or (slo.p50_ms is None and slo.p99_ms is None)):
        return 0.95
    return 0.99 if slo.p99_ms is not None else 0.5


def _scored(name: str, route: Route, snapshot: Snapshot, trained: Trained) -> Scored | None:
    policy = route.policy
    if policy.kind != "complexity":
        return None
    if not policy.router:
        return Scored(hardness, policy.thresholds)
    router = trained.routers[snapshot.routers[name].digest]
    return Scored(router.scorer.gain, policy.thresholds or (router.threshold,))


def _entry(name: str, plan: Plan, tiers: tuple[TextTier, ...], deadline_ms: float, manifest: Manifest) -> TextEntry:
    closed: dict[str, frozenset[int]] = {}
    for tenant, declared in manifest.tenants.items():
        steps = {at for at, step in enumerate(plan.steps) if not may_flow(declared.regions, step.region)}
        if steps:
            closed[tenant] = frozenset(steps)
    return TextEntry(name, plan, tiers, round(deadline_ms * 1e6), closed=closed)


def _tier(route: str, name: str, model: Model, target: TextTarget, check: Check | None = None) -> TextTier:
    named = (("route", route), ("tier", name), ("model", target.version.model), ("version", target.version.name))
    return TextTier(
        name,
        target,
        target.version.model,
        target.version.name,
        lacking(model),
        model.context_window or 0,
        round((model.first_token_ms or 0) * 1e6),
        "".join([f"servery-{header}: {value}\r\n" for header, value in named]).encode(),
        check,
    )


def _region(manifest: Manifest, model: str) -> str:
    return manifest.models[model].region or manifest.region

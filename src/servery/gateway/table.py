"""The Table: what a worker compiles from a Snapshot, once, so that the request path builds nothing it could have had."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast
from urllib.parse import quote

import msgspec

from servery.gateway.arms import Arms, with_arms
from servery.gateway.holdings import UNBOUND, Bound, Holdings
from servery.gateway.keeping import Keeping, keepings
from servery.gateway.texts import TextEntry, TextTarget, text_entries
from servery.gateway.trained import Trained
from servery.gateway.trials import Exposed, Lease, Shadow, with_trials
from servery.gateway.watch import Watch
from servery.identity.keys import Keyring
from servery.routing.next import Kind, Plan, Step
from servery.routing.static import Static
from servery.routing.static import compiled as compile_static
from servery.terms.change import Snapshot, Version
from servery.terms.manifest import Confidence, Manifest, Model
from servery.terms.placement import speaks
from servery.terms.reasons import Reason
from servery.terms.request import Array, Call, Called
from servery.terms.residency import may_flow
from servery.terms.routes import DEADLINE_MS, Route
from servery.terms.tensors import Signature, TensorSpec
from servery.terms.text import Form


class Job(Protocol):
    """A call under way off the event loop."""

    @property
    def future(self) -> asyncio.Future[Called]: ...


class Target(Protocol):
    """What the gateway needs of a way to call a Version."""

    @property
    def version(self) -> Version: ...
    @property
    def unready(self) -> str: ...
    @property
    def refusal(self) -> Reason | None: ...
    @property
    def pico_per_hour(self) -> int: ...
    def inline(self, rows: int) -> bool: ...
    def call(self, fetch: Sequence[str], feeds: dict[str, Array], rows: int) -> Called: ...
    def submit(self, call: Call) -> Job | None: ...
    def give_up(self, job: Any) -> Called: ...


Targets = Mapping[tuple[str, str], Target | TextTarget]  # by Model and number
TensorTargets = Mapping[tuple[str, str], Target]
Bounds = Mapping[str, Bound]  # by Model


class TierEntry(msgspec.Struct, frozen=True):
    """A Tier ready to be called. `judged` are the outputs that the policy and the Record need besides the caller's."""

    name: str
    target: Target
    confidence: Confidence | None
    prediction: str
    judged: tuple[str, ...]
    model: str
    version: str  # as callers see it
    fetch_all: list[str] = []
    priority: int = 0
    bound: Bound = UNBOUND  # of the model
    arm: str = ""  # what Attempts are compared by, while its Model is rolled out
    accept: float | None = (
        None  # the confidence below which rows go on, where that follows the traffic: for its Attempts
    )
    shadow: Shadow | None = None  # who is asked too, once the caller has the answer
    measures: tuple[str, ...] = ()  # outputs that a guard of its Model's rollout watches


class Entry(msgspec.Struct, frozen=True):
    """A public name: a Route, or a Model that may be called directly (then it has versions)."""

    name: str
    plan: Plan
    tiers: tuple[TierEntry, ...]
    signature: Signature
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    deadline_ns: int
    output_names: tuple[str, ...]
    datatypes: dict[str, str]  # of outputs
    by_row: tuple[str, ...]  # outputs whose first dimension counts rows
    version: str = ""  # the number that answers; a Route has none
    versions: tuple[str, ...] = ()  # all that are served
    by_version: dict[str, Entry] = {}  # by number and by label
    static: Static | None = None  # what chooses the first step, where that isn't always the same
    closed: dict[str, frozenset[int]] = {}  # by tenant: the steps whose region its data may not flow to
    bound: Bound = UNBOUND  # of the route
    exposed: Exposed | None = None
    arms: Arms | None = None  # of an Experiment
    watch: Watch | None = None  # where its thresholds follow the traffic

    @property
    def unready(self) -> str:
        """Why no tier can answer ("" when one can)."""
        if any(tier.target.refusal is None for tier in self.tiers):
            return ""
        return "; ".join(f"{tier.target.version.model}: {tier.target.unready}" for tier in self.tiers)

    @property
    def refusal(self) -> Reason:
        """WARMING while a tier may still become ready, SLEEPING where one would wake, else MODEL_UNAVAILABLE."""
        refusals = {tier.target.refusal for tier in self.tiers}
        soon = (reason for reason in (Reason.WARMING, Reason.SLEEPING) if reason in refusals)
        return next(soon, Reason.MODEL_UNAVAILABLE)


class Use:
    """How many Requests are under way by one Table."""

    __slots__ = ("_ended", "inside")

    def __init__(self) -> None:
        self.inside = 0
        self._ended: asyncio.Future[None] | None = None

    def leave(self) -> None:
        self.inside -= 1
        if not self.inside and self._ended is not None:
            self._ended.set_result(None)
            self._ended = None

    async def ended(self) -> None:
        """Return once no Request is under way. By then the Table has been replaced, so that none begins."""
        if self.inside:
            if self._ended is None:
                self._ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._ended)


class Table(msgspec.Struct, frozen=True):
    """One worker's view of a Snapshot; swapped in one assignment."""

    epoch: int
    manifest: Manifest
    keyring: Keyring
    entries: dict[str, Entry]
    texts: dict[str, TextEntry]
    callers: dict[tuple[str, str], Bound]  # by tenant and key
    targets: tuple[Target | TextTarget, ...]
    quick_paths: dict[
        bytes, tuple[str, str] | Form
    ]  # raw path → name and version, or form, where no more is to be parsed
    keepings: dict[str, Keeping]  # by tenant, of those whose Content is kept
    use: Use

    def unready(self) -> list[str]:
        """Why this worker can't keep its promises now; empty when every Route has an answer.

        Without routes: when nothing is loading any more, and some Model has an answer. A Model that can't be loaded
        costs its Route only the tier, and nobody else anything, so it doesn't make the worker unready by itself; nor does
        one that sleeps, because it wakes. While an Experiment runs its arms are waited for, so that none seems to fail.
        """
        entries: dict[str, Entry | TextEntry] = {**self.entries, **self.texts}
        if not entries:
            return ["no models are declared"]
        names = self.manifest.routes or entries
        unready = [name for name in names if entries[name].unready and entries[name].refusal is not Reason.SLEEPING]
        if not self.manifest.routes and len(unready) < len(names):
            unready = [name for name in unready if entries[name].refusal is Reason.WARMING]
        warming = [
            f"{name}: {arm.unready}"
            for name in self.manifest.routes
            if (arms := entries[name].arms) is not None
            for arm in arms.variants
            if arm.refusal is Reason.WARMING and arm.unready and name not in unready
        ]
        return [*(f"{name}: {entries[name].unready}" for name in unready), *warming]


class Base(msgspec.Struct, frozen=True):
    """What the worker owns and each Table is compiled over. `secret` seals record ids."""

    secret: bytes
    holdings: Holdings
    lease: Lease
    trained: Trained


def compile_table(snapshot: Snapshot, targets: Targets, candidates: Targets, kept: Base) -> Table:
    """The Table of a Snapshot over the worker's Targets, those of `candidates` beside them, and what it has `kept`, whose
    holdings are brought up to date.
    """
    manifest = snapshot.manifest

    def seen(chosen: frozenset[str]) -> tuple[Snapshot, Targets]:
        """What is served where the candidates of these Models are."""
        others = {key: target for key, target in targets.items() if key[0] not in chosen}
        return snapshot.promoted(chosen), {
            **others, **{key: target for key, target in candidates.items() if key[0] in chosen}
        }  # fmt: skip

    kept.lease.rooms.keep([one.rollout for one in snapshot.candidates.values()])
    entries = with_trials(snapshot, lambda chosen: _entries(*seen(chosen), kept), kept.lease, kept.secret)
    entries = with_arms(snapshot, entries, lambda arm: _entries(arm, targets, kept), kept.secret)
    texts = with_trials(snapshot, lambda chosen: _texts(*seen(chosen), kept), kept.lease, kept.secret)
    texts = with_arms(snapshot, texts, lambda arm: _texts(arm, targets, kept), kept.secret)
    speaking = any(map(speaks, manifest.models.values()))
    return Table(
        snapshot.epoch,
        manifest,
        Keyring(manifest.tenants, kept.secret, manifest.subscriptions),
        entries,
        texts,
        kept.holdings.of_callers(manifest),
        tuple(targets.values()),
        {**dict(_infer_paths(entries)), **({f"/v1/{form.value}".encode(): form for form in Form} if speaking else {})},
        keepings(manifest),
        Use(),
    )


def _entries(snapshot: Snapshot, targets: Targets, kept: Base) -> dict[str, Entry]:
    """Every name that takes tensors."""
    manifest, holdings = snapshot.manifest, kept.holdings
    models = manifest.models
    for_tensors = {key: cast(Target, target) for key, target in targets.items() if not speaks(models[key[0]])}
    bounds = {name: holdings.of_model(name, model.limits) for name, model in models.items()}
    entries = {
        name: msgspec.structs.replace(
            _route_entry(name, route, snapshot, for_tensors, bounds), bound=holdings.of_route(name, route.limits)
        )
        for name, route in manifest.routes.items()
        if not speaks(models[route.tiers[0].model])
    }
    for name, model in models.items():
        if not speaks(model) and (model.expose or not manifest.tenants):
            entries[name] = _model_entry(name, model, snapshot, for_tensors, bounds)
    return entries


def _texts(snapshot: Snapshot, targets: Targets, kept: Base) -> dict[str, TextEntry]:
    """Every name that takes text."""
    models, holdings = snapshot.manifest.models, kept.holdings
    for_text = {key[0]: cast(TextTarget, target) for key, target in targets.items() if speaks(models[key[0]])}
    bounds = {name: holdings.of_model(name, model.limits) for name, model in models.items()}
    return text_entries(snapshot, for_text, kept.trained, bounds, holdings.of_route)


def _infer_paths(entries: Mapping[str, Entry]) -> Iterator[tuple[bytes, tuple[str, str]]]:
    for name, entry in entries.items():
        for safe in ("", "/" if "/versions/" not in name else ""):  # some clients leave a slash as it is
            path = f"/v2/models/{quote(name, safe=safe)}"
            yield f"{path}/infer".encode(), (name, "")
            for version in entry.by_version:
                yield f"{path}/versions/{quote(version, safe='')}/infer".encode(), (name, version)


def _route_entry(name: str, route: Route, snapshot: Snapshot, targets: TensorTargets, bounds: Bounds) -> Entry:
    manifest = snapshot.manifest
    kind = Kind(route.policy.kind)
    cascade = kind is Kind.CASCADE
    tiers: list[TierEntry] = []
    for tier in route.tiers:
        version = snapshot.models[tier.model].named(tier.version)
        assert version is not None, "validate has seen to it"
        target = targets[tier.model, version.number]
        entry = _tier_entry(tier.name, manifest.models[tier.model], target, cascade, bounds)
        tiers.append(msgspec.structs.replace(entry, priority=tier.priority))
    steps = tuple(
        Step(tier.name, tier.accept.confidence if tier.accept else None, _region(manifest, tier.model))
        for tier in route.tiers
    )
    signature = common([tier.target.version.signature for tier in tiers])
    at = {tier.name: step for step, tier in enumerate(route.tiers)}
    fallback = None if route.policy.fallback is None else tuple(at[tier] for tier in route.policy.fallback)
    entry = _entry(name, Plan(kind, steps, fallback), tuple(tiers), signature, route.deadline_ms, manifest)
    if kind is not Kind.STATIC:
        return entry
    return msgspec.structs.replace(entry, static=compile_static(route.policy, at))


def _model_entry(name: str, model: Model, snapshot: Snapshot, targets: TensorTargets, bounds: Bounds) -> Entry:
    """The Entry of the latest Version, which holds those of all the others."""
    served = snapshot.models[name]
    numbers = tuple(version.number for version in served.versions)
    made = {number: _tier_entry("direct", model, targets[name, number], False, bounds) for number in numbers}
    direct = {number: _version_entry(name, snapshot.manifest, tier, numbers) for number, tier in made.items()}
    by_version = direct | {label: direct[number] for label, number in served.labels.items()}
    return msgspec.structs.replace(direct[served.latest.number], by_version=by_version)


def _version_entry(name: str, manifest: Manifest, tier: TierEntry, numbers: tuple[str, ...]) -> Entry:
    plan = Plan(Kind.FIXED, (Step("direct", None, _region(manifest, name)),))
    version = tier.target.version
    entry = _entry(name, plan, (tier,), common([version.signature]), DEADLINE_MS, manifest)
    return msgspec.structs.replace(entry, version=version.number, versions=numbers)


def _entry(
    name: str, plan: Plan, tiers: tuple[TierEntry, ...], signature: Signature, deadline_ms: float, manifest: Manifest
) -> Entry:
    closed: dict[str, frozenset[int]] = {}
    for tenant, declared in manifest.tenants.items():
        steps = {at for at, step in enumerate(plan.steps) if not may_flow(declared.regions, step.region)}
        if steps:
            closed[tenant] = frozenset(steps)
    fetch = tuple(spec.name for spec in signature.outputs)
    complete = tuple(
        msgspec.structs.replace(tier, fetch_all=[*fetch, *(name for name in tier.judged if name not in fetch)])
        for tier in tiers
    )
    return Entry(
        name,
        plan,
        complete,
        signature,
        {spec.name: spec for spec in signature.inputs},
        {spec.name: spec for spec in signature.outputs},
        round(deadline_ms * 1e6),
        fetch,
        {spec.name: spec.datatype for spec in signature.outputs},
        tuple(spec.name for spec in signature.outputs if spec.by_row) if signature.has_rows else (),
        closed=closed,
    )


def _tier_entry(name: str, model: Model, target: Target, judged: bool, bounds: Bounds) -> TierEntry:
    confidence = model.confidence if judged else None
    prediction = model.prediction.output if model.prediction else ""
    needs: list[str] = [confidence.output] if confidence else []
    if prediction and prediction not in needs:
        needs.append(prediction)
    version = target.version
    return TierEntry(
        name, target, confidence, prediction, tuple(needs), version.model, version.name, bound=bounds[version.model]
    )


def _region(manifest: Manifest, model: str) -> str:
    return manifest.models[model].region or manifest.region


def common(signatures: Iterable[Signature | None]) -> Signature:
    """The inputs, and the outputs, that all of these have; a size that differs becomes -1. Unreadable ones don't count."""
    known = [signature for signature in signatures if signature is not None]
    if not known:
        return Signature((), ())
    first = known[0]
    return Signature(
        tuple(_agree(spec, [other.input(spec.name) for other in known]) for spec in first.inputs),
        tuple(
            _agree(spec, [other.output(spec.name) for other in known])
            for spec in first.outputs
            if all(_same(spec, other.output(spec.name)) for other in known)
        ),
        first.platform,
    )


def _same(spec: TensorSpec, other: TensorSpec | None) -> bool:
    return other is not None and other.datatype == spec.datatype and len(other.shape) == len(spec.shape)


def _agree(spec: TensorSpec, others: Sequence[TensorSpec | None]) -> TensorSpec:
    shapes = [other.shape for other in others if other is not None]
    sizes = tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True))
    return TensorSpec(spec.name, spec.datatype, sizes)

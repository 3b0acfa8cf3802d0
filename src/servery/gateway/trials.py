"""What a Table holds of Rollouts: for each name, what it is for a Request of each arm, and how the arm is drawn.

A Snapshot that exposes candidates holds for a while only: a worker that hears nothing of the controller serves the incumbents
again, so that nobody is given a Version that nobody watches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from servery.gateway.rooms import Room, Rooms
from servery.routing.assignment import ARM_HEADER, Trial, assign, carried, digest_of, token_of, trial_of
from servery.terms.change import Snapshot
from servery.terms.record import Assigned
from servery.terms.request import Scalar
from servery.terms.rollouts import Alike, Arm, RolloutPolicy

# Rollouts that one name takes part in; each more would triple its variants. The controller begins no more.
MOST_TRIALS = 3
HOLDS_NS = 30 * 10**9


class Lease:
    """Until when candidates may be served (steady ns), renewed by each word of the controller; those that it has `withdrawn`, by
    Rollout; and what mirroring may take. Owned by the worker.
    """

    __slots__ = ("_now_ns", "rooms", "until_ns", "withdrawn")

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self.until_ns = 0
        self.withdrawn: frozenset[str] = frozenset()
        self.rooms = Rooms()

    def renew(self) -> None:
        """The controller was heard now."""
        self.until_ns = self._now_ns() + HOLDS_NS


class Shadow(msgspec.Struct, frozen=True):
    """A Tier's candidate, where nobody is given it: it is asked what the Tier was, while there is room."""

    tier: Any
    room: Room
    alike: Alike
    closed: frozenset[str] = frozenset()  # tenants whose data may not flow there


class Exposed(msgspec.Struct, frozen=True):
    """A name some of whose Models are being rolled out: what it is by the arm of each Trial."""

    trials: tuple[Trial, ...]
    variants: dict[tuple[Arm, ...], Any]
    plain: Any  # what it is while nobody watches
    lease: Lease
    rooms: tuple[Room | None, ...] = ()  # by Trial, of those that mirror
    secret: bytes = b""  # of what carries an arm


class Tiered(Protocol):
    """An Entry, for tensors or for text."""

    @property
    def tiers(self) -> tuple[Any, ...]: ...


E = TypeVar("E", bound=Tiered)
Compiled = Callable[[frozenset[str]], Mapping[str, E]]


class Said(msgspec.Struct, frozen=True, gc=False):
    """Where a unit may be named: a header of the request, or a parameter of it."""

    header: Callable[[str], str | None]
    parameter: Callable[[str], Scalar | None]


class Given(NamedTuple):
    """What a Request is given: the variant of its name, its arms, the rooms that hold a place for what it mirrors, and what carries its
    arms to where its units aren't known ("" where there are none).
    """

    entry: Any
    arms: tuple[Assigned, ...] = ()
    rooms: tuple[Room, ...] = ()
    tokens: str = ""


def with_trials(snapshot: Snapshot, compiled: Compiled[E], lease: Lease, secret: bytes) -> dict[str, E]:
    """Every name with its variants. `compiled` gives all names as they are where the candidates of these Models are served."""
    served = compiled(frozenset())
    if not snapshot.candidates:
        return dict(served)
    of = cache(compiled)
    return {name: _exposed(name, entry, snapshot, of, lease, secret) for name, entry in served.items()}


def _exposed(name: str, entry: E, snapshot: Snapshot, compiled: Compiled[E], lease: Lease, secret: bytes) -> E:
    used = dict.fromkeys(tier.model for tier in entry.tiers if tier.model in snapshot.candidates)
    models = list(used)[:MOST_TRIALS]
    if not models:
        return entry
    trials = tuple(trial_of(snapshot.candidates[model]) for model in models)
    shadows = {
        model: _shadows(compiled(frozenset((model,)))[name], model, snapshot, trial, lease)
        for model, trial in zip(models, trials, strict=True)
        if trial.mirrors
    }
    measures = {model: _measures(snapshot.candidates[model].model.rollout) for model in models}
    variants: dict[tuple[Arm, ...], E] = {}
    for arms in itertools.product(*[trial.arms for trial in trials]):
        by_model = {model: (trial, arm) for model, trial, arm in zip(models, trials, arms, strict=True)}
        chosen = frozenset(model for model, (_, arm) in by_model.items() if arm is Arm.CANDIDATE)
        variants[arms] = _told(compiled(chosen)[name], by_model, shadows, measures)
    rooms = tuple(
        lease.rooms.of(snapshot.candidates[model], snapshot.workers) if model in shadows else None for model in models
    )
    return _replace(entry, exposed=Exposed(trials, variants, entry, lease, rooms, secret))


def _shadows(entry: Tiered, model: str, snapshot: Snapshot, trial: Trial, lease: Lease) -> dict[int, Shadow]:
    """By place, of the tiers that this Model answers for; `entry` is the name as it is with its candidate."""
    candidate = snapshot.candidates[model]
    room = lease.rooms.of(candidate, snapshot.workers)
    arm = Arm.CANDIDATE.told(trial.rollout, trial.step)
    closed: Mapping[str, frozenset[int]] = getattr(entry, "closed", {})
    return {
        at: Shadow(
            msgspec.structs.replace(tier, arm=arm),
            room,
            candidate.model.rollout.alike,
            frozenset(tenant for tenant, steps in closed.items() if at in steps),
        )
        for at, tier in enumerate(entry.tiers)
        if tier.model == model
    }


def _measures(policy: RolloutPolicy) -> tuple[str, ...]:
    return tuple(dict.fromkeys(guard.name for guard in policy.guards if guard.metric == "output"))


def _told(
    entry: E,
    by_model: Mapping[str, tuple[Trial, Arm]],
    shadows: Mapping[str, Mapping[int, Shadow]],
    measures: Mapping[str, tuple[str, ...]],
) -> E:
    """With tiers that say in the Record which arm they answered for, and who is asked too."""

    def told(at: int, tier: Any) -> Any:
        if tier.model not in by_model:
            return tier
        trial, arm = by_model[tier.model]
        tier = _measuring(msgspec.structs.replace(tier, arm=arm.told(trial.rollout, trial.step)), measures[tier.model])
        if arm is not Arm.MIRRORED:
            return tier
        shadow = shadows[tier.model][at]
        shadow = msgspec.structs.replace(shadow, tier=_measuring(shadow.tier, measures[tier.model]))
        return msgspec.structs.replace(tier, shadow=shadow)

    return _replace(entry, tiers=tuple([told(at, tier) for at, tier in enumerate(entry.tiers)]))


def _measuring(tier: Any, names: tuple[str, ...]) -> Any:
    """With these outputs asked for, whatever the caller wants, and measured; as far as this Version has them."""
    signature = tier.target.version.signature if names else None
    names = tuple(name for name in names if signature is not None and signature.output(name) is not None)
    if not names:
        return tier
    judged = tuple(dict.fromkeys((*tier.judged, *names)))
    fetch_all = list(dict.fromkeys((*tier.fetch_all, *names)))
    return msgspec.structs.replace(tier, measures=names, judged=judged, fetch_all=fetch_all)


def _replace(entry: E, **changed: Any) -> E:
    made: Any = entry
    return msgspec.structs.replace(made, **changed)


def assigned(exposed: Exposed, record_id: bytes, said: Said, now_ns: int) -> Given:
    """The variant for this Request, and the arms that it was given. Refusal where it carries one that isn't ours."""
    if now_ns >= exposed.lease.until_ns:
        return Given(exposed.plain)
    arms: list[Arm] = []
    told: list[Assigned] = []
    taken: list[Room] = []
    tokens: list[str] = []
    withdrawn = exposed.lease.withdrawn
    for trial, digest in zip(exposed.trials, _digests(exposed, record_id, said), strict=True):
        if trial.rollout in withdrawn:
            arms.append(Arm.INCUMBENT)
            continue
        room = exposed.rooms[len(arms)] if trial.mirrors else None
        arm, one = assign(trial, digest, room is None or room.free(now_ns))
        if arm is Arm.MIRRORED and room is not None:
            room.inside += 1
            taken.append(room)
        if trial.named and digest is not None:
            tokens.append(token_of(exposed.secret, trial.rollout, digest))
        arms.append(arm)
        told.append(one)
    return Given(exposed.variants[tuple(arms)], tuple(told), tuple(taken), ",".join(tokens))


def _digests(exposed: Exposed, record_id: bytes, said: Said) -> list[bytes | None]:
    """Of each Trial's unit. One that isn't named may be carried. Refusal."""
    found: list[bytes | None] = []
    for trial in exposed.trials:
        unit = unit_of(trial, record_id, said)
        found.append(None if unit is None else digest_of(trial.rollout, unit))
    if None in found and (tokens := said.header(ARM_HEADER)) is not None:
        known = carried(exposed.secret, tokens)
        pairs = zip(exposed.trials, found, strict=True)
        found = [known.get(trial.rollout) if digest is None else digest for trial, digest in pairs]
    return found


class Asking(Protocol):
    """Where a unit is named: a header, or a parameter; neither: each Request is one."""

    @property
    def header(self) -> str: ...
    @property
    def parameter(self) -> str: ...


def unit_of(asking: Asking, record_id: bytes, said: Said) -> bytes | None:
    """The unit of a Request; None: it doesn't say it."""
    if asking.header:
        value: Scalar | None = said.header(asking.header)
    elif asking.parameter:
        value = said.parameter(asking.parameter)
    else:
        return record_id
    return None if value is None or value == "" else str(value).encode("utf-8", "replace")

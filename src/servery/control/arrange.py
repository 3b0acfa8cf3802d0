"""Arrange: what of a wanted Snapshot is served at once, and which new Versions come as candidates. Pure.

A Model with a Rollout goes on with the Version that it has; the new one stands beside it, for a share of the units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from servery.terms.change import Candidate, Served, Snapshot, same
from servery.terms.manifest import Model
from servery.terms.rollouts import Phase, Rollout, RolloutPolicy, RolloutStep, left

replace = msgspec.structs.replace


class Arranged(msgspec.Struct, frozen=True):
    """What is to be published. `conflicts`: Models that are being rolled out to another Version than the wanted one, or as another
    declaration said.
    """

    snapshot: Snapshot
    conflicts: tuple[str, ...] = ()


def arrange(serving: Snapshot, wanted: Snapshot, new_id: Callable[[], str]) -> Arranged:
    """`wanted` as it is served first, where `serving` is what is served now."""
    conflicts: list[str] = []
    candidates: dict[str, Candidate] = {}
    for name, served in wanted.models.items():
        before, now = serving.models.get(name), serving.candidates.get(name)
        if before is None or same(before, served):
            continue  # a candidate that isn't wanted any more goes
        declared = wanted.manifest.models[name]
        if now is not None:
            candidates[name] = now
            if not same(now.served, served) or declared != now.model:
                conflicts.append(name)
        elif declared.rollout.kind != "at-once":
            first = stepped(declared.rollout, _replicas(serving.manifest.models[name], declared)).steps[0]
            copies = 1 if declared.rollout.kind == "rolling" else 0
            coming = replace(served, copies=copies)
            candidates[name] = Candidate(new_id(), declared, coming, first.share, declared.rollout.unit)
    manifest = replace(
        wanted.manifest,
        models={**wanted.manifest.models, **{name: serving.manifest.models[name] for name in candidates}},
    )
    models = {**wanted.models, **{name: serving.models[name] for name in candidates}}
    snapshot = replace(wanted, manifest=manifest, models=models, candidates=candidates)
    return Arranged(snapshot, tuple(conflicts))


def stepped(policy: RolloutPolicy, replicas: tuple[int, int] = (1, 1)) -> RolloutPolicy:
    """With the steps that a Rollout really has: while the candidate is checked, nobody is given it. `replicas` are the incumbent's and
    the candidate's.
    """
    most_s = policy.max_duration_s
    one = RolloutStep(1.0 if policy.kind == "blue-green" else policy.share, policy.min_requests, policy.bake_s, most_s)
    match policy.kind:
        case "blue-green" | "shadow":
            steps: tuple[RolloutStep, ...] = (one,)
        case "rolling":
            return replace(policy, steps=tuple(_rolling(one, *replicas)))
        case _:
            steps = policy.steps
    checked = (RolloutStep(0.0, 0, 0.0, most_s),) if policy.checks or policy.kind == "blue-green" else ()
    return replace(policy, steps=(*checked, *steps))


def _rolling(one: RolloutStep, old: int, new: int) -> Iterator[RolloutStep]:
    """Two steps for each Replica: until it is ready, it adds nothing; then one of the old ones goes."""
    share = 0.0
    for fresh in range(1, new + 1):
        yield replace(one, share=share, min_requests=0, bake_s=0.0)
        share = fresh / (fresh + left(old, fresh))
        if fresh < new:
            yield replace(one, share=share)


def refused(name: str, serving: Snapshot) -> str:
    """Why a Model can't be rolled out to another Version now."""
    now = serving.candidates[name].served.latest.name
    said = f"the model '{name}' is being rolled out to version {now}, as it was declared when that began"
    return f"{said}; promote or abort that first"


def adopted(snapshot: Snapshot, known: Mapping[str, Rollout], now_ns: int) -> list[Rollout]:
    """The Rollouts of candidates that nobody has begun to watch yet."""
    begun: list[Rollout] = []
    for name, one in snapshot.candidates.items():
        if one.rollout in known:
            continue
        replicas = _replicas(snapshot.manifest.models[name], one.model)
        policy, old, new = stepped(one.model.rollout, replicas), snapshot.models[name].latest, one.served.latest
        begun.append(
            Rollout(
                one.rollout, name, old.name, new.name, new.digest, policy, now_ns, since_ns=now_ns, replicas=replicas
            )
        )
    return begun


def _replicas(old: Model, new: Model) -> tuple[int, int]:
    return old.replicas or 1, new.replicas or 1


def agreeing(snapshot: Snapshot, rollouts: Mapping[str, Rollout]) -> Snapshot:
    """`snapshot` with the candidates that these Rollouts (by id) say: at their share, in their place, or gone. One of a Rollout
    that isn't known yet stays as it is.
    """
    of = {name: rollouts.get(one.rollout) for name, one in snapshot.candidates.items()}
    snapshot = snapshot.promoted([name for name, one in of.items() if one is not None and one.phase is Phase.PROMOTED])
    candidates: dict[str, Candidate] = {}
    models = dict(snapshot.models)
    for name, candidate in snapshot.candidates.items():
        rollout = of[name]
        if rollout is None:
            candidates[name] = candidate
            continue
        old, new = rollout.replicas if rollout.phase.over else rollout.running
        models[name] = _copied(models[name], old, rollout.replicas[0])
        if not rollout.phase.over:
            served = _copied(candidate.served, new, rollout.replicas[1])
            candidates[name] = replace(candidate, served=served, share=rollout.share, step=rollout.step)
    return replace(snapshot, candidates=candidates, models=models)


def _copied(served: Served, copies: int, declared: int) -> Served:
    return replace(served, copies=0 if copies == declared else copies)

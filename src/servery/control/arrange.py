"""Arrange: what of a wanted Snapshot is served at once, and which new Versions come as candidates. Pure.

A Model with a Rollout goes on with the Version that it has; the new one stands beside it, for a share of the units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from servery.terms.change import Candidate, Snapshot, same
from servery.terms.rollouts import Phase, Rollout

replace = msgspec.structs.replace


class Arranged(msgspec.Struct, frozen=True):
    """What is to be published. `conflicts`: Models that are being rolled out to another Version than the wanted one."""

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
            if not same(now.served, served):
                conflicts.append(name)
        elif declared.rollout.kind == "canary":
            share = declared.rollout.steps[0].share
            candidates[name] = Candidate(new_id(), declared, served, share, declared.rollout.unit)
    manifest = replace(
        wanted.manifest,
        models={**wanted.manifest.models, **{name: serving.manifest.models[name] for name in candidates}},
    )
    models = {**wanted.models, **{name: serving.models[name] for name in candidates}}
    snapshot = replace(wanted, manifest=manifest, models=models, candidates=candidates)
    return Arranged(snapshot, tuple(conflicts))


def refused(name: str, serving: Snapshot) -> str:
    """Why a Model can't be rolled out to another Version now."""
    now = serving.candidates[name].served.latest.name
    return f"the model '{name}' is being rolled out to version {now}; promote or abort that first"


def adopted(snapshot: Snapshot, known: Mapping[str, Rollout], now_ns: int) -> list[Rollout]:
    """The Rollouts of candidates that nobody has begun to watch yet."""
    return [
        Rollout(
            one.rollout,
            name,
            snapshot.models[name].latest.name,
            one.served.latest.name,
            one.served.latest.digest,
            one.model.rollout,
            began_ns=now_ns,
            since_ns=now_ns,
        )
        for name, one in snapshot.candidates.items()
        if one.rollout not in known
    ]


def agreeing(snapshot: Snapshot, rollouts: Mapping[str, Rollout]) -> Snapshot:
    """`snapshot` with the candidates that these Rollouts (by id) say: at their share, in their place, or gone. One of a Rollout
    that isn't known yet stays as it is.
    """
    of = {name: rollouts.get(one.rollout) for name, one in snapshot.candidates.items()}
    snapshot = snapshot.promoted([name for name, one in of.items() if one is not None and one.phase is Phase.PROMOTED])
    candidates: dict[str, Candidate] = {}
    for name, candidate in snapshot.candidates.items():
        rollout = of[name]
        if rollout is None:
            candidates[name] = candidate
        elif not rollout.phase.over:
            candidates[name] = replace(candidate, share=rollout.share, step=rollout.step)
    return replace(snapshot, candidates=candidates)

"""What of a wanted Snapshot is served at once, what stands beside it as a candidate, and what becomes of that."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec
import pytest

from servery.control.arrange import adopted, agreeing, arrange, refused
from servery.terms.change import Served, Snapshot, Version
from servery.terms.manifest import Manifest, Model
from servery.terms.rollouts import Phase, RolloutPolicy, RolloutStep, Unit

replace = msgspec.structs.replace
CANARY = RolloutPolicy("canary", Unit(header="x-user"), (RolloutStep(0.05), RolloutStep(0.5)))


def ids() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"r{next(numbers)}"


def snapshot(**digests: str) -> Snapshot:
    """A Model for each name, at the Version of this digest; those whose name begins with `c` are rolled out as a canary."""
    models = {name: Model("onnx", name, rollout=CANARY if name[0] == "c" else RolloutPolicy()) for name in digests}
    served = {name: Served((Version(name, "1", digest * 16, name),)) for name, digest in digests.items()}
    return Snapshot(1, Manifest(1, models), "", served)


def test_a_new_version_of_a_canary_stands_beside_the_old_one() -> None:
    serving, wanted = snapshot(churn="aaaa", plain="aaaa"), snapshot(churn="bbbb", plain="bbbb")
    arranged = arrange(serving, wanted, ids())
    now = arranged.snapshot
    assert now.models == {"churn": serving.models["churn"], "plain": wanted.models["plain"]}
    assert now.manifest.models["churn"] == serving.manifest.models["churn"]
    candidate = now.candidates["churn"]
    assert (candidate.rollout, candidate.served, candidate.share) == ("r1", wanted.models["churn"], 0.05)
    assert candidate.unit == Unit(header="x-user")


def test_what_is_served_first_or_stays_the_same_has_no_candidate() -> None:
    first = snapshot(churn="aaaa")
    assert arrange(Snapshot(0, Manifest(1), "", {}), first, ids()).snapshot == first
    assert arrange(first, first, ids()).snapshot == first
    assert arrange(snapshot(plain="aaaa"), first, ids()).snapshot == first


def test_the_same_change_again_goes_on_with_the_same_rollout() -> None:
    serving, wanted = snapshot(churn="aaaa"), snapshot(churn="bbbb")
    now = arrange(serving, wanted, ids()).snapshot
    grown = replace(now, candidates={"churn": replace(now.candidates["churn"], share=0.5)})
    again = arrange(grown, wanted, ids())
    assert again.snapshot.candidates == grown.candidates


def test_two_rollouts_of_one_model_are_refused_and_going_back_ends_the_first() -> None:
    serving, wanted = snapshot(churn="aaaa"), snapshot(churn="bbbb")
    now = arrange(serving, wanted, ids()).snapshot
    third = arrange(now, snapshot(churn="cccc"), ids())
    assert third.conflicts == ("churn",)
    assert "promote or abort that first" in refused("churn", now)
    back = arrange(now, serving, ids())
    assert (back.snapshot.candidates, back.conflicts) == ({}, ())


@pytest.mark.parametrize(
    ("phase", "share", "version"),
    [
        (Phase.RUNNING, 0.5, "aaaa"),
        (Phase.PAUSED, 0.5, "aaaa"),
        (Phase.HELD, 0.5, "aaaa"),
        (Phase.PROMOTED, None, "bbbb"),
        (Phase.ROLLED_BACK, None, "aaaa"),
        (Phase.ABORTED, None, "aaaa"),
    ],
)
def test_what_is_served_follows_the_rollout(phase: Phase, share: float | None, version: str) -> None:
    now = arrange(snapshot(churn="aaaa"), snapshot(churn="bbbb"), ids()).snapshot
    (rollout,) = adopted(now, {}, 7)
    assert (rollout.incumbent, rollout.candidate, rollout.began_ns) == ("aaaa" * 3, "bbbb" * 3, 7)
    assert adopted(now, {rollout.id: rollout}, 8) == []
    agreed = agreeing(now, {rollout.id: replace(rollout, phase=phase, step=1)})
    assert agreed.models["churn"].latest.digest == version * 16
    assert {name: one.share for name, one in agreed.candidates.items()} == ({} if share is None else {"churn": share})
    assert agreeing(agreed, {rollout.id: replace(rollout, phase=phase, step=1)}) == agreed


def test_a_candidate_that_has_just_come_stays_until_somebody_watches_it() -> None:
    now = arrange(snapshot(churn="aaaa"), snapshot(churn="bbbb"), ids()).snapshot
    assert agreeing(now, {}) == now


def test_another_declaration_of_a_model_that_is_being_rolled_out_is_refused() -> None:
    serving, wanted = snapshot(churn="aaaa"), snapshot(churn="bbbb")
    now = arrange(serving, wanted, ids()).snapshot
    milder = replace(wanted.manifest.models["churn"], rollout=replace(CANARY, false_rollbacks=0.5))
    changed = replace(wanted, manifest=replace(wanted.manifest, models={"churn": milder}))
    assert arrange(now, changed, ids()).conflicts == ("churn",)
    other = replace(wanted, manifest=replace(wanted.manifest, region="uae"))
    assert arrange(now, other, ids()).conflicts == ()  # what has nothing to do with it is no matter

"""Steady traffic through every kind of rollout, while the controller and a worker are killed: nobody is refused, each arm is the one
that the hash says, every Record is there, and the rollout that was under way goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from living import Answered, Living, until
from rolling_out import ASK, GOOD, apply, begun, promoted, records, rollout, write
from servery.routing.assignment import digest_of, place_of

CONNECTIONS = 4
ERRORS = {"guards": [{"metric": "errors", "margin": 0.2}]}
ONE = {"bake_s": 4, "min_requests": 200, "max_duration_s": 600, **ERRORS}
STEPS = [{"share": 0.2, "min_requests": 60, "bake_s": 2}, {"share": 0.6, "min_requests": 60, "bake_s": 3}]
CHECKS = [{"inputs": {"x": [[2.0]]}, "outputs": {"y": [[2.0]]}}]
KINDS: dict[str, dict[str, Any]] = {
    "canary": {"kind": "canary", "steps": STEPS, **ERRORS},
    "blue-green": {"kind": "blue-green", "checks": CHECKS, **ONE},
    "shadow": {"kind": "shadow", "share": 0.5, **ONE},
    "rolling": {"kind": "rolling", "checks": CHECKS, **ONE, "bake_s": 2},
}
SAME = GOOD.format(factor=1) + "# another version\n"


def under_way(server: Living) -> bool:
    """Whether it has come so far that somebody has to do with the candidate."""
    return bool(server.log_lines("epoch [3-9] is in effect")) or "of the units" in rollout(server, "status")


def through(folder: Path, kind: str, killed: bool, aborted: bool) -> None:
    replicas = 2 if kind == "rolling" else 1
    declared = dict(KINDS[kind])
    if aborted:  # it isn't over before that
        declared |= {"steps": [{"share": 0.3, "bake_s": 500}]} if kind == "canary" else {"bake_s": 500}
    with begun(folder, replicas=replicas, **declared) as server:
        client = server.client("r", ASK, CONNECTIONS)
        write(folder, 2, SAME)
        apply(server)
        until(lambda: under_way(server), said=server.written)
        if killed:
            killed_one = server.child("controller")
            killed_one.kill()
            until(lambda: server.find("controller") not in (None, killed_one), said=server.written)
            until(server.controlled, said=server.written)
            server.workers()[0].kill()
            until(lambda: len(server.workers()) == 2, said=server.written)
        if aborted:
            until(lambda: "of the units" in rollout(server, "status"), said=server.written)
            rollout(server, "abort", "m", "--reason", "second thoughts")
            count = len(client.served())
            until(lambda: len(client.served()) > count + 100, said=server.written)
        else:
            until(lambda: promoted(server), said=server.written)
        answers = client.stop()
        ended_ms = json.loads(rollout(server, "status", "--past", "-o", "json"))["rollouts"][0]["since_ns"] // 10**6
        assert server.stop() == 0
        check(server, answers, CONNECTIONS if killed else 0)
        if aborted:
            exposed = [one for one in records(server) for arm in one["arms"] if arm["arm"] in ("candidate", "mirrored")]
            assert max(int(one["id"][:12], 16) for one in exposed) - ended_ms < 1_000


def check(server: Living, answers: list[Answered], cut: int) -> None:
    """`cut` connections may have been with the worker that was killed."""
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) <= {200, 0}
    assert statuses[0] <= cut
    assert statuses[200] > 300
    made = records(server)
    by_id = {one["id"]: one for one in made}
    assert len(by_id) == len(made)
    assert {answer.record for answer in answers if answer.status} <= set(by_id)
    assert all(one["outcome"] == "served" or one["reason"] == "worker_lost" for one in made)
    assert len({arm["rollout"] for one in made for arm in one["arms"]}) == 1  # it went on, and didn't begin anew
    versions: dict[str, set[str]] = {}
    for one in made:
        for arm in one["arms"]:
            assert drawn(one, arm) is (arm["arm"] in ("candidate", "mirrored", "dropped")), one
            versions.setdefault(arm["arm"], set()).add(one["attempts"][0]["version"])
    assert all(len(names) == 1 for names in versions.values())
    assert versions.get("candidate", set()).isdisjoint(versions.get("incumbent", set()))


def drawn(record: Mapping[str, Any], arm: Mapping[str, Any]) -> bool:
    """Whether the hash of this request's id lies within the share that its arm's propensity says."""
    place = place_of(digest_of(arm["rollout"], bytes.fromhex(record["id"])))
    chosen = arm["arm"] in ("candidate", "mirrored", "dropped")
    share = arm["propensity"] if chosen else 1 - arm["propensity"]
    return place < share or share == 1


def test_a_rolling_update_goes_on_though_the_controller_and_a_worker_are_killed(tmp_path: Path) -> None:
    through(tmp_path, "rolling", killed=True, aborted=False)


@pytest.mark.proof
@pytest.mark.parametrize("aborted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_on_though_the_controller_and_a_worker_are_killed(
    tmp_path: Path, kind: str, aborted: bool
) -> None:
    through(tmp_path, kind, killed=True, aborted=aborted)

"""A new version is checked beside the old one, gets everybody in one swap, and gives everybody back in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from living import until
from rolling_out import ASK, GOOD, apply, begun, doubled, plan, promoted, records, rollout, write

SUM = {"inputs": {"x": [[3.0], [4.0]]}, "outputs": {"y": [[6.0], [8.0]]}, "within": 1e-6}
KIND: dict[str, Any] = {
    "kind": "blue-green",
    "checks": [SUM],
    "bake_s": 1,
    "min_requests": 100,
    "guards": [{"metric": "errors", "margin": 0.2}, {"metric": "latency", "margin": 1, "most_ms": 5_000}],
}


def test_what_passes_its_checks_gets_everybody_and_stays(tmp_path: Path) -> None:
    with begun(tmp_path, **KIND) as server:
        client = server.client("r", ASK)
        write(tmp_path, 2, GOOD.format(factor=2))
        assert "blue-green: beside the old one, 1 checks" in plan(server)
        apply(server)
        until(lambda: promoted(server), said=server.written)
        answers = client.stop()
        assert {answer.status for answer in answers} == {200}
        assert doubled(server)
        assert server.stop() == 0
    at_ms: dict[str, list[int]] = {}
    for one in records(server):
        for arm in one["arms"]:
            at_ms.setdefault(arm["arm"], []).append(int(one["id"][:12], 16))
    assert set(at_ms) == {"incumbent", "candidate"}
    assert max(at_ms["incumbent"]) - min(at_ms["candidate"]) < 1_000  # one swap, in each worker
    told = [one["attempts"][0].get("arm", "") for one in records(server)]
    assert {arm.partition("/")[2] for arm in told if arm} == {"0/incumbent", "1/candidate"}


def test_what_fails_a_check_is_exposed_to_nobody_and_held(tmp_path: Path) -> None:
    with begun(tmp_path, **KIND) as server:
        write(tmp_path, 2, GOOD.format(factor=3))
        apply(server)
        until(
            lambda: (
                "rolled back: check 0: y is [[9.0], [12.0]], not [[6.0], [8.0]]" in rollout(server, "status", "--past")
            )
        )
        assert not doubled(server)
        assert "check 0" in apply(server, code=1)


def test_the_old_one_is_back_within_a_second_of_an_abort(tmp_path: Path) -> None:
    with begun(tmp_path, **{**KIND, "bake_s": 600}) as server:
        client = server.client("r", ASK)
        write(tmp_path, 2, GOOD.format(factor=2))
        apply(server)
        until(lambda: doubled(server), said=server.written)
        assert "1 of the units" in rollout(server, "status")
        rollout(server, "abort", "m", "--reason", "second thoughts")
        assert not any(doubled(server) for _ in range(20))
        assert {answer.status for answer in client.stop()} == {200}
        aborted_ms = json.loads(rollout(server, "status", "--past", "-o", "json"))["rollouts"][0]["since_ns"] // 10**6
        assert server.stop() == 0
    candidates = [one for one in records(server) for arm in one["arms"] if arm["arm"] == "candidate"]
    assert max(int(one["id"][:12], 16) for one in candidates) - aborted_ms < 1_000

"""A new version is asked beside the old one, which answers everybody: late lines, agreement, guards, room, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from living import until
from rolling_out import ASK, BAD, GOOD, apply, begun, doubled, plan, promoted, records, rollout, write

KIND: dict[str, Any] = {
    "kind": "shadow",
    "share": 0.5,
    "bake_s": 1,
    "min_requests": 60,
    "guards": [{"metric": "errors", "margin": 0.2}, {"metric": "agreement", "margin": 0.2}],
}


def test_what_agrees_is_promoted_and_each_mirrored_call_is_joined_to_its_record(tmp_path: Path) -> None:
    kind: dict[str, Any] = {**KIND, "alike": {"within": 1e-3}}
    with begun(tmp_path, **kind) as server:
        client = server.client("r", ASK)
        write(tmp_path, 2, GOOD.format(factor=1.00001))
        assert "shadow: asked beside the old one for 0.5 of the units" in plan(server)
        apply(server)
        until(lambda: promoted(server), said=server.written)
        answers = client.stop()
        assert {answer.status for answer in answers} == {200}
        assert server.stop() == 0
    made = records(server)
    mirrored = {one["id"] for one in made for arm in one["arms"] if arm["arm"] == "mirrored"}
    late = server.records("SELECT lower(hex(record_id)), attempt, rows, alike FROM late")
    assert late
    assert {one[0] for one in late} <= mirrored
    assert len(late) == len({one[0] for one in late}) >= len(mirrored) - 8  # what was under way at the end
    attempts = [json.loads(one[1]) for one in late]
    assert {one["role"] for one in attempts} == {"shadow"}
    assert {one["arm"].partition("/")[2] for one in attempts} == {"0/candidate"}
    assert {(one[2], one[3]) for one in late} == {(1, 1)}
    answered = {one["attempts"][0]["version"] for one in made if one["arms"]}
    assert answered.isdisjoint({one["version"] for one in attempts})  # callers always have the old one


def test_what_answers_otherwise_or_fails_is_rolled_back_and_nobody_notices(tmp_path: Path) -> None:
    with begun(tmp_path, **KIND) as server:
        client = server.client("r", ASK)
        for number, code, why in ((2, GOOD.format(factor=2), "agreement is between"), (3, BAD, "errors is worse")):
            write(tmp_path, number, code)
            apply(server)
            until(lambda why=why: why in rollout(server, "status", "--past"), said=server.written)
            assert not doubled(server)
        assert {answer.status for answer in client.stop()} == {200}


def test_beyond_its_room_calls_are_dropped_and_counted_and_it_waits_for_a_person(tmp_path: Path) -> None:
    slow = (
        "import time\nclass Model:\n    def predict(self, x):\n        time.sleep(0.3)\n        return {'y': x['x']}\n"
    )
    tight: dict[str, Any] = {
        **KIND,
        "mirror": {"concurrency": 1},
        "min_requests": 1,
        "when_passed": "wait",
        "guards": KIND["guards"][1:],
    }
    with begun(tmp_path, **tight) as server:
        client = server.client("r", ASK)
        write(tmp_path, 2, slow)
        apply(server)
        until(lambda: "every guard passed; it waits" in rollout(server, "status"), said=server.written)
        answers = client.stop()
        assert {answer.status for answer in answers} == {200}
        took = sorted(answer.ended_ns - answer.sent_ns for answer in answers)
        assert took[len(took) // 2] < 250_000_000  # nobody waits for what takes 300 ms
        until(lambda: any(arm["arm"] == "dropped" for one in records(server) for arm in one["arms"]))
        assert {arm["arm"] for one in records(server) for arm in one["arms"]} >= {"mirrored", "dropped", "aside"}
        assert "promoted" in rollout(server, "promote", "m", "--reason", "it is well")

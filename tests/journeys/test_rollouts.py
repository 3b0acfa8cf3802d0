"""A new version of a model is brought out on live traffic: shares, arms, Records, and back by itself or by hand."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from pathlib import Path

from living import servery, until
from rolling_out import ASK, BAD, GOOD, apply, begun, declared, doubled, plan, promoted, records, rollout, write
from servery.cli.child import servery_command


def test_a_harmless_version_goes_from_share_to_share_and_is_promoted(tmp_path: Path) -> None:
    with begun(tmp_path) as server:
        client = server.client("r", ASK)
        write(tmp_path, 2, GOOD.format(factor=2))
        apply(server)
        until(lambda: promoted(server), said=server.written)
        until(lambda: doubled(server), said=server.written)
        answers = client.stop()
        assert {answer.status for answer in answers} == {200}
        assert server.stop() == 0
    made = records(server)
    assert {one["outcome"] for one in made} == {"served"}
    arms = Counter(one["attempts"][0].get("arm", "").partition("/")[2] for one in made)
    assert set(arms) == {"", "0/incumbent", "0/candidate", "1/incumbent", "1/candidate"}
    assert abs(arms["0/candidate"] / (arms["0/candidate"] + arms["0/incumbent"]) - 0.3) < 0.15
    for one in made:
        for arm in one["arms"]:
            assert one["attempts"][0]["arm"].endswith(arm["arm"])
            assert arm["propensity"] in (0.3, 0.7, 0.6, 0.4)


def test_one_that_fails_behind_a_fallback_is_rolled_back_and_nobody_notices(tmp_path: Path) -> None:
    write(tmp_path, 1, GOOD.format(factor=1), "backup")
    with begun(tmp_path, "backup") as server:
        client = server.client("r", ASK)
        write(tmp_path, 2, BAD)
        apply(server)
        until(
            lambda: server.log_lines("the rollout .* of m is rolled back: errors is worse by more"), said=server.written
        )
        until(lambda: server.log_lines("epoch 3 is in effect in 2 workers"), said=server.written)
        answers = client.stop()
        assert {answer.status for answer in answers} == {200}
        assert server.stop() == 0
    tried = [
        one for record in records(server) for one in record["attempts"] if one.get("arm", "").endswith("/candidate")
    ]
    assert {one["outcome"] for one in tried} == {"failed"}
    assert records(server)[-1]["attempts"][0]["version"] != tried[0]["version"]


def test_a_guard_on_an_output_watches_what_the_model_itself_says(tmp_path: Path) -> None:
    guard = {"metric": "output", "name": "y", "margin": 1, "bounds": [0, 10], "better": "lower"}
    with begun(tmp_path, guards=[guard]) as server:
        client = server.client("r", ASK)
        write(tmp_path, 2, GOOD.format(factor=2))
        apply(server)
        until(lambda: server.log_lines("the rollout .* of m is rolled back: output y is worse"), said=server.written)
        assert {answer.status for answer in client.stop()} == {200}


def test_a_unit_keeps_its_version_and_without_one_the_old_one_answers(tmp_path: Path) -> None:
    steps = [{"share": 0.5, "bake_s": 600}]
    with begun(tmp_path, unit={"header": "x-user"}, steps=steps) as server:
        write(tmp_path, 2, GOOD.format(factor=2))
        apply(server)
        first = {user: doubled(server, **{"x-user": user}) for user in map(str, range(30))}
        assert 5 < sum(first.values()) < 25
        tokens = {
            user: server.infer("r", ASK.encode(), headers={"x-user": user}).headers["servery-arm"] for user in first
        }
        assert {user: doubled(server, **{"servery-arm": token}) for user, token in tokens.items()} == first
        forged = next(iter(tokens.values()))[:-32] + "0" * 32
        assert server.infer("r", ASK.encode(), headers={"servery-arm": forged}).status == 400
        client = server.client("r", ASK)
        for worker in server.workers():
            worker.kill()
        until(lambda: len(server.log_lines("serving on .*: ready")) > 1, said=server.written)
        client.stop()
        until(lambda: {user: doubled(server, **{"x-user": user}) for user in first} == first, said=server.written)
        assert not any(doubled(server) for _ in range(20))


def test_by_hand_it_is_paused_resumed_and_aborted_and_then_held(tmp_path: Path) -> None:
    with begun(tmp_path, steps=[{"share": 0.5, "bake_s": 600}]) as server:
        assert "Nothing is being rolled out" in rollout(server, "status")
        write(tmp_path, 2, GOOD.format(factor=2))
        assert "canary: 0.5 of the units, and then all" in apply(server)
        assert "paused" in rollout(server, "pause", "m")  # as soon as it is served
        assert "step 1 of 1, 0.5 of the units" in rollout(server, "status")
        assert "running" in rollout(server, "resume", "m")
        assert "is being rolled out" in plan(server)
        write(tmp_path, 3, GOOD.format(factor=3))
        assert "promote or abort that first" in apply(server, code=1)
        (tmp_path / "m" / "3" / "model.py").unlink()
        (tmp_path / "m" / "3").rmdir()
        assert "paused" in rollout(server, "pause", "m", "--reason", "lunch")
        assert "so it can't pause" in rollout(server, "pause", "m", code=1)
        assert "running" in rollout(server, "resume", "m")
        assert "aborted: by" in rollout(server, "abort", "m", "--reason", "second thoughts")
        assert not any(doubled(server) for _ in range(20))
        assert "second thoughts" in apply(server, code=1)
        assert "is being rolled out" not in plan(server)
        apply(server, "--retry", "it was right after all")
        until(lambda: "step 1 of 1" in rollout(server, "status"), said=server.written)
        assert "promoted" in rollout(server, "promote", "m", "--reason", "now")
        assert all(doubled(server) for _ in range(20))
        assert rollout(server, "status", "--past").count("\n") == 2
        assert "no rollout of the model" in rollout(server, "abort", "m", code=1)


WAITS = """import pathlib, time
class Model:
    def __init__(self):
        while not pathlib.Path({path!r}).exists():
            time.sleep(0.05)
    def predict(self, x):
        return {{'y': x['x']}}
"""


def test_an_abort_is_in_effect_within_a_second_though_another_model_loads_for_long(tmp_path: Path) -> None:
    steps, loaded = [{"share": 0.5, "bake_s": 600}], tmp_path / "loaded"
    with begun(tmp_path, steps=steps) as server:
        write(tmp_path, 2, GOOD.format(factor=2))
        apply(server)
        assert any(doubled(server) for _ in range(40))
        write(tmp_path, 1, WAITS.format(path=str(loaded)), "slow")
        server.manifest.write_text(json.dumps({"servery": 1, **declared("slow", steps=steps)}))
        command = [*servery_command(), "apply", str(server.manifest), "--data", str(server.data), "--yes"]
        with subprocess.Popen(
            [*command, "--reason", "more"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as other:
            try:
                until(lambda: server.log_lines("applies .*servery.yaml")[1:], said=server.written)
                assert "aborted" in rollout(server, "abort", "m", "--reason", "a complaint")
                aborted_ns = time.time_ns()
                assert not any(doubled(server) for _ in range(40))
                assert other.poll() is None  # it is still at it
                said_ns = json.loads(rollout(server, "status", "--past", "-o", "json"))["rollouts"][0]["since_ns"]
                assert aborted_ns - said_ns < 2_000_000_000  # with the end of the command
            finally:
                loaded.touch()
            assert other.wait(40) == 0
        until(lambda: "is being rolled out" not in plan(server), said=server.written)
        assert not any(doubled(server) for _ in range(20))
        assert server.stop() == 0


def test_without_a_controller_the_old_version_answers_and_with_one_it_goes_on(tmp_path: Path) -> None:
    with begun(tmp_path, unit={"header": "x-user"}, steps=[{"share": 0.5, "bake_s": 600}]) as server:
        write(tmp_path, 2, GOOD.format(factor=2))
        apply(server)
        users = [str(number) for number in range(20)]
        first = [doubled(server, **{"x-user": user}) for user in users]
        assert any(first)
        server.child("controller").kill()
        assert [doubled(server, **{"x-user": user}) for user in users] == first
        status = ("rollout", "status", "--data", str(server.data))
        until(lambda: "step 1 of 1" in servery(*status).stdout, said=server.written)


def test_what_was_begun_goes_on_after_a_restart(tmp_path: Path) -> None:
    with begun(tmp_path, unit={"header": "x-user"}, steps=[{"share": 0.5, "bake_s": 600}]) as server:
        write(tmp_path, 2, GOOD.format(factor=2))
        apply(server)
        users = [str(number) for number in range(20)]
        first = [doubled(server, **{"x-user": user}) for user in users]
        until(lambda: "step 1 of 1" in rollout(server, "status"), said=server.written)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15  # nobody waits for who is still connected to a Replica
        server.begin().await_ready()
        until(lambda: len(server.log_lines("serving on .*: ready")) > 1, said=server.written)  # both workers
        until(lambda: [doubled(server, **{"x-user": user}) for user in users] == first, said=server.written)
        assert rollout(server, "status").count("step 1 of 1") == 1

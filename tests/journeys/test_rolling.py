"""One Replica after the other is replaced: the share of the new version grows with them, and callers notice nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from living import until
from rolling_out import ASK, BAD, GOOD, apply, begun, doubled, plan, promoted, records, rollout, write

KIND: dict[str, Any] = {
    "kind": "rolling",
    "bake_s": 1,
    "min_requests": 50,
    "guards": [{"metric": "errors", "margin": 0.2}],
}


def test_replicas_are_replaced_one_by_one(tmp_path: Path) -> None:
    with begun(tmp_path, replicas=3, **KIND) as server:
        client = server.client("r", ASK)
        assert len(server.replicas()) == 3
        write(tmp_path, 2, GOOD.format(factor=2))
        assert "rolling: in the place of one Replica after the other, of 3" in plan(server)
        apply(server)
        most = 0

        def done() -> bool:
            nonlocal most
            most = max(most, len(server.replicas()))
            return bool(promoted(server))

        until(done, said=server.written)
        assert {answer.status for answer in client.stop()} == {200}
        assert most == 4  # one more than are declared, at any time
        until(lambda: len(server.replicas()) == 3, said=server.written)
        assert doubled(server)
        assert server.stop() == 0
    made = records(server)
    arms = Counter(one["attempts"][0].get("arm", "").partition("/")[2] for one in made)
    assert {"1/candidate", "1/incumbent", "3/candidate", "3/incumbent"} <= set(arms)
    shares = [arms[f"{step}/candidate"] / (arms[f"{step}/candidate"] + arms[f"{step}/incumbent"]) for step in (1, 3)]
    assert abs(shares[0] - 1 / 3) < 0.15
    assert abs(shares[1] - 2 / 3) < 0.15


def test_one_that_is_worse_goes_and_all_old_replicas_are_there_again(tmp_path: Path) -> None:
    write(tmp_path, 1, GOOD.format(factor=1), "backup")
    with begun(tmp_path, "backup", replicas=2, **KIND) as server:
        client = server.client("r", ASK)
        write(tmp_path, 2, BAD)
        apply(server)
        until(lambda: "rolled back: errors is worse" in rollout(server, "status", "--past"), said=server.written)
        until(lambda: len(server.replicas()) == 3, said=server.written)  # two, and the fallback's
        assert {answer.status for answer in client.stop()} == {200}
        assert not doubled(server)

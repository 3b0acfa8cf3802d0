"""Thresholds that follow live traffic: real processes, a mix that shifts, and deaths of those who take part."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import artifacts
from fake_vendor import FakeVendor
from living import Living, apply, servery, until
from server import tensor

pytestmark = pytest.mark.timeout(180)

LOW, HIGH = 0.6, 0.8
PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}


class Traffic:
    """Asks one request after the other, and remembers who answered. Every few on a connection of its own, so that all
    workers get some.
    """

    def __init__(self, server: Living, seed: int) -> None:
        self.draw = random.Random(seed)
        self.tiers: list[str] = []
        self.ids: list[str] = []
        self._server = server

    def send(self, count: int, path: str, body: Callable[[], str]) -> None:
        for start in range(0, count, 10):
            connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
            for _ in range(min(10, count - start)):
                connection.request("POST", path, body())
                reply = connection.getresponse()
                said = reply.read()
                assert reply.status == 200, said
                self.tiers.append(reply.headers["servery-tier"])
                self.ids.append(reply.headers["servery-record-id"])
            connection.close()

    def share(self, tier: str, last: int) -> float:
        return self.tiers[-last:].count(tier) / last


def row(traffic: Traffic, easy: float) -> str:
    """A row whose confidence is what it holds: high for easy ones."""
    draw = traffic.draw
    sure = round(draw.betavariate(14, 2) if draw.random() < easy else draw.betavariate(6, 4), 6)
    return json.dumps({"inputs": [tensor("x", "FP32", [1, 2], [sure, 0.0])]})


def declared(confidence: float = 0.75) -> dict[str, Any]:
    accept = {"confidence": confidence, "range": [0.3, 0.95]}
    model = {"runtime": "onnx", "confidence": {"output": "y"}}
    return {
        "models": {"a": {**model, "artifact": "a.onnx"}, "b": {**model, "artifact": "b.onnx"}},
        "routes": {
            "r": {
                "policy": {"kind": "cascade"},
                "tiers": [
                    {"name": "cheap", "model": "a", "share": [LOW, HIGH], "accept": accept},
                    {"name": "dear", "model": "b"},
                ],
            }
        },
    }


def begin(folder: Path) -> Living:
    for name in ("a", "b"):
        artifacts.identity(folder / f"{name}.onnx", 2)
    return Living(folder, declared(), "--workers", "2")


def accepts(server: Living, ids: list[str]) -> list[float]:
    """What the cheap tier's confidence had to reach, of these Records in their order."""
    wanted = ", ".join(f"x'{one}'" for one in ids)
    query = f"SELECT lower(hex(id)), attempts FROM records WHERE id IN ({wanted})"
    found = {one: json.loads(attempts)[0]["accept"] for one, attempts in server.await_records(query, len(ids))}
    return [found[one] for one in ids]


def send_rows(traffic: Traffic, count: int, easy: float) -> None:
    traffic.send(count, "/v2/models/r/infer", lambda: row(traffic, easy))


def await_band(traffic: Traffic, last: int, send: Callable[[], None]) -> None:
    """Until the last ones' share is in its band; how many that takes depends on how many a machine sends between two looks."""

    def back() -> bool:
        send()
        return LOW < traffic.share("cheap", last) < HIGH

    until(back, said=lambda: traffic.share("cheap", last))


def shift(server: Living) -> Traffic:
    """An easy mix, then a hard one until the threshold has followed it."""
    until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
    traffic = Traffic(server, 1)
    send_rows(traffic, 300, 0.8)
    assert set(accepts(server, traffic.ids[-300:])) == {0.75}
    send_rows(traffic, 300, 0.1)
    until(lambda: server.log_lines("route r: the thresholds of cheap 0.75 → "), said=server.written)
    return traffic


def now(server: Living, *more: str) -> str:
    done = servery("route", "now", *more, "--data", str(server.data))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_shares_return_to_their_bands_and_records_say_by_which_threshold(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        traffic = shift(server)
        assert traffic.share("cheap", 200) < LOW - 0.05
        send_rows(traffic, 1400, 0.1)
        await_band(traffic, 1000, lambda: send_rows(traffic, 100, 0.1))
        assert max(accepts(server, traffic.ids[-300:])) < 0.75

        def told() -> bool:
            send_rows(traffic, 1, 0.1)
            return f" {accepts(server, traffic.ids[-1:])[0]:g}" in now(server, "r")

        until(told)
        assert servery("route", "now", "q", "--data", str(server.data)).returncode == 1


def test_thresholds_outlive_the_controller_and_reach_new_workers(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        traffic = shift(server)
        until((server.data / "bulletin.json").exists)
        for _ in range(3):
            server.child("controller").kill()
            send_rows(traffic, 20, 0.1)
        assert max(accepts(server, traffic.ids[-50:])) < 0.75
        for worker in server.workers():
            worker.kill()
            worker.wait(10)
        until(lambda: len(server.workers()) == 2)
        server.await_ready()
        send_rows(traffic, 60, 0.1)
        assert max(accepts(server, traffic.ids[-50:])) < 0.75

        await_band(traffic, 1000, lambda: send_rows(traffic, 100, 0.1))  # it goes on from there
        assert max(accepts(server, traffic.ids[-500:])) < 0.75
        assert server.stop() == 0
        assert server.log_lines("Traceback|error of ours") == []


def test_other_thresholds_are_those_that_are_declared(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        traffic = shift(server)
        send_rows(traffic, 10, 0.1)
        stands = accepts(server, traffic.ids[-1:])[0]
        assert stands < 0.75
        manifest = {"servery": 1, **declared(0.8), "server": {"in_process_ms": 60_000}}
        server.manifest.write_text(json.dumps(manifest))
        assert apply(server).returncode == 0
        send_rows(traffic, 10, 0.1)
        assert set(accepts(server, traffic.ids[-10:])) == {0.8}


def test_the_score_that_picks_a_prompts_tier_follows_too(tmp_path: Path) -> None:
    with FakeVendor(tmp_path) as vendor:
        model = {"runtime": "openai", "endpoint": vendor.url, "price": PRICE}
        policy = {"kind": "complexity", "thresholds": [0.5], "ranges": [[0.2, 0.9]]}
        tiers = [{"name": "cheap", "model": "own", "share": [LOW, HIGH]}, {"name": "dear", "model": "big"}]
        models = {"own": {**model, "serves": "own?tokens=3"}, "big": {**model, "serves": "big?tokens=3"}}
        manifest = {"models": models, "routes": {"chat": {"policy": policy, "tiers": tiers}}}
        with Living(tmp_path, manifest, "--workers", "2") as server:
            until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
            traffic = Traffic(server, 2)

            def prompt(length: float) -> str:
                text = "x" * max(round(traffic.draw.lognormvariate(length, 0.8)), 1)
                return json.dumps({"model": "chat", "messages": [{"role": "user", "content": text}]})

            def send(count: int, length: float) -> None:
                traffic.send(count, "/v1/chat/completions", lambda: prompt(length))

            send(250, 6.5)
            send(250, 8.0)
            until(lambda: server.log_lines("route chat: the thresholds of cheap 0.5 → "), said=server.written)
            send(1200, 8.0)
            await_band(traffic, 800, lambda: send(100, 8.0))

            def told() -> bool:
                send(1, 8.0)
                query = f"SELECT attempts FROM records WHERE id = x'{traffic.ids[-1]}'"
                ((attempts,),) = server.await_records(query, 1)
                (threshold,) = json.loads(attempts)[0]["choice"]["thresholds"]
                assert 0.5 < threshold <= 0.9
                return f"{threshold:g}" in now(server)

            until(told)

"""Killed processes: nothing older than 50 ms is lost, nothing is doubled, and callers find the door open again."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import artifacts
from living import PROMISE_NS, Answered, Client, Living, end, running, until
from server import tensor

CONNECTIONS = 4  # of a client
HELD_UP_NS = 2_000_000_000
QUICK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.5] * 30)]})


def declared(folder: Path, **records: Any) -> dict[str, Any]:
    artifacts.classifier(folder / "quick.onnx")
    model = {"runtime": "onnx", "artifact": "quick.onnx", "price": {"usd_per_hour": 1.5}}
    return {"models": {"quick": model}, "records": records}


def kill_worker(server: Living, client: Client, answers: int) -> int:
    """Kill -9 after so many more answers; the time just before, in steady ns."""
    now = time.perf_counter_ns()
    until(lambda: len(client.served(now)) >= answers, said=server.written)
    worker = server.child("worker")
    at = time.perf_counter_ns()
    worker.kill()
    return at


def check_ledger(server: Living, answers: list[Answered], kills: list[int]) -> None:
    """Every answer has one Record. What was answered in the last 50 ms before a kill may stand there as lost; what was
    cut does, with what it was asked. A machine that runs a test suite may hold a worker's disk up for longer, now and
    then.
    """
    found = server.ids()
    assert len(found) == len(set(found))
    told = [answer for answer in answers if answer.status]
    assert {answer.record for answer in told} <= set(found)
    assert len(told) > 100
    lost = {name for (name,) in server.records("SELECT lower(hex(id)) FROM records WHERE reason = 'worker_lost'")}
    late: set[int] = set()  # the kills that took with them what was older than 50 ms
    for one in told:
        if one.record in lost:
            # Between our clock's look and the kill itself answers may still have come.
            kill = next(at for at in kills if at > one.ended_ns - PROMISE_NS)
            assert kill - one.ended_ns < HELD_UP_NS
            late |= {kill} if kill - one.ended_ns > PROMISE_NS else set()
    assert len(late) <= len(kills) // 2
    assert len(found) <= len(told) + len(kills) * CONNECTIONS
    assert server.spool() == []


def check_door(answers: list[Answered]) -> None:
    """A kill breaks the connections that it meets; it never closes the door."""
    errors = {answer.record for answer in answers if answer.status == 0}
    assert errors <= {"ConnectionResetError", "RemoteDisconnected", "BrokenPipeError", "IncompleteRead"}
    assert {answer.status for answer in answers} <= {200, 0, 503}


def kill_again_and_again(folder: Path, times: int) -> None:
    with Living(folder, declared(folder)) as server:
        client = server.client("quick", QUICK)
        kills = [kill_worker(server, client, 60 + 37 * (kill % 5)) for kill in range(times)]
        now = time.perf_counter_ns()
        until(lambda: [one for one in client.served(now) if one.sent_ns > now], said=server.written)
        answers = client.stop()
        assert server.stop() == 0
        check_ledger(server, answers, kills)
        check_door(answers)
        assert len(server.log_lines("the worker-0 ended by signal 9; it starts again")) == times


@pytest.mark.parametrize("part", range(4))
def test_twenty_kills_of_the_worker_under_load(tmp_path: Path, part: int) -> None:
    """In four parts of five, because a worker that dies young again and again is started later and later."""
    kill_again_and_again(tmp_path, 5)


@pytest.mark.parametrize("killed", ["worker", "everything"])
def test_what_a_killed_worker_had_under_way_is_closed_once(tmp_path: Path, killed: str) -> None:
    artifacts.slow(tmp_path / "slow.onnx")
    slow = {"runtime": "onnx", "artifact": "slow.onnx", "price": {"usd_per_hour": 3600}}
    route = {"tiers": [{"model": "slow", "name": "only"}]}
    manifest = {"region": "eu", "models": {"slow": slow}, "routes": {"r": route}}
    body = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [20_000])]}).encode()
    with Living(tmp_path, manifest) as server:
        server.infer("slow", b"not json")
        server.await_stored(1)
        asking = [threading.Thread(target=ask, args=(server, "r", body, f"order-{at}")) for at in range(3)]
        for thread in asking:
            thread.start()
        server.await_busy()
        family = [server.child("worker"), server.child("shipper"), server.child("controller")]
        if killed == "everything":
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            for child in family[1:]:
                child.kill()
        family[0].kill()
        for thread in asking:
            thread.join(20)
        if killed == "everything":
            psutil.wait_procs(family, 10)
            server.begin().await_ready()
        query = (
            "SELECT request_id, tenant, route, outcome, reason, region, rows FROM records WHERE route = 'r' ORDER BY 1"
        )
        until(lambda: len(server.records(query)) == 3, said=server.written)
        assert server.stop() == 0
        assert server.records(query) == [
            (f"order-{at}", "local", "r", "failed", "worker_lost", "eu", 1) for at in range(3)
        ]
        found = server.records("SELECT attempts FROM records WHERE route = 'r'")
        for attempt in [json.loads(text)[0] for (text,) in found]:
            assert (attempt["tier"], attempt["model"], attempt["answered"]) == ("only", "slow", 0)
            assert attempt["reason"] == "worker_lost"
            assert attempt["estimated"]


def ask(server: Living, name: str, body: bytes, request_id: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        server.ask("POST", f"/v2/models/{name}/infer", body, {"x-request-id": request_id})


@pytest.mark.proof
@pytest.mark.timeout(400)
def test_twenty_kills_in_a_row(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 20)


def test_a_worker_that_dies_young_is_started_later_and_later(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path)) as server:
        for pause in ("0.1", "0.2", "0.4"):
            server.child("worker").kill()
            until(lambda pause=pause: server.log_lines(f"starts again in {pause} s"), said=server.written)
        server.await_ready()
        assert len(server.log_lines("starts again")) == 3
        assert server.stop() == 0
        assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []


def test_a_killed_shipper_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path)) as server:
        client = server.client("quick", QUICK)
        for _ in range(4):
            now = time.perf_counter_ns()
            until(lambda now=now: len(client.served(now)) >= 150, said=server.written)
            server.child("shipper").kill()
        answers = client.stop()
        server.child("shipper")
        assert server.stop() == 0
        assert {answer.status for answer in answers} == {200}
        check_ledger(server, answers, [])
        assert len(server.log_lines("the shipper ended by signal 9")) == 4


def test_a_stop_while_the_shipper_is_dead_still_ships_everything(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path)) as server:
        for _ in range(3):  # each time the supervisor waits longer until it starts the next
            server.child("shipper").kill()
            until(lambda: server.find("shipper") is None, said=server.written)
        done = [server.infer("quick", QUICK.encode()).headers["servery-record-id"] for _ in range(20)]
        assert server.stop() == 0
        assert set(done) <= set(server.ids())
        assert server.spool() == []


def test_a_killed_supervisor_leaves_a_folder_that_can_be_taken_again(tmp_path: Path) -> None:
    server = Living(tmp_path, declared(tmp_path))
    with running(server):
        server.begin().await_ready()
        client = server.client("quick", QUICK)
        until(lambda: len(client.served()) > 300)
        children = [server.child("worker"), server.child("shipper")]
        server.signal(signal.SIGKILL)
        server.wait()
        end(children)
        server.begin().await_ready()
        now = time.perf_counter_ns()
        until(lambda: len(client.served(now)) > 100, said=server.written)
        answers = client.stop()
        assert server.stop() == 0
        check_ledger(server, answers, [])


def test_sigterm_to_the_whole_group_drops_nothing(tmp_path: Path) -> None:
    """As service managers stop a unit: every process gets the signal at once."""
    artifacts.slow(tmp_path / "slow.onnx")
    models = {"slow": {"runtime": "onnx", "artifact": "slow.onnx"}}
    with Living(tmp_path, {"models": models}) as server:
        client = server.client("slow", json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [300])]}), 3)
        until(lambda: len(client.answers()) >= 3)
        server.await_busy()
        family = [server.child("worker"), server.child("shipper"), psutil.Process(server.process.pid)]  # pyright: ignore[reportOptionalMemberAccess]
        for member in family:
            member.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        answers = client.stop()
        told = [answer.record for answer in answers if answer.status]
        # A connection that was idle may be closed under a caller; what was begun is answered, and that has its Record.
        assert sorted(told) == sorted(record.lower() for record in server.ids())
        assert server.spool() == []


def test_stopped_while_a_child_waits_to_start_again(tmp_path: Path) -> None:
    with Living(tmp_path, declared(tmp_path)) as server:
        for pause in ("0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "6.4", "10.0"):
            server.child("worker").kill()
            until(lambda pause=pause: server.log_lines(f"starts again in {pause} s"), said=server.written)
        began = time.monotonic()
        server.signal()
        assert server.wait() == 0
        assert time.monotonic() - began < 8

"""What operators and files do at the same time, or in the middle of something else: told apart, and nobody is harmed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import artifacts
from calling import ask_rows, call, channel_to
from living import Asked, Living, running, until
from server import Reply, tensor

ASK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]})
SLOW = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [700.0])]})
FIRST, SECOND = [0.9, 0.1], [0.2, 0.8]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Living]:
    artifacts.constant(tmp_path / "m" / "1" / "model.onnx", FIRST)
    artifacts.constant(tmp_path / "n.onnx", SECOND)
    artifacts.slow(tmp_path / "slow.onnx")
    models: dict[str, Any] = {"m": {"runtime": "onnx", "artifact": "m", "versions": {"latest": 1}}}
    models |= {name: {"runtime": "onnx", "artifact": f"{name}.onnx"} for name in ("n", "slow")}
    both = [{"name": "first", "model": "m"}, {"name": "second", "model": "n"}]
    routes = {"only": {"tiers": both[:1]}, "both": {"tiers": both}}
    with Living(tmp_path, {"models": models, "routes": routes}, "--grpc-port", "0") as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.written()
        ids = server.ids()
        assert len(ids) == len(set(ids))


def change(server: Living, verb: str, model: str = "m", **parameters: Any) -> Reply:
    body = json.dumps({"parameters": parameters} if parameters else {})
    return server.ask("POST", f"/v2/repository/models/{model}/{verb}", body)


def epochs(server: Living) -> int:
    return len(server.log_lines(r"controller .*epoch \d+ is in effect"))


def sure_of(server: Living) -> list[float]:
    reply = server.infer("m", ASK.encode())
    assert reply.status == 200, reply
    return [round(p, 3) for p in reply.json["outputs"][1]["data"]]


def test_loads_and_unloads_of_one_model_under_traffic(server: Living) -> None:
    others, mine = server.client("n", ASK, 2), server.client("m", ASK, 2)
    until(lambda: mine.served() and others.served())
    verbs = ("load", "unload") * 10
    with ThreadPoolExecutor(4) as together:
        replies = list(together.map(change, repeat(server), verbs))
    assert [reply.status for reply in replies] == [200] * len(verbs)
    assert change(server, "load").status == 200
    assert sure_of(server) == FIRST
    answers = {"m": mine.stop(), "n": others.stop()}
    assert {answer.status for answer in answers["n"]} == {200}  # nobody else notices
    assert {answer.status for answer in answers["m"]} <= {200, 503}
    assert server.stop() == 0
    assert {answer.record for all_of in answers.values() for answer in all_of} <= set(server.ids())
    why = "SELECT DISTINCT reason FROM records WHERE outcome <> 'served'"
    assert {row[0] for row in server.records(why)} <= {"model_unavailable", "warming"}


def test_a_version_that_is_loaded_many_times_at_once_is_loaded_once(server: Living) -> None:
    artifacts.constant(server.folder / "m" / "2" / "model.onnx", SECOND)
    before = epochs(server)
    with ThreadPoolExecutor(8) as together:
        replies = list(together.map(change, repeat(server, 8), repeat("load")))
    assert [reply.status for reply in replies] == [200] * 8
    assert sure_of(server) == SECOND
    assert epochs(server) == before + 1


def test_what_is_under_way_ends_though_its_model_is_unloaded(server: Living) -> None:
    asked = Asked(server, "slow", SLOW)
    server.await_busy()
    assert change(server, "unload", "slow").status == 200
    assert server.infer("slow", SLOW.encode()).status == 503
    assert asked.status() == 200


def test_an_artifact_that_changes_while_it_is_loaded(server: Living) -> None:
    """Whole or refused: what answers is one of the files that were there, never a mixture of them."""
    file = server.folder / "m" / "1" / "model.onnx"
    contents = [
        artifacts.constant(server.folder / f"{at}.onnx", sure).read_bytes() for at, sure in enumerate((FIRST, SECOND))
    ]
    stop = threading.Event()

    def write() -> None:
        at = 0
        while not stop.wait(0.003):
            at += 1
            content = contents[at % 2]
            file.write_bytes(
                content if at % 3 else content[: len(content) // 2]
            )  # not at one stroke, and torn at times
            if at % 5 == 0:
                artifacts.constant(server.folder / "m" / "2" / "model.onnx", SECOND)
            if at % 5 == 2:
                (server.folder / "m" / "2" / "model.onnx").unlink(missing_ok=True)
                (server.folder / "m" / "2").rmdir() if (server.folder / "m" / "2").exists() else None

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for _ in range(12):
            reply = change(server, "load")
            assert reply.status in (200, 400), reply
            if reply.status == 400:
                assert "what was served goes on" in reply.error
            assert sure_of(server) in (FIRST, SECOND)
    finally:
        stop.set()
        writing.join()
    file.write_bytes(contents[1])
    assert change(server, "load").status == 200
    assert sure_of(server) == SECOND


def test_a_route_whose_tier_is_unloaded(server: Living) -> None:
    """Models don't load one another, so none is unloaded with another: the next tier answers, or nobody does."""
    assert change(server, "unload", unload_dependents=True).status == 200
    reply = server.infer("both", ASK.encode())
    assert (reply.status, reply.headers["servery-model"]) == (200, "n")
    reply = server.infer("only", ASK.encode())
    assert reply.status == 503
    assert "it was unloaded" in reply.error
    assert "retry-after" in reply.headers
    assert server.infer("n", ASK.encode()).status == 200
    with channel_to(server) as channel:
        ended = call(channel, "ModelInfer", ask_rows("only", np.zeros((1, 30), np.float32)))
        assert (ended.code, "it was unloaded" in ended.message) == ("UNAVAILABLE", True)
    assert change(server, "load").status == 200
    assert server.infer("only", ASK.encode()).status == 200


@pytest.mark.parametrize("name", ["../m", "..%2f..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "m%2f1", "%00"])
def test_a_name_is_no_path(server: Living, name: str) -> None:
    for verb in ("load", "unload"):
        reply = server.ask("POST", f"/v2/repository/models/{name}/{verb}", b"{}")
        assert reply.status == 404, reply
        assert reply.error
    for rest in ("", "/config", "/stats", "/ready"):
        assert server.get(f"/v2/models/{name}{rest}").status == 404
    assert sure_of(server) == FIRST


def test_a_stop_while_a_model_is_loaded(tmp_path: Path) -> None:
    artifacts.constant(tmp_path / "m" / "1" / "model.onnx", FIRST)
    server = Living(tmp_path, {"models": {"m": {"runtime": "onnx", "artifact": "m", "versions": {"latest": 1}}}})
    with running(server):
        server.begin().await_ready()
        artifacts.long_to_load(tmp_path / "m" / "2" / "model.onnx")
        ended: list[Reply | OSError] = []
        loading = in_thread(lambda: change(server, "load"), ended)
        until(lambda: server.log_lines("loads m"))
        assert sure_of(server) == FIRST  # the old one answers meanwhile
        server.signal()
        assert server.wait(30) == 0
        loading.join(10)
        assert len(ended) == 1
        assert isinstance(ended[0], OSError) or ended[0].status in (200, 503), ended
        assert "Traceback" not in server.written()
        server.begin().await_ready()
        assert server.stop() == 0


def in_thread(work: Callable[[], Reply], ended: list[Reply | OSError]) -> threading.Thread:
    def run() -> None:
        try:
            ended.append(work())
        except OSError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread

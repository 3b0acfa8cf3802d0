"""A change while requests are under way: whole or not at all, and nobody is dropped."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import artifacts
import living
from living import Living, servery, until
from server import read_all, split_replies, tensor
from servery.host.channel import connect_to

ASK = json.dumps({"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]})
SURE = {1: [0.9, 0.1], 2: [0.2, 0.8]}


def begin(folder: Path, **server: Any) -> Living:
    for number, sure in SURE.items():
        artifacts.constant(folder / "m" / str(number) / "model.onnx", sure)
    artifacts.slow(folder / "slow.onnx")
    return Living(folder, declared({"only": [1]}, **server))


def declared(versions: Mapping[str, Any], **server: Any) -> dict[str, Any]:
    model = {"runtime": "onnx", "artifact": "m", "versions": versions}
    return {"models": {"m": model, "slow": {"runtime": "onnx", "artifact": "slow.onnx"}}, "server": server}


def write(server: Living, manifest: Mapping[str, Any]) -> None:
    settings = {"in_process_ms": 60_000, **manifest.get("server", {})}
    server.manifest.write_text(json.dumps({"servery": 1, **manifest, "server": settings}))


def apply(server: Living, code: int = 0) -> str:
    done = living.apply(server)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def version_of(server: Living) -> str:
    return server.infer("m", ASK.encode()).json["model_version"]


def test_traffic_goes_on_through_changes(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        client = server.client("m", ASK)
        until(lambda: len(client.served()) > 50)
        for epoch, number in ((2, 2), (3, 1), (4, 2)):
            write(server, declared({"only": [number]}))
            assert f"epoch {epoch} is in effect in 1 worker" in apply(server)
            assert version_of(server) == str(number)  # the answer came after the change was in effect
            served = len(client.served())
            until(lambda served=served: len(client.served()) > served + 50)
        answers = client.stop()
        assert {answer.status for answer in answers} == {200}
        assert server.stop() == 0
        ids = server.ids()
        assert len(ids) == len(set(ids))
        assert {answer.record for answer in answers} <= set(ids)


def test_what_is_under_way_ends_by_the_version_that_it_began_with(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        slow = json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [1500.0])]}).encode()
        replies: list[int] = []
        asking = threading.Thread(target=lambda: replies.append(server.infer("slow", slow).status))
        asking.start()
        server.await_busy()
        manifest = declared({"only": [2]})
        del manifest["models"]["slow"]
        write(server, manifest)
        apply(server)
        assert server.infer("slow", slow).status == 404
        assert not replies
        asking.join(20)
        assert replies == [200]


def test_what_is_wrong_changes_nothing(tmp_path: Path) -> None:
    with begin(tmp_path, http_port=8000) as server:
        write(server, declared({"only": [3]}))
        assert "the model 'm' has no version 3 → there is 1, 2" in apply(server, 1)
        artifacts.unknown_operator(tmp_path / "m" / "3" / "model.onnx")  # can be read, can't be loaded
        said = apply(server, 1)
        assert "m 3: onnxruntime can't load model.onnx" in said
        assert "what was served goes on" in said
        write(server, declared({"only": [1]}, http_port=9000))
        assert "it is 8000 now and can't become 9000 while Servery runs" in apply(server, 1)
        assert version_of(server) == "1"
        write(server, declared({"only": [2]}, http_port=8000))
        apply(server)
        assert version_of(server) == "2"


def test_a_hangup_reads_the_manifest_again(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        write(server, declared({"only": [2]}))
        server.signal(signal.SIGHUP)
        until(lambda: version_of(server) == "2")
        write(server, {"models": 1})
        server.signal(signal.SIGHUP)
        until(lambda: server.log_lines(r"models: can't be the number 1"))
        assert version_of(server) == "2"


def test_without_a_controller_serving_goes_on(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        server.child("controller").send_signal(signal.SIGSTOP)
        assert version_of(server) == "1"
        server.child("controller").kill()
        assert version_of(server) == "1"
        write(server, declared({"only": [2]}))
        until(lambda: living.apply(server).returncode == 0)
        assert version_of(server) == "2"


def test_a_worker_that_starts_again_takes_what_is_in_effect(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        write(server, declared({"only": [2]}))
        apply(server)
        worker = server.child("worker")
        worker.kill()
        worker.wait(10)
        server.await_ready()
        assert version_of(server) == "2"


def admin(server: Living, path: str, method: str = "POST") -> tuple[int, Any]:
    until(server.controlled, said=server.written)
    with contextlib.closing(connect_to(server.data / "run" / "admin.sock")) as line:
        line.settimeout(20)
        line.sendall(f"{method} /servery/admin/v1/{path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        [reply] = split_replies(read_all(line))
    return reply.status, reply.json


def test_a_model_is_unloaded_and_loaded_again(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        status, change = admin(server, "models/m/unload")
        assert (status, change["epoch"], change["workers"]) == (200, 2, 1)
        gone = server.infer("m", ASK.encode())
        assert (gone.status, gone.error) == (
            503,
            "'m' can't answer: m: it was unloaded; load it to have it answer again",
        )
        assert "retry-after" in gone.headers
        assert server.infer("n", ASK.encode()).status == 404  # unknown is something else
        assert server.get("/v2/models/m/ready").status == 503
        assert server.status_of("ready") == 200  # the others serve
        artifacts.constant(tmp_path / "m" / "1" / "model.onnx", SURE[2])  # another file under the same number
        assert admin(server, "models/m/load")[0] == 200
        assert server.infer("m", ASK.encode()).json["outputs"][0]["data"] == [1]
        artifacts.unknown_operator(tmp_path / "m" / "1" / "model.onnx")
        status, said = admin(server, "models/m/load")
        assert (status, said["reason"]) == (400, "change_refused")
        assert "what was served goes on" in said["error"]
        assert server.infer("m", ASK.encode()).json["outputs"][0]["data"] == [1]
        assert admin(server, "models/nobody/load")[0] == 404
        status, now = admin(server, "status", "GET")
        assert status == 200
        assert [(one["model"], one["standing"]) for one in now["versions"]] == [("m", "loaded"), ("slow", "loaded")]


def test_apply_says_where_nobody_listens(tmp_path: Path) -> None:
    done = servery("apply", str(tmp_path / "servery.yaml"), "--yes", "--reason", "a test")
    assert done.returncode == 1
    assert f"no Servery answers for the data folder {tmp_path / '.servery'}" in done.stderr
    with begin(tmp_path) as server:
        until(server.controlled, said=server.written)
        assert (server.data / "run" / "admin.sock").stat().st_mode & 0o777 == 0o600

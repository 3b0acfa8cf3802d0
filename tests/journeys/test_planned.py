"""`servery plan` and what `servery apply` asks before it does anything."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
from pathlib import Path
from typing import Any

import artifacts
import living
from living import Living, servery, until
from servery.cli.child import servery_command
from servery.host.users import own_user
from servery.store.state import State
from servery.terms.audit import Draft
from servery.terms.history import Held

SURE = {1: [0.9, 0.1], 2: [0.2, 0.8]}


def declared(number: int) -> dict[str, Any]:
    return {"models": {"m": {"runtime": "onnx", "artifact": "m", "versions": {"only": [number]}}}}


def begin(folder: Path) -> Living:
    for number, sure in SURE.items():
        artifacts.constant(folder / "m" / str(number) / "model.onnx", sure)
    return Living(folder, declared(1))


def write(server: Living, number: int, **more: Any) -> None:
    manifest = {"servery": 1, **declared(number), "server": {"in_process_ms": 60_000, **more}}
    server.manifest.write_text(json.dumps(manifest))


def plan(server: Living, *options: str, code: int = 0) -> str:
    done = servery("plan", server.manifest, "--data", server.data, *options)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def state(server: Living) -> State:
    return State(server.data / "state.db", server.data / "audit.heads", create=True)


def typed(server: Living, answer: str, *options: str) -> tuple[int, str]:
    """`servery apply` in a terminal, where somebody types `answer`."""
    ours, theirs = pty.openpty()
    command = [*servery_command(), "apply", str(server.manifest), "--data", str(server.data), *options]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"})
    os.close(theirs)
    said: list[bytes] = []

    def listen() -> None:
        try:
            while part := os.read(ours, 4096):
                said.append(part)
        except OSError:  # the terminal is gone with the process
            return

    listener = threading.Thread(target=listen)
    listener.start()
    until(lambda: b"Do this?" in b"".join(said) or process.poll() is not None)
    os.write(ours, answer.encode() + b"\n")
    code = process.wait(30)
    listener.join(5)
    os.close(ours)
    return code, b"".join(said).decode()


def test_without_a_server_it_is_compared_with_what_was_served_last(tmp_path: Path) -> None:
    server = begin(tmp_path)
    said = plan(server, "--detailed-exitcode", code=2)
    assert "+ models.m" in said
    assert "No Servery ever ran on" in said
    with server:
        assert "Nothing to change: what is declared is served (revision 1, epoch 1)" in plan(
            server, "--detailed-exitcode"
        )
        assert server.stop() == 0
    assert "compared with what it served last" in plan(server)
    write(server, 2)
    found = json.loads(servery("plan", server.manifest, "--data", server.data, "-o", "json").stdout)
    [step] = found["plan"]["steps"]
    assert (step["act"], step["where"], found["plan"]["revision"]) == ("replace", "models.m", 1)
    server.manifest.write_text("servery: 2")
    assert "the manifest has problems" in plan(server, code=1)
    done = servery("plan")
    assert (done.returncode, "name the manifest" in done.stderr) == (1, True)


def test_apply_asks_and_what_is_answered_is_the_reason(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        write(server, 2)
        done = servery("apply", server.manifest, "--data", server.data, stdin=subprocess.DEVNULL)
        assert done.returncode == 1
        assert "± models.m" in done.stdout
        assert "with --yes and --reason TEXT it is done without asking" in done.stderr
        done = servery("apply", server.manifest, "--data", server.data, "--yes")
        assert (done.returncode, "say why with --reason TEXT" in done.stderr) == (1, True)
        code, said = typed(server, "")
        assert (code, "nothing was changed" in said) == (1, True), said
        code, said = typed(server, "n", "--reason", "no")
        assert (code, "nothing was changed" in said) == (1, True), said
        assert [one.number for one in state(server).revisions()] == [1]
        code, said = typed(server, "the model of May")
        assert (code, "epoch 2 is in effect in 1 worker (revision 2, audit 2:" in said) == (0, True), said
        write(server, 1)
        assert typed(server, "y", "--reason", "May was worse")[0] == 0
        assert [(one.why, one.who) for one in state(server).revisions()[:2]] == [
            ("May was worse", own_user()),
            ("the model of May", own_user()),
        ]
        done = living.apply(server)
        assert (done.returncode, "Nothing to change" in done.stdout) == (0, True)
        assert state(server).revisions()[0].number == 3


def test_what_only_a_new_start_can_do_is_told_and_refused(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        write(server, 1, http_port=9000)
        said = plan(server, code=1)
        assert "! server.http_port" in said
        assert "it is 8000 now and can't become 9000 while Servery runs" in said
        assert "can't become 9000" in living.apply(server).stderr


def test_a_version_that_is_held_is_not_brought_back_by_accident(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        write(server, 2)
        assert living.apply(server).returncode == 0
        bad = state(server)
        [version] = bad.revisions(1)
        assert version.number == 2
        found = bad.revision(2)
        assert found is not None
        digest = found[2].models["m"].latest.digest
        write(server, 1)
        assert living.apply(server).returncode == 0
        bad.hold(
            Held("m", digest, 1_700_000_000 * 10**9, "rollout m", "errors: 3 % more"),
            Draft(5, "rollout m", "", "hold", "m"),
        )
        write(server, 2)
        said = plan(server, "--detailed-exitcode", code=2)
        assert f"models.m: version {digest[:12]}, since 2023-11-14 22:13:20Z by rollout m: errors: 3 % more" in said
        done = living.apply(server)
        assert (done.returncode, "to try it again, say why with --retry" in done.stderr) == (1, True)
        refused = server.ask("POST", "/v2/repository/models/m/load")
        assert refused.status == 200  # of what is served, not of what the file says
        done = living.apply(server, "--retry", "the cause was found")
        assert done.returncode == 0, done.stderr
        assert state(server).held() == []
        *_, last = state(server).entries()
        assert (last.why, '"retry":"the cause was found"' in last.evidence) == ("a test", True)


def test_a_held_version_is_not_loaded_either(tmp_path: Path) -> None:
    artifacts.constant(tmp_path / "m.onnx", SURE[1])
    with Living(tmp_path, {"models": {"m": {"runtime": "onnx", "artifact": "m.onnx"}}}) as server:
        artifacts.constant(tmp_path / "m.onnx", SURE[2])
        found = json.loads(servery("plan", server.manifest, "--data", server.data, "-o", "json").stdout)
        after = found["plan"]["steps"][0]["differences"][0]["after"]
        digest = json.loads(servery("check", server.manifest, "-o", "json").stdout)["models"][0]["version"]
        assert digest.startswith(after)
        state(server).hold(Held("m", digest, 1, "rollout m", "worse"), Draft(1, "rollout m", "worse", "hold", "m"))
        reply = server.ask("POST", "/v2/repository/models/m/load")
        assert (reply.status, "only `servery apply --retry REASON` brings it back" in reply.error) == (409, True)


def test_what_callers_and_signals_change_is_remembered_too(tmp_path: Path) -> None:
    with begin(tmp_path) as server:
        assert server.ask("POST", "/v2/repository/models/m/unload").status == 200
        assert "it is declared, but was unloaded by hand" in plan(server)
        assert server.ask("POST", "/v2/repository/models/m/load").status == 200
        write(server, 2)
        server.signal(1)
        until(lambda: state(server).revisions()[0].number == 2, said=server.written)
        kept = [(entry.act, entry.who, entry.subject) for entry in state(server).entries()]
        assert kept == [
            ("up", own_user(), ""),
            ("unload", "local", "m"),
            ("load", "local", "m"),
            ("apply", "SIGHUP", ""),
        ]

"""The admin API over TCP: every command with `--server`, who may do what, and who is sent away."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import living
from asking_admin import KEYS, PREFIX, Administered, keys
from living import until
from server import tensor
from servery.cli.child import servery_command
from servery.web.gate import MOST_FAILED
from servery.web.openapi import describe
from servery.web.operations import OPERATIONS

ROW = {"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administered]:
    with Administered(tmp_path_factory.mktemp("admin")) as running:
        yield running
        assert running.stop() == 0
        for path in [*(one for one in running.data.rglob("*") if one.is_file()), running.folder / "log.txt"]:
            content = path.read_bytes()
            assert not [name for name, key in KEYS.items() if key.encode() in content], path
            assert b"sv_guessed" not in content, path


# Fewer of them fail for their key, in three tries each, than an address may.
STRANGE: list[tuple[str, dict[str, str], int, str]] = [
    ("", {}, 401, "send `Authorization: Bearer KEY`"),
    ("sv_guessed", {}, 401, "servery key new --admin viewer"),
    ("tenant", {}, 401, "no key of the admin API"),
    ("", {"x-api-key": KEYS["operator"]}, 401, "no key was sent"),
    ("", {"authorization": f"Basic {KEYS['operator']}"}, 401, "no key was sent"),
    ("expired", {}, 401, "'the-expired' has expired"),
    ("operator", {"host": "evil.example"}, 403, "`admin.names`"),
    ("operator", {"host": "localhost.evil.example:8002"}, 403, "`admin.names`"),
    ("operator", {"host": "[::1"}, 403, "`admin.names`"),
    ("operator", {"origin": "https://evil.example"}, 403, "other sites"),
    ("operator", {"origin": "null"}, 403, "other sites"),
    ("operator", {"sec-fetch-site": "cross-site"}, 403, "other sites"),
    ("operator", {"sec-fetch-site": "same-site"}, 403, "other sites"),
]


@pytest.mark.parametrize(("key", "headers", "status", "said"), STRANGE)
def test_strangers_are_told_what_to_do(
    server: Administered, key: str, headers: dict[str, str], status: int, said: str
) -> None:
    for path in ("/status", "/openapi.json", "/nothing"):
        reply = server.ask_admin(PREFIX + path, key, headers=headers)
        assert (reply.status, said in reply.json["error"]) == (status, True), reply
        assert not [one for one in reply.headers if one.startswith("access-control")]


def audited(server: Administered) -> list[dict[str, Any]]:
    lines = server.command("audit", "show", "-o", "json", key="viewer").splitlines()
    return [json.loads(line) for line in lines]


def test_every_command_works_from_elsewhere_and_a_viewer_changes_nothing(server: Administered) -> None:
    assert "answers by it" in server.command("status", key="viewer")
    server.write(2)
    assert "± models.m" in server.command("plan", "--detailed-exitcode", key="viewer", code=2)
    why = ("--yes", "--reason", "May")
    refused = server.command("apply", *why, key="viewer", code=1)
    assert "key:the-viewer may only look: apply takes a key with `role: operator`" in refused
    assert "(revision 2, audit 2:" in server.command("apply", *why)
    until(lambda: "m: " in server.command("rollout", "status", key="viewer"), said=server.written)
    assert "may only look" in server.command("rollout", "pause", "m", "--reason", "no", key="viewer", code=1)
    for verb in ("pause", "resume"):
        assert "m: " in server.command("rollout", verb, "m", "--reason", "let me see")
    assert "say why" in server.command("rollout", "abort", "m", code=1)
    server.command("rollout", "abort", "m", "--reason", "worse")
    assert "m: " in server.command("rollout", "status", "--past", key="viewer")
    assert "worse" in server.command("model", "held", key="viewer")
    assert "may only look" in server.command("model", "unload", "m", "--reason", "no", key="viewer", code=1)
    assert "is in effect in 1 worker" in server.command("model", "unload", "m", "--reason", "room")
    server.write(1)
    server.command("model", "load", "m", "--reason", "asked for")
    assert "May" in server.command("history", key="viewer")
    assert '"only": [1]' in server.command("history", "1", key="viewer")
    assert '"only": [1]' in server.command("apply", "--revision", "1", "--yes", "--reason", "as it was")
    assert "no thresholds of any route" in server.command("route", "now", key="viewer", code=1)
    assert "try" in server.command("experiment", "list", key="viewer")
    assert "may only look" in server.command("experiment", "start", "try", "--reason", "no", key="viewer", code=1)
    assert "not yet: " in server.command("drift", key="viewer")
    assert "did you mean 'n'" in server.command("drift", "nn", key="viewer", code=2)
    assert "whole: " in server.command("audit", "verify", key="viewer")
    assert "model hours cost" in server.command("report", "--by", "model", key="viewer")
    changed = {(one["act"], one["who"]) for one in audited(server) if one["who"].startswith("key:")}
    assert {who for _, who in changed} == {"key:the-operator"}
    assert {"apply", "unload", "load"} <= {act for act, _ in changed}


def test_each_answer_is_what_its_schema_says(server: Administered) -> None:
    described = server.ask_admin(f"{PREFIX}/openapi.json", "viewer").json
    assert described == json.loads(describe(OPERATIONS))
    failure = {**described, "$ref": "#/components/schemas/Failure"}
    bodies: dict[str, Any] = {one.name: {"reason": "r"} for one in OPERATIONS if one.method == "POST"} | {
        "plan": {},
        "erase": {"tenant": "acme", "reason": "r"},
    }
    steps = {
        "{change}": "mine", "{number}": "1", "rollouts/{model:path}/{verb}": "rollouts/m/pause", "{model:path}": "n",
        "{experiment:path}/{verb}": "try/stop", "{experiment:path}": "try",
    }  # fmt: skip
    server.write(2)
    begun = server.ask_admin(f"{PREFIX}/apply", body={"reason": "a rollout", "retry": "again", "change": "mine"})
    assert begun.status == 200, begun.body
    begun = server.ask_admin(f"{PREFIX}/experiments/try/start", body={"reason": "to look at it"})
    assert begun.status == 200, begun.body
    until(lambda: server.ask_admin(f"{PREFIX}/rollouts").json["rollouts"], said=server.written)
    assert server.infer("r", ROW, {"x-api-key": KEYS["tenant"]}).status == 200
    server.await_stored(1)
    until(lambda: server.ask_admin(f"{PREFIX}/content").status == 200, said=server.written)
    for one in OPERATIONS:
        path = PREFIX + one.path
        for step, value in steps.items():
            path = path.replace(step, value)
        reply = server.ask_admin(path, body=bodies.get(one.name))
        assert reply.status == 200, (one.name, reply.body)
        schema = {**described, "$ref": f"#/components/schemas/{one.reply.__name__}"}
        jsonschema_rs.validator_for(schema).validate(reply.json)
        wrong = server.ask_admin(path, "", bodies.get(one.name))
        assert wrong.status in (401, 429)
        jsonschema_rs.validator_for(failure).validate(wrong.json)
    server.write(1)
    server.command("apply", "--yes", "--reason", "back again")


def test_content_is_counted_and_erased_from_elsewhere_and_shown_to_nobody(server: Administered) -> None:
    assert server.infer("r", ROW, {"x-api-key": KEYS["tenant"]}).status == 200
    until(lambda: counted(server, "viewer"), said=server.written)
    assert "acme" in server.command("content", "count", key="viewer")
    erase = ("content", "erase", "--tenant", "acme")
    assert "may only look" in server.command(*erase, "--why", "they asked", key="viewer", code=1)
    assert "say why" in server.command(*erase, code=1)
    assert server.command(*erase, "--why", "they asked").startswith("erased 1 Contents")
    assert not counted(server, "operator")
    entry = audited(server)[-1]
    told = (entry["who"], entry["act"], entry["subject"], entry["why"], entry["evidence"]["erased"])
    assert told == ("key:the-operator", "content erase", "acme", "they asked", 1)


def counted(server: Administered, key: str) -> list[Any]:
    return server.ask_admin(f"{PREFIX}/content?tenant=acme", key).json.get("contents", [])


def test_what_fails_too_often_waits_and_a_valid_key_does_not(server: Administered) -> None:
    replies = [server.ask_admin(f"{PREFIX}/status", "sv_guessed") for _ in range(MOST_FAILED + 1)]
    assert replies[-1].status == 429
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 60
    assert server.ask_admin(f"{PREFIX}/status", "viewer").status == 200


def test_nothing_that_is_sent_is_an_error_of_ours(server: Administered) -> None:
    asked: list[tuple[str, Any, str]] = [
        (f"{PREFIX}/apply", b"{", ""),
        (f"{PREFIX}/apply", b"\xff\xfe", ""),
        (f"{PREFIX}/apply", b"[" * 100_000, ""),
        (f"{PREFIX}/apply", {"reason": 1}, ""),
        (f"{PREFIX}/apply", {"reason": " "}, ""),
        (f"{PREFIX}/apply", {"reason": "r", "file": "/etc/passwd"}, ""),
        (f"{PREFIX}/apply", {"reason": "r", "revision": 99}, ""),
        (f"{PREFIX}/apply", {"reason": "r", "unknown": 1}, ""),
        (f"{PREFIX}/apply", b" " * (1 << 20) + b"{}", ""),
        (f"{PREFIX}/status", b"{}", "DELETE"),
        (f"{PREFIX}/history?most=-1", None, ""),
        (f"{PREFIX}/history/9999999999999999999999", None, ""),
        (f"{PREFIX}/audit?after=x", None, ""),
        (f"{PREFIX}/audit/verify?heads=x", None, ""),
        (f"{PREFIX}/report?since=soon", None, ""),
        (f"{PREFIX}/content?before=soon", None, ""),
        (f"{PREFIX}/content/erase", {"reason": "everything"}, ""),
        (f"{PREFIX}/content/erase", {"reason": "r", "record": "01"}, ""),
        (f"{PREFIX}/content/erase", {"reason": "r", "before": "9999-99-99"}, ""),
        (f"{PREFIX}/report?by=weather", None, ""),
        (f"{PREFIX}/changes/%00", None, ""),
        (f"{PREFIX}/models/%2e%2e/load", {"reason": "r"}, ""),
        (f"{PREFIX}/rollouts/m/explode", {"reason": "r"}, ""),
        (f"{PREFIX}/status", None, "OPTIONS"),
        ("/", None, ""),
        ("/v2/models/m/infer", {}, ""),
    ]
    for path, body, method in asked:
        reply = server.ask_admin(path, body=body, method=method)
        assert 400 <= reply.status < 500, (path, reply)
        assert reply.json["error"], path


def test_a_key_that_goes_is_refused_at_once_and_the_door_follows_the_manifest(tmp_path: Path) -> None:
    with Administered(tmp_path, keys=[]) as server:
        assert server.opened == []
        server.write(keys=keys("operator", "viewer"))
        assert "keys.the-operator.sha256" in living.apply(server).stdout
        assert server.ask_admin(f"{PREFIX}/status", "viewer").status == 200
        server.write(keys=keys("operator"))
        server.command("apply", "--yes", "--reason", "the viewer left")
        assert server.ask_admin(f"{PREFIX}/status", "viewer").status == 401
        first = server.url
        server.write(keys=keys("operator"), host="localhost")
        server.command("apply", "--yes", "--reason", "another address")
        until(lambda: server.url != first, said=server.written)
        assert server.ask_admin(f"{PREFIX}/status").status == 200
        opened = len(server.opened)
        server.child("controller").kill()
        until(lambda: len(server.opened) > opened, said=server.written)
        assert server.ask_admin(f"{PREFIX}/status").status == 200
        server.write(keys=[])
        assert living.apply(server).returncode == 0
        until(lambda: not listens(server), said=server.written)


def listens(server: Administered) -> bool:
    try:
        return bool(server.ask_admin(f"{PREFIX}/status").status)
    except OSError:
        return False


def test_the_page_shows_commands_that_work(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "admin.md").read_text("utf-8")
    [commands, curl] = [
        text
        for text in re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        if "api=" in text or "export" in text
    ]
    with Administered(tmp_path) as server:
        script = f"{commands}\n{curl}".replace("sv_...", KEYS["operator"]).replace("http://127.0.0.1:8002", server.url)
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "servery").write_text(f'#!/bin/sh\nexec {shlex.join(servery_command())} "$@"\n')
        (tmp_path / "bin" / "servery").chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            check=False,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "error" not in done.stdout
        assert done.stdout.count("Nothing to change") == 2
        assert json.loads((tmp_path / "openapi.json").read_text()) == json.loads(describe(OPERATIONS))

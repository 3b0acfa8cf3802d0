"""Who may ask, how much, and what they may say of it later; and where Servery refuses to start."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import artifacts
from server import Reply, Server, post, read_all, split_replies, tensor
from servery.cli.child import servery_command
from servery.telemetry.report import Report

KEYS = {
    name: f"sk-{name}-{hashlib.sha256(name.encode()).hexdigest()}"
    for name in ("acme", "acme-two", "other", "hurried", "narrow", "reporter")
}
ROWS = np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32)


def key(name: str) -> dict[str, str]:
    return {"id": f"{name}-key", "sha256": hashlib.sha256(KEYS[name].encode()).hexdigest()}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


def declare(folder: Path) -> dict[str, Any]:
    def model(artifact: Path, **more: Any) -> dict[str, Any]:
        return {"runtime": "onnx", "artifact": str(artifact), **more}

    classifier = artifacts.classifier(folder / "m.onnx", 4, seed=1)
    return {
        "models": {
            "m": model(classifier, prediction={"output": "label"}),
            "open": model(classifier, expose=True),
            "slow": model(artifacts.slow(folder / "slow.onnx"), expose=True),
            "secret-model": model(folder / "nowhere.onnx"),
        },
        "routes": {
            "r": {"tiers": [{"name": "only", "model": "m"}]},
            "gone": {"tiers": [{"name": "only", "model": "secret-model"}]},
        },
        "tenants": {
            "acme": {"keys": [key("acme"), key("acme-two")]},
            "other": {"keys": [key("other")]},
            "hurried": {"keys": [key("hurried")], "limits": {"requests_per_minute": 5}},
            "narrow": {"keys": [key("narrow")], "limits": {"concurrency_per_worker": 1}},
            "reporter": {"keys": [key("reporter")]},
        },
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("keys")
    with Server(folder, declare(folder)) as running:
        yield running
        assert running.stop() == 0
        check_no_secret_was_kept(running)


def check_no_secret_was_kept(server: Server) -> None:
    """Neither logs nor files hold a key, sent rightly or wrongly."""
    files = [path for path in server.data.rglob("*") if path.is_file()]
    assert server.data / "ledger.db" in files
    for path in [*files, server.folder / "log.txt"]:
        content = path.read_bytes()
        assert not [name for name, secret in KEYS.items() if secret.encode() in content], path
        assert b"sk-guessed" not in content, path


def body(rows: int = 1) -> dict[str, Any]:
    return {"inputs": [tensor("x", "FP32", [rows, 4], ROWS[:rows].ravel().tolist())]}


def slowly(ms: float) -> dict[str, Any]:
    return {"inputs": [tensor("x", "FP32", [1, 1], [ms])]}


def at_once(server: Server, name: str, ms: float, count: int, headers: Mapping[str, str]) -> list[Reply]:
    """The replies to slow calls that are under way together, by status."""
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(server.infer, name, slowly(ms), headers) for _ in range(count)]
        return sorted((one.result() for one in asked), key=lambda reply: reply.status)


# Keys


def test_a_key_in_either_header_opens(server: Server) -> None:
    for name in ("acme", "acme-two"):
        for headers in (
            bearer(name),
            {"authorization": f"bearer   {KEYS[name]} "},
            {"x-api-key": KEYS[name]},
        ):
            assert server.infer("r", body(), headers).status == 200
    query = "SELECT DISTINCT tenant, key FROM records WHERE tenant = 'acme' ORDER BY key"
    assert server.await_records(query, 2) == [("acme", "acme-key"), ("acme", "acme-two-key")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer "},
        {"authorization": "Bearer sk-guessed"},
        {"authorization": f"Basic {KEYS['acme']}"},
        {"authorization": KEYS["acme"]},
        {"authorization": f"Bearer {KEYS['acme'][:-1]}"},
        {"authorization": f"Bearer {KEYS['acme']}0"},
        {"authorization": f"Bearer {KEYS['acme'].upper()}"},
        {"x-api-key": "sk-guessed-" + "g" * 30_000},
        {"x-api-key": ""},
        {"x-api-key": "\xff\xfe"},
        {"x-api-key": hashlib.sha256(KEYS["acme"].encode()).hexdigest()},
    ],
)
def test_strangers_learn_nothing(server: Server, headers: dict[str, str]) -> None:
    ways = [
        ("POST", "/v2/models/r/infer", json.dumps(body())),
        ("POST", "/v2/models/open/versions/1/infer", json.dumps(body())),
        ("POST", "/v2/models/nobody/infer", "{"),
        ("POST", "/servery/v1/feedback", "{}"),
        ("GET", "/v2", None),
        ("GET", "/v2/models/r", None),
        ("GET", "/v2/models/nobody", None),
        ("GET", "/v2/models/r/ready", None),
    ]
    for method, path, sent in ways:
        reply = server.ask(method, path, sent, headers)
        assert reply.status == 401, (method, path, reply)
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "key" in reply.error
        assert "servery-record-id" not in reply.headers
        assert "sk-" not in reply.error


def test_reasons_for_not_being_ready_are_for_callers_only(server: Server) -> None:
    assert server.get("/v2/health/live").status == 200
    stranger = server.get("/v2/health/ready")
    assert stranger.status == 503
    assert stranger.json == {"ready": False}
    known = server.ask("GET", "/v2/health/ready", headers=bearer("other"))
    assert known.status == 503
    assert "nowhere.onnx does not exist" in known.json["reasons"][0]


def test_with_tenants_only_what_is_exposed_is_called_by_name(server: Server) -> None:
    assert server.infer("open", body(), bearer("acme")).status == 200
    assert server.infer("open/versions/1", body(), bearer("acme")).status == 200
    for path in ("m/infer", "m/versions/1/infer"):
        reply = server.ask("POST", f"/v2/models/{path}", json.dumps(body()), bearer("acme"))
        assert reply.status == 404
        assert "the model 'm' is not exposed; call one of 'r', 'gone', 'open', 'slow'" in reply.error
    assert server.ask("GET", "/v2/models/m", headers=bearer("acme")).status == 404


# Limits


def test_the_sixth_request_of_five_a_minute_waits(server: Server) -> None:
    before = [server.infer("r", body(), bearer("hurried")).status for _ in range(5)]
    reply = server.infer("r", body(), bearer("hurried"))
    assert [*before, reply.status] == [200] * 5 + [429]
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert "5 requests_per_minute are used up" in reply.error
    assert server.infer("r", body(), bearer("acme")).status == 200
    record = reply.headers["servery-record-id"].upper()
    query = f"SELECT tenant, outcome, reason, attempts FROM records WHERE hex(id) = '{record}'"
    assert server.await_records(query, 1) == [("hurried", "refused", "rate_limited", "[]")]


def test_a_tenant_has_so_many_requests_in_flight(server: Server) -> None:
    served, refused = at_once(server, "slow", 400, 2, bearer("narrow"))
    assert (served.status, refused.status) == (200, 429)
    assert "concurrency_per_worker is 1" in refused.error
    assert int(refused.headers["retry-after"]) >= 1
    assert "servery-record-id" in refused.headers
    assert server.infer("slow", slowly(1), bearer("narrow")).status == 200


def test_turns_and_queues_are_bounded(tmp_path: Path) -> None:
    slow = {"runtime": "onnx", "artifact": str(artifacts.slow(tmp_path / "slow.onnx"))}
    with Server(
        tmp_path,
        {
            "models": {"slow": slow},
            "routes": {"hasty": {"tiers": [{"name": "only", "model": "slow"}], "deadline_ms": 100}},
            "server": {"concurrency_per_worker": 1, "queue_per_worker": 1},
        },
    ) as server:
        replies = at_once(server, "slow", 300, 3, {})
        assert [reply.status for reply in replies] == [200, 200, 503]
        assert "1 requests are running and 1 are waiting" in replies[2].error
        assert int(replies[2].headers["retry-after"]) >= 1
        with server.connect() as line:
            line.sendall(post("/v2/models/slow/infer", json.dumps(slowly(1000)).encode(), "connection: close"))
            for headers in ({}, {"servery-timeout-ms": "60000"}):
                late = server.infer("hasty", slowly(1), headers)
                assert late.status == 504
                assert "while the request waited for a turn" in late.error
            assert split_replies(read_all(line))[0].status == 200
        assert server.stop() == 0
        assert server.records("SELECT outcome, reason, count(*) FROM records GROUP BY 1, 2 ORDER BY 2") == [
            ("served", "", 3),
            ("failed", "deadline_exceeded", 2),
            ("refused", "no_room", 1),
        ]


def test_the_queue_of_a_model_is_bounded(tmp_path: Path) -> None:
    slow = {"runtime": "onnx", "artifact": str(artifacts.slow(tmp_path / "slow.onnx")), "queue": 1}
    with Server(tmp_path, {"models": {"slow": slow}}) as server:
        replies = at_once(server, "slow", 300, 3, {})
        assert [reply.status for reply in replies] == [200, 200, 503]
        assert "full queues" in replies[2].error
        assert server.infer("slow", slowly(1)).status == 200


# Feedback


def give(server: Server, who: str, fact: Any) -> Reply:
    sent = fact if isinstance(fact, bytes) else json.dumps(fact)
    return server.ask("POST", "/servery/v1/feedback", sent, bearer(who))


def test_feedback_is_joined_and_the_last_value_counts(server: Server) -> None:
    reply = server.infer("r", body(4), bearer("reporter"))
    record = reply.headers["servery-record-id"]
    told = reply.tensors()["label"].tolist()
    for row in range(4):
        assert give(server, "reporter", {"record_id": record, "row": row, "name": "label", "value": 99}).status == 202
    for row in range(3):
        fact = {"record_id": record, "row": row, "name": "label", "value": told[row]}
        assert give(server, "reporter", fact).status == 202
    for value in (True, 0.5, -3, "a word", ""):
        accepted = give(server, "reporter", {"record_id": record, "name": "score", "value": value})
        assert accepted.status == 202
        assert len(accepted.json["id"]) == 52
    query = f"SELECT \"row\", name, value FROM feedback WHERE hex(record_id) = '{record.upper()}' ORDER BY at_ns"
    assert [value for _, name, value in server.await_records(query, 12) if name == "score"] == [
        "true", "0.5", "-3.0", '"a word"', '""',
    ]  # fmt: skip
    done = subprocess.run(
        [*servery_command(), "report", "--data", str(server.data), "--by", "tenant", "-o", "json"],
        capture_output=True,
        check=True,
    )
    report = msgspec.convert(json.loads(done.stdout), Report)
    (line,) = [line for line in report.lines if line.name == "reporter"]
    assert (line.labelled, line.correct) == (4, 3)


def test_feedback_of_another_tenants_record_is_a_404(server: Server) -> None:
    record = server.infer("r", body(), bearer("acme")).headers["servery-record-id"]
    reply = give(server, "other", {"record_id": record, "name": "label", "value": 1})
    assert reply.status == 404
    assert reply.error == "this tenant has no such record"
    assert give(server, "acme", {"record_id": record, "name": "label", "value": 1}).status == 202


def test_feedback_for_an_id_that_nobody_has_is_taken(server: Server) -> None:
    record = server.infer("r", body(), bearer("acme")).headers["servery-record-id"]
    unknown = record[:-8] + "00000000"
    assert give(server, "acme", {"record_id": unknown, "name": "label", "value": 1}).status == 202
    assert give(server, "acme", {"record_id": "0" * 52, "name": "label", "value": 1}).status == 202


ID = "0" * 52


@pytest.mark.parametrize(
    ("fact", "piece"),
    [
        (b"", "record_id, name, value"),
        (b"{", "record_id, name, value"),
        (b"[" * 100_000, "record_id, name, value"),
        (b"\xff", "record_id, name, value"),
        (b'{"record_id":"\xff"}', "record_id, name, value"),
        ([], "Expected `object`"),
        ({"name": "label", "value": 1}, "`record_id`"),
        ({"record_id": ID, "value": 1}, "`name`"),
        ({"record_id": ID, "name": "label"}, "`value`"),
        ({"record_id": ID, "name": "", "value": 1}, "$.name"),
        ({"record_id": ID, "name": "n" * 129, "value": 1}, "$.name"),
        ({"record_id": ID, "name": "label", "value": None}, "$.value"),
        ({"record_id": ID, "name": "label", "value": [1]}, "$.value"),
        ({"record_id": ID, "name": "label", "value": {}}, "$.value"),
        ({"record_id": ID, "name": "label", "value": "v" * 4097}, "$.value"),
        ({"record_id": ID, "name": "label", "value": 10**400}, "value"),
        ({"record_id": ID, "name": "label", "value": 1, "row": -1}, "$.row"),
        ({"record_id": ID, "name": "label", "value": 1, "row": 1.5}, "$.row"),
        ({"record_id": ID, "name": "label", "value": 1, "row": 2**31}, "$.row"),
        ({"record_id": ID, "name": "label", "value": 1, "tenant": "acme"}, "tenant"),
        ({"record_id": ID[1:], "name": "label", "value": 1}, "52 hex digits"),
        ({"record_id": ID + "0", "name": "label", "value": 1}, "52 hex digits"),
        ({"record_id": "g" * 52, "name": "label", "value": 1}, "52 hex digits"),
        ({"record_id": "A" * 52, "name": "label", "value": 1}, "52 hex digits"),
        ({"record_id": "٠" * 52, "name": "label", "value": 1}, "52 hex digits"),
        ({"record_id": ID + "\n", "name": "label", "value": 1}, "52 hex digits"),
    ],
)
def test_malformed_feedback_is_a_400(server: Server, fact: Any, piece: str) -> None:
    reply = give(server, "acme", fact)
    assert reply.status == 400, reply
    assert piece in reply.error
    assert server.infer("r", body(), bearer("acme")).status == 200


# Where it refuses to start


def start(folder: Path, manifest: Mapping[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    """A `servery up` that is expected to end by itself."""
    folder.mkdir(exist_ok=True)
    (folder / "servery.yaml").write_text(json.dumps({"servery": 1, **manifest}))
    command = [*servery_command(), "up", str(folder / "servery.yaml"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def small(folder: Path, **more: Any) -> dict[str, Any]:
    artifact = artifacts.identity(folder / "m.onnx", 2)
    return {"models": {"m": {"runtime": "onnx", "artifact": str(artifact)}}, **more}


def test_without_tenants_only_loopback_is_served(tmp_path: Path) -> None:
    for options, server in (
        (("--host", "0.0.0.0"), {}),
        (("--host", "::"), {}),
        ((), {"host": "0.0.0.0"}),
        (("--host", "192.0.2.1"), {}),
    ):
        done = start(tmp_path, small(tmp_path, server=server), "--port", "0", *options)
        assert done.returncode == 1, done
        assert "servery key new" in done.stderr
        assert "Traceback" not in done.stderr


def test_with_tenants_every_address_may_be_served(tmp_path: Path) -> None:
    tenants = {"acme": {"keys": [key("acme")]}}
    with Server(tmp_path, small(tmp_path, tenants=tenants), "--host", "0.0.0.0") as server:
        assert server.get("/v2").status == 401
        assert server.get("/v2", **{"x-api-key": KEYS["acme"]}).status == 200


def test_a_data_folder_has_one_owner(tmp_path: Path) -> None:
    with Server(tmp_path / "first", small(tmp_path)) as server:
        assert server.process is not None
        done = start(tmp_path / "second", small(tmp_path), "--port", "0", "--data", str(server.data))
        assert done.returncode == 1
        assert f"process id {server.process.pid}" in done.stderr
        assert "--data" in done.stderr
        assert "Traceback" not in done.stderr
        assert server.get("/v2/health/ready").status == 200
    with Server(tmp_path / "first", small(tmp_path)) as again:
        assert again.get("/v2/health/ready").status == 200


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = start(tmp_path, small(tmp_path), "--port", str(port))
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr

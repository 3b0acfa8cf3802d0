"""Content of a running server: kept for whom it is declared, encrypted wherever it lies, erased for good, and never in the way."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import sqlite3
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

import artifacts
from fake_vendor import FakeVendor
from living import Living, servery, until
from server import Reply, Server, tensor
from servery.cli.content import sealer_of, told
from servery.host.settings import DataFolder
from servery.store.contents import Contents
from servery.store.sealing import new_key

pytestmark = pytest.mark.timeout(120)

ASKED, ANSWERED = "tell-nobody-that-I-asked", "nobody-may-read-this"  # in everything that is asked and answered
ENV, OLD, NEW = "SERVERY_TEST_CONTENT_KEY", new_key(), new_key()
PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}
POLICY = {"keep_days": 30, "routes": ["chat", "cut", "broken", "digits"]}
TENANTS = ("acme", "beta")


def declared(vendor: FakeVendor, folder: Path) -> dict[str, Any]:
    def rented(serves: str) -> dict[str, Any]:
        return {"runtime": "openai", "endpoint": vendor.url, "serves": serves, "price": PRICE}

    models = {
        "big": rented(f"big?says={ANSWERED}"),
        "cuts": rented(f"cuts?fault=cut:900&says={' '.join([ANSWERED] * 9)}"),
        "fails": rented("fails?fault=500"),
        "digits-small": {"runtime": "onnx", "artifact": str(artifacts.classifier(folder / "m.onnx", 4))},
    }
    names = {"chat": "big", "other": "big", "cut": "cuts", "broken": "fails", "digits": "digits-small"}
    routes = {
        name: {"tiers": [{"name": "only", "model": model}], "policy": {} if name == "digits" else {"retries": 0}}
        for name, model in names.items()
    }
    tenants: dict[str, Any] = {
        name: {"keys": [{"id": "k1", "sha256": hashlib.sha256(name.encode()).hexdigest()}]} for name in TENANTS
    }
    tenants["acme"]["content"] = POLICY
    return {"models": models, "routes": routes, "tenants": tenants, "records": {"content_key": {"env": ENV}}}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


@contextlib.contextmanager
def keys(text: str) -> Generator[None]:
    """With these keys in the environment of what is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENV, text)
        yield


@pytest.fixture(scope="module")
def server(vendor: FakeVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("content")
    with keys(OLD):
        with Server(folder, declared(vendor, folder)) as server:
            yield server
            seen_nowhere(server)
        seen_nowhere(server)


def seen_nowhere(server: Server) -> None:
    """Nothing of what was said, nor of the keys, is in any file of the data folder, or in the log."""
    words, answers = [word.encode() for word in (ASKED, ANSWERED, OLD, NEW)], [ANSWERED.encode()]
    files = [path for path in server.data.rglob("*") if path.is_file()]
    assert {"contents.db", "ledger.db", "snapshot.json"} <= {path.name for path in files}
    for path in (*files, server.folder / "log.txt"):
        with contextlib.suppress(FileNotFoundError):  # a segment that was carried just now
            content = path.read_bytes()
            # What the fake vendor answers is ordered by the manifest, which lies in these.
            declared = path.name.startswith(("snapshot.json", "state.db"))
            assert not [word for word in words if word in content and not (declared and word in answers)], path


def chat(
    server: Server, model: str = "chat", tenant: str = "acme", path: str = "chat/completions", **more: Any
) -> Reply:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": ASKED}], **more})
    return server.ask("POST", f"/v1/{path}", body, {"x-api-key": tenant})


def content(server: Server, *arguments: object) -> Any:
    """What a command that must succeed prints."""
    done = servery("content", *arguments, "--data", server.data)
    assert done.returncode == 0, done.stderr
    return done


def show(server: Server, reply: Reply) -> Mapping[str, Any]:
    """The Content of a reply, once it is there; read as `servery content show` does, without starting it."""
    record = reply.headers["servery-record-id"]
    path = server.data / "contents.db"
    until(lambda: path.exists() and record.upper() in stored(server), said=server.written)
    store, folder = Contents(path), DataFolder(server.data)
    try:
        (sealed,) = store.read([bytes.fromhex(record)], time.time_ns())
    finally:
        store.close()
    return msgspec.to_builtins(told(sealed, sealer_of(folder).open(sealed)))


def stored(server: Server) -> set[str]:
    connection = sqlite3.connect(server.data / "contents.db")
    try:
        return {row[0] for row in connection.execute("SELECT hex(record_id) FROM contents")}
    except sqlite3.OperationalError:  # not made yet
        return set()
    finally:
        connection.close()


def test_an_answer_is_kept_as_it_was_asked_and_answered(server: Server) -> None:
    reply = chat(server, temperature=0.5)
    kept = show(server, reply)
    assert json.loads(content(server, "show", reply.headers["servery-record-id"]).stdout) == kept
    assert kept["asked"] == {
        "model": "chat",
        "messages": [{"role": "user", "content": ASKED}],
        "temperature": 0.5,
    }
    assert kept["answered"] == [reply.json]
    assert (kept["tenant"], kept["region"], kept["form"], kept["cut"]) == ("acme", "local", "chat/completions", False)
    assert ANSWERED in reply.json["choices"][0]["message"]["content"]


def test_a_stream_is_kept_as_far_as_it_was_sent(server: Server) -> None:
    whole, cut = chat(server, stream=True), chat(server, "cut", stream=True)
    for reply in (whole, cut):
        sent = [json.loads(line[6:]) for line in reply.body.split(b"\n\n") if line.startswith(b"data: {")]
        if reply is cut:
            assert "error" in sent.pop()
        kept = show(server, reply)
        assert len(sent) > 1
        assert kept["answered"] == sent


def test_anthropics_form_is_kept_as_it_is(server: Server) -> None:
    reply = chat(server, path="messages", max_tokens=50)
    kept = show(server, reply)
    assert (kept["form"], kept["asked"]["max_tokens"]) == ("messages", 50)
    assert kept["answered"] == [reply.json]


def test_what_had_no_answer_is_kept_without_one(server: Server) -> None:
    reply = chat(server, "broken")
    assert reply.status == 502
    kept = show(server, reply)
    assert kept["asked"]["messages"][0]["content"] == ASKED
    assert kept["answered"] == []


def test_tensors_are_kept_with_their_first_elements(server: Server) -> None:
    def ask(rows: int) -> Reply:
        data = [float(at % 7) for at in range(4 * rows)]
        body = {"inputs": [tensor("x", "FP32", (rows, 4), data)]}
        return server.infer("digits", body, {"x-api-key": "acme"})

    few, many = ask(2), ask(2_000)
    kept = show(server, few)
    assert (kept["form"], kept["cut"]) == ("infer", False)
    (sent,) = kept["asked"]["inputs"]
    assert sent == {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [0, 1, 2, 3, 4, 5, 6, 0]}
    told = {output["name"]: output["data"] for output in kept["answered"][0]["outputs"]}
    assert told == {output["name"]: output["data"] for output in few.json["outputs"]}
    kept = show(server, many)
    (sent,) = kept["asked"]["inputs"]
    assert (kept["cut"], sent["cut"], sent["shape"], len(sent["data"])) == (True, True, [2_000, 4], 4_096)


def test_nothing_is_kept_of_others_and_of_what_was_never_understood(server: Server) -> None:
    others = [chat(server, tenant="beta"), chat(server, "other"), chat(server, "nobody")]
    broken = server.ask("POST", "/v1/chat/completions", "{" + ASKED, {"x-api-key": "acme"})
    last = chat(server)
    show(server, last)
    for reply in (*others, broken):
        record = reply.headers["servery-record-id"]
        assert record.upper() not in stored(server)
        done = servery("content", "show", record, "--data", server.data)
        assert (done.returncode, done.stdout) == (1, "")
        assert "there is no Content of this Record" in done.stderr
    assert "beta" not in content(server, "count").stdout
    query = f"select attempts, predictions from records where id = x'{last.headers['servery-record-id']}'"
    assert ASKED not in str(server.await_records(query, 1))


def test_a_wrong_key_reads_nothing_and_says_which_is_missing(server: Server) -> None:
    reply = chat(server)
    key_id = show(server, reply)["key"]
    record = reply.headers["servery-record-id"]
    for text, said in (
        (NEW, f"was encrypted with the key {key_id}, and there is only"),
        ("", f"the environment variable {ENV} holds no key"),
        (OLD[:-5], f"the environment variable {ENV} holds something else than keys at place 1"),
    ):
        with keys(text):
            done = servery("content", "show", record, "--data", server.data)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert OLD[:-5] not in done.stderr
    with keys(f"{NEW},{OLD}"):
        assert content(server, "show", record).stdout


def test_a_box_in_anothers_row_does_not_open(server: Server) -> None:
    first, second = chat(server), chat(server)
    show(server, first)
    show(server, second)
    names = [reply.headers["servery-record-id"] for reply in (first, second)]
    connection = sqlite3.connect(server.data / "contents.db", timeout=10)
    ((box,),) = connection.execute(f"SELECT box FROM contents WHERE record_id = x'{names[0]}'").fetchall()
    with connection:
        connection.execute(f"UPDATE contents SET box = ? WHERE record_id = x'{names[1]}'", (box,))
    connection.close()
    done = servery("content", "show", names[1], "--data", server.data)
    assert (done.returncode, done.stdout) == (1, "")
    assert "isn't what was written for this Record and tenant" in done.stderr


def test_erasing_leaves_the_record_and_the_audit_says_who(server: Server) -> None:
    replies = [chat(server) for _ in range(3)]
    for reply in replies:
        show(server, reply)
    records = [reply.headers["servery-record-id"] for reply in replies]
    query = "select id, pico_usd, attempts from records order by id"
    before = server.await_records(query, 3)
    done = content(server, "erase", "--record", records[0], "--why", "a letter")
    assert done.stdout == "erased 1 Contents\n"
    assert records[0].upper() not in stored(server)
    assert records[1].upper() in stored(server)
    early = chat(server)  # it may still be on its way
    erased = stored(server)
    content(server, "erase", "--tenant", "acme")
    late = chat(server)
    show(server, late)
    assert early.headers["servery-record-id"].upper() not in stored(server)
    assert stored(server) == {late.headers["servery-record-id"].upper()}
    assert json.loads(content(server, "count", "-o", "json").stdout)["contents"][0]["count"] == 1
    assert server.await_records(query, len(before))[: len(before)] == before
    done = servery("audit", "show", "--data", server.data, "-o", "json")
    entries = [json.loads(line) for line in done.stdout.splitlines()][-3:]
    assert [entry["act"] for entry in entries] == ["content erase", "content erase", "content count"]
    assert [entry["subject"] for entry in entries] == [records[0], "acme", ""]
    assert entries[0]["evidence"]["erased"] == 1
    assert 0 <= entries[1]["evidence"]["erased"] - len(erased) <= 1
    assert (entries[0]["why"], entries[0]["outcome"]) == ("a letter", "done")
    assert all(entry["who"] for entry in entries)
    assert servery("audit", "verify", "--data", server.data).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("erase",), "say what to erase"),
        (("erase", "--record", "12"), "52 hex digits"),
        (("erase", "--before", "soon"), "'soon' is no moment"),
        (("show", "xyz"), "52 hex digits"),
        (("count", "--before", "2026-13-01"), "is no moment"),
    ],
)
def test_what_makes_no_sense_erases_nothing(server: Server, arguments: tuple[str, ...], said: str) -> None:
    reply = chat(server)
    show(server, reply)
    done = servery("content", *arguments, "--data", server.data)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert reply.headers["servery-record-id"].upper() in stored(server)


def test_keys_are_exchanged_at_a_new_start_and_what_has_expired_is_gone(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = declared(vendor, tmp_path)
    with keys(OLD), Server(tmp_path, manifest) as server:
        before, gone = chat(server), chat(server)
        old = show(server, before)["key"]
        show(server, gone)
    connection = sqlite3.connect(server.data / "contents.db")
    with connection:
        name = gone.headers["servery-record-id"]
        connection.execute(f"UPDATE contents SET expires_ns = {time.time_ns()} WHERE record_id = x'{name}'")
    connection.close()
    with keys(f"{NEW} {OLD}"), Server(tmp_path, manifest) as server:
        after = chat(server)
        assert show(server, after)["key"] != old
        assert show(server, before)["key"] == old
        until(lambda: gone.headers["servery-record-id"].upper() not in stored(server), said=server.written)
        seen_nowhere(server)
    with keys(""):
        done = servery("check", server.manifest)
    assert done.returncode == 1
    assert f"records.content_key.env: the environment variable {ENV} holds no key" in done.stdout + done.stderr


def test_without_a_declared_key_one_is_made_that_only_its_owner_reads(tmp_path: Path) -> None:
    model = {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": ANSWERED}]}
    manifest = {"models": {"m": model}, "content": {"keep_days": 1}}
    with Server(tmp_path, manifest, "--workers", "2") as server:
        replies = [chat(server, "m") for _ in range(8)]
        key = server.data / "content.key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert {show(server, reply)["tenant"] for reply in replies} == {"local"}
        seen_nowhere(server)
    assert len(key.read_text().split()) == 1
    key.unlink()
    done = servery("content", "show", replies[0].headers["servery-record-id"], "--data", server.data)
    assert (done.returncode, done.stdout) == (1, "")
    assert "content.key: No such file or directory" in done.stderr


def test_a_policy_comes_and_goes_while_it_serves(vendor: FakeVendor, tmp_path: Path) -> None:
    manifest = declared(vendor, tmp_path)
    policy = manifest["tenants"]["acme"].pop("content")
    with keys(OLD), Server(tmp_path, manifest) as server:
        assert chat(server).status == 200
        assert not (server.data / "content").exists()
        manifest["tenants"]["acme"]["content"] = policy
        apply(server, manifest)
        during = chat(server)
        show(server, during)
        del manifest["tenants"]["acme"]["content"]
        apply(server, manifest)
        assert chat(server).status == 200
        del manifest["records"]
        server.manifest.write_text(json.dumps({"servery": 1, **manifest, "server": {"in_process_ms": 60_000}}))
        done = servery("plan", server.manifest, "--data", server.data)
        assert (
            f'records.content_key: it is {{"env":"{ENV}"}} now and can\'t become nothing' in done.stdout + done.stderr
        )
    assert stored(server) == {during.headers["servery-record-id"].upper()}


def apply(server: Server, manifest: Mapping[str, Any]) -> None:
    declared = {"servery": 1, **manifest, "server": {"in_process_ms": 60_000}}
    server.manifest.write_text(json.dumps(declared))
    done = servery("apply", server.manifest, "--data", server.data, "--yes", "--reason", "a test")
    assert done.returncode == 0, done.stderr


def test_user_code_does_not_see_the_key(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(
        "import os\nimport numpy as np\n\n\nclass Look:\n    def predict(self, inputs):\n"
        f"        seen = os.environ.get('{ENV}', 'nothing')\n"
        "        return {'y': np.array([seen.encode()] * len(inputs['x']), dtype=object)}\n"
    )
    shapes = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
              "outputs": [{"name": "y", "datatype": "BYTES", "shape": [-1]}]}  # fmt: skip
    look = {"runtime": "python", "artifact": str(tmp_path / "look.py"), "class": "Look", **shapes}
    records = {"content_key": {"env": ENV}}
    with (
        keys(OLD),
        Server(tmp_path / "s", {"models": {"look": look}, "content": {"keep_days": 1}, "records": records}) as server,
    ):
        reply = server.infer("look", {"inputs": [tensor("x", "FP32", [1], [1])]})
        assert reply.json["outputs"][0]["data"] == ["nothing"]
        assert show(server, reply)["answered"][0]["outputs"][0]["data"] == ["nothing"]


def test_kills_cost_at_most_what_was_said_last_and_never_a_record(tmp_path: Path) -> None:
    artifacts.classifier(tmp_path / "quick.onnx", 4)
    manifest = {"models": {"quick": {"runtime": "onnx", "artifact": "quick.onnx"}}, "content": {"keep_days": 30}}
    body = json.dumps({"inputs": [tensor("x", "FP32", [1, 4], [1, 2, 3, 4])]})
    kills: list[int] = []
    with Living(tmp_path, manifest) as server:
        client = server.client("quick", body)
        for kill in range(3):
            after = time.perf_counter_ns() + 10**9 * (2 + kill)
            until(lambda after=after: client.served(after), said=server.written)
            worker = server.child("worker")
            kills.append(time.perf_counter_ns())
            worker.kill()
        now = time.perf_counter_ns()
        until(lambda: len(client.served(now)) >= 60, said=server.written)
        answers = client.served()
        client.stop()
        assert server.stop() == 0
    records = {name.upper() for name in server.ids()}
    kept = stored(server)
    assert kept <= records
    told = {answer.record.upper() for answer in client.served()}
    assert told <= records
    held_up_ns = 1_000_000_000  # a machine that runs a test suite may hold a worker's disk up
    early_ns = -100_000_000  # between our clock's look and the kill itself answers may still have come
    safe = {one.record.upper() for one in answers if not any(early_ns < at - one.ended_ns < held_up_ns for at in kills)}
    assert safe <= kept
    assert len(safe) > 100
    assert list((server.data / "content").iterdir()) == []
    (one,) = json.loads(content(server, "count", "-o", "json").stdout)["contents"]
    assert one["count"] == len(kept)
    assert show(server, Reply(200, {"servery-record-id": min(kept).lower()}, b""))["asked"]["inputs"][0]["data"] == [
        1,
        2,
        3,
        4,
    ]


def test_a_caller_who_leaves_has_what_it_was_sent_kept(vendor: FakeVendor, tmp_path: Path) -> None:
    endless = {"runtime": "openai", "endpoint": vendor.url, "serves": "endless?tokens=100000&gap_ms=20", "price": PRICE}
    with Server(tmp_path, {"models": {"endless": endless}, "content": {"keep_days": 1}}) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        body = {"model": "endless", "stream": True, "messages": [{"role": "user", "content": ASKED}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        reply = connection.getresponse()
        record = reply.getheader("servery-record-id", "")
        first = json.loads(reply.readline()[6:])
        connection.close()
        kept = show(server, Reply(200, {"servery-record-id": record}, b""))
        assert kept["answered"][0] == first
        outcome = server.await_records(f"select outcome from records where id = x'{record}'", 1)
        assert outcome == [("abandoned",)]

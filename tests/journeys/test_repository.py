"""The model repository and statistics extensions, by the clients that use them: tritonclient over HTTP and gRPC."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import artifacts
from calling import grpc_port
from living import Living, servery
from server import Reply, tensor
from servery.store.state import State

ASK = {"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]}
SURE = [0.9, 0.1]


@pytest.fixture
def server(tmp_path: Path) -> Generator[Living]:
    artifacts.constant(tmp_path / "m" / "1" / "model.onnx", SURE)
    artifacts.slow(tmp_path / "slow.onnx")
    models = {"m": {"runtime": "onnx", "artifact": "m", "versions": {"all": True}}}
    models["broken"] = {"runtime": "onnx", "artifact": "none.onnx"}
    models["slow"] = {"runtime": "onnx", "artifact": "slow.onnx"}
    with Living(tmp_path, {"models": models}, "--grpc-port", "0") as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def client(server: Living, request: pytest.FixtureRequest) -> Any:
    if request.param == "http":
        return tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")
    return tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc_port(server)}")


def index_of(client: Any) -> dict[tuple[str, str], tuple[str, str]]:
    index = client.get_model_repository_index()
    if not isinstance(index, list):
        index = tritonclient_dict(index)["models"]
    return {(one["name"], one.get("version", "")): (one["state"], one.get("reason", "")) for one in index}


def tritonclient_dict(message: Any) -> Any:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True)


def statistics_of(client: Any, *called: str) -> dict[tuple[str, str], Any]:
    found = client.get_inference_statistics(*called)
    found = found if isinstance(found, dict) else tritonclient_dict(found)
    return {(one["name"], one["version"]): one for one in found["model_stats"]}


def infer(client: Any, rows: int, version: str = "") -> list[int]:
    kind = tritonclient.http if isinstance(client, tritonclient.http.InferenceServerClient) else tritonclient.grpc
    sent = kind.InferInput("x", [rows, 30], "FP32")
    sent.set_data_from_numpy(np.zeros((rows, 30), np.float32))
    labels = client.infer("m", [sent], model_version=version).as_numpy("label")
    assert labels is not None
    return labels.tolist()


def test_the_index_says_how_each_version_is(client: Any) -> None:
    index = index_of(client)
    assert index["m", "1"] == ("READY", "")
    state, reason = index["broken", "1"]
    assert state == "UNAVAILABLE"
    assert "none.onnx does not exist" in reason


def test_load_finds_what_is_new_and_unload_takes_it_out(server: Living, client: Any) -> None:
    assert infer(client, 1) == [0]
    artifacts.constant(server.folder / "m" / "2" / "model.onnx", SURE[::-1])
    client.load_model("m")
    assert infer(client, 1) == [1]
    assert infer(client, 1, "1") == [0]
    client.unload_model("m")
    assert index_of(client)["m", "2"] == ("UNAVAILABLE", "it was unloaded; load it to have it answer again")
    assert not client.is_model_ready("m")
    with pytest.raises(InferenceServerException, match="it was unloaded"):
        infer(client, 1)
    client.load_model("m")
    assert infer(client, 1) == [1]
    with pytest.raises(InferenceServerException, match="no model is called 'n'"):
        client.load_model("n")


def test_a_load_that_fails_leaves_what_was(server: Living, client: Any) -> None:
    artifacts.unknown_operator(server.folder / "m" / "2" / "model.onnx")
    with pytest.raises(InferenceServerException, match="what was served goes on"):
        client.load_model("m")
    assert infer(client, 1) == [0]
    assert index_of(client)["m", "1"] == ("READY", "")


def test_files_are_not_taken_over_the_api(client: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"is not taken over the API"):
        client.load_model("m", config="{}", files={"file:1/model.onnx": b"x"})
    with pytest.raises(InferenceServerException, match="'config' is not taken over the API"):
        client.load_model("m", config="{}")
    assert infer(client, 1) == [0]


def test_statistics_count_what_has_run(server: Living, client: Any) -> None:
    for rows in (1, 1, 5):
        infer(client, rows)
    found = statistics_of(client, "m")
    assert list(found) == [("m", "1")]
    mine = found["m", "1"]
    assert int(mine["inference_count"]) == 7
    assert int(mine["execution_count"]) == 3
    spent = mine["inference_stats"]
    assert int(spent["success"]["count"]) == int(spent["compute_infer"]["count"]) == 3
    assert int(spent["success"]["ns"]) >= int(spent["compute_infer"]["ns"]) > 0
    assert int(spent["fail"].get("count", 0)) == 0
    assert {int(one["batch_size"]): int(one["compute_infer"]["count"]) for one in mine["batch_stats"]} == {1: 2, 5: 1}
    assert int(mine["last_inference"]) > 1_700_000_000_000
    assert set(statistics_of(client)) == {("m", "1"), ("broken", "1"), ("slow", "1")}
    worker = server.child("worker")
    worker.terminate()  # it is the machine's count, also when its workers come and go
    worker.wait(20)
    server.await_ready()
    infer(client, 1)
    assert int(statistics_of(client, "m")["m", "1"]["inference_count"]) == 8


def test_who_may_change_what(tmp_path: Path) -> None:
    artifacts.constant(tmp_path / "m.onnx", SURE)

    def key(name: str, **more: str) -> dict[str, Any]:
        return {"id": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **more}

    models = {name: {"runtime": "onnx", "artifact": "m.onnx", "expose": name == "m"} for name in ("m", "hidden")}
    tenants = {"acme": {"keys": [key("caller"), key("operator", role="operator")]}}
    with Living(tmp_path, {"models": models, "tenants": tenants}) as server:
        for path in ("index", "models/m/load", "models/m/unload"):
            assert server.ask("POST", f"/v2/repository/{path}").status == 401
        caller, operator = ({"x-api-key": name} for name in ("caller", "operator"))
        for verb in ("load", "unload"):
            reply = server.ask("POST", f"/v2/repository/models/m/{verb}", b"", caller)
            assert (reply.status, reply.error) == (
                403,
                f"this key may not {verb} models; that takes a key with `role: operator`",
            )
        names = [one["name"] for one in server.ask("POST", "/v2/repository/index", b"", caller).json]
        assert names == ["m"]
        ready = json.dumps({"ready": True}).encode()
        names = [one["name"] for one in server.ask("POST", "/v2/repository/index", ready, operator).json]
        assert names == ["m", "hidden"]
        assert server.ask("POST", "/v2/repository/models/m/unload", b"{}", operator).status == 200
        assert server.infer("m", ASK, caller).status == 503
        assert server.ask("POST", "/v2/repository/index", b"[", operator).status == 400
        assert server.ask("GET", "/v2/repository/index", None, operator).status == 405
        assert server.ask("POST", "/v2/repository/models/../../load", b"", operator).status == 404


def test_a_manifest_is_applied_from_elsewhere(tmp_path: Path) -> None:
    artifacts.constant(tmp_path / "m.onnx", SURE)
    keys = [
        {"id": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **more}
        for name, more in (("caller", {}), ("operator", {"role": "operator"}))
    ]
    models = {"m": {"runtime": "onnx", "artifact": "m.onnx", "expose": True}}
    with Living(tmp_path, {"models": models, "tenants": {"acme": {"keys": keys}}}) as server:

        def apply(key: str, body: bytes = b'{"reason": "a test"}') -> Reply:
            return server.ask("POST", "/servery/v1/apply", body, {"x-api-key": key} if key else {})

        for key, status in (("caller", 403), ("nobody", 401), ("", 401)):
            assert apply(key).status == status
        assert "say why, for instance" in apply("operator", b"").error
        assert apply("operator", b'{"reason": 1}').status == 400
        whole = server.manifest.read_text()
        server.manifest.write_text(whole.replace("m.onnx", "none.yaml").replace("onnx", "pickle"))
        refused = apply("operator")
        assert (refused.status, "what was served goes on" in refused.error) == (422, True)
        server.manifest.write_text(whole.replace('"m"', '"n"'))
        assert apply("operator").json == {"epoch": 2, "workers": 1}
        assert server.infer("n", ASK, {"x-api-key": "caller"}).status == 200
        *_, last = State(server.data / "state.db", server.data / "audit.heads").entries()
        assert (last.act, last.who, last.why) == ("apply", "acme/operator", "a test")
    for arguments in (("--server", "localhost:8000"), ("servery.yaml", "--server", "http://127.0.0.1:1"), ()):
        assert servery("apply", *arguments, "--yes", "--reason", "a test").returncode == 1

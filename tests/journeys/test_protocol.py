"""The Open Inference Protocol over HTTP, asked of a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from onnx import TensorProto

import artifacts
from server import Server, pack_bytes, tensor, with_binary
from servery.wire.tensors import DTYPES

ODD = "Größe 1/naïve model"


def model(artifact: Path, **more: Any) -> dict[str, Any]:
    return {"runtime": "onnx", "artifact": str(artifact), **more}


def sure(artifact: Path) -> dict[str, Any]:
    """A model that a cascade can use."""
    return model(artifact, confidence={"output": "probabilities"}, prediction={"output": "label"})


def tiers(*names: str, accept: float | None = None) -> list[dict[str, Any]]:
    threshold: dict[str, Any] = {} if accept is None else {"accept": {"confidence": accept}}
    return [{"name": name.split("-")[-1], "model": name} | (threshold if name != names[-1] else {}) for name in names]


def declare(folder: Path) -> dict[str, Any]:
    (folder / "garbage.onnx").write_bytes(b"\x00 this was never a model \xff")
    whole = artifacts.classifier(folder / "whole.onnx", features=4).read_bytes()
    (folder / "torn.onnx").write_bytes(whole[: len(whole) // 2])
    models = {
        f"same-{name.lower()}": model(artifacts.identity(folder / f"{name}.onnx", 2, kind))
        for name, kind, _ in artifacts.TYPES
    }
    models |= {
        "same-bf16": model(artifacts.identity(folder / "BF16.onnx", 2, TensorProto.BFLOAT16)),
        "words": model(artifacts.texts(folder / "words.onnx")),
        "pair": model(artifacts.pair(folder / "pair.onnx")),
        "any": model(artifacts.identity(folder / "any.onnx")),
        "slow": model(artifacts.slow(folder / "slow.onnx")),
        "division": model(artifacts.division(folder / "division.onnx")),
        "three-rows": model(artifacts.identity(folder / "three.onnx", 2, rows=3)),
        "digits-cheap": sure(artifacts.classifier(folder / "cheap.onnx", 4, seed=1, sharpness=0.6)),
        "digits-mid": sure(artifacts.classifier(folder / "mid.onnx", 4, seed=2, sharpness=0.6)),
        "digits-premium": sure(artifacts.classifier(folder / "premium.onnx", 4, seed=3)),
        "digits-missing": sure(folder / "missing.onnx"),
        "digits-garbage": sure(folder / "garbage.onnx"),
        "digits-torn": sure(folder / "torn.onnx"),
    }
    cascade = {"kind": "cascade"}
    return {
        "models": models,
        "routes": {
            "digits": {
                "policy": cascade,
                "tiers": tiers("digits-cheap", "digits-mid", "digits-premium", accept=0.7),
            },
            "half": {"policy": cascade, "tiers": tiers("digits-cheap", "digits-missing", accept=0.7)},
            "fallback": {"tiers": tiers("digits-garbage", "digits-torn", "digits-premium")},
            "hopeless": {"tiers": tiers("digits-missing", "digits-garbage")},
            "quickly": {"tiers": tiers("slow"), "deadline_ms": 60},
            "first-zero": {"tiers": tiers("division")},
            ODD: {"tiers": tiers("digits-premium")},
        },
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("oip")
    with Server(folder, declare(folder)) as running:
        yield running


def draw(rows: int, seed: int = 5) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


def ask_rows(rows: np.ndarray[Any, Any], **more: Any) -> dict[str, Any]:
    return {"inputs": [tensor("x", "FP32", rows.shape, rows.ravel().tolist())], **more}


# Metadata and health


def test_the_server_describes_itself(server: Server) -> None:
    for path in ("/v2", "/v2/"):
        reply = server.get(path)
        assert reply.status == 200
        assert reply.json["name"] == "servery"
        told = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
        assert reply.json["extensions"] == told
        assert reply.json["version"]


def test_live_and_not_ready_while_a_route_has_no_tier_left(server: Server) -> None:
    assert server.get("/v2/health/live").json == {"live": True}
    reply = server.get("/v2/health/ready")
    assert reply.status == 503
    assert reply.json["ready"] is False
    assert "missing.onnx does not exist" in " ".join(reply.json["reasons"])
    assert int(reply.headers["retry-after"]) >= 1


def test_a_model_has_versions_and_a_route_has_none(server: Server) -> None:
    of_model = server.get("/v2/models/digits-mid").json
    assert of_model["versions"] == ["1"]
    assert of_model["platform"] == "onnxruntime_onnx"
    assert of_model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert server.get("/v2/models/digits-mid/versions/1").json == of_model
    assert server.get("/v2/models/digits-mid/ready").json["ready"] is True
    assert server.get("/v2/models/digits-mid/versions/1/ready").status == 200
    of_route = server.get("/v2/models/digits").json
    assert of_route["name"] == "digits"
    assert "versions" not in of_route
    assert of_route["inputs"] == of_model["inputs"]
    assert of_route["outputs"] == of_model["outputs"]
    assert server.get("/v2/models/digits/ready").status == 200
    for rest in ("", "/ready"):
        reply = server.get(f"/v2/models/digits/versions/1{rest}")
        assert reply.status == 404
        assert "routes have no versions" in reply.error


def test_an_unknown_version_is_not_found(server: Server) -> None:
    reply = server.infer("digits-mid/versions/7", ask_rows(draw(1)))
    assert reply.status == 404
    assert "no version '7'" in reply.error
    assert server.infer("digits/versions/1", ask_rows(draw(1))).status == 404


# Infer: forms


def test_a_version_and_none_answer_alike(server: Server) -> None:
    plain = server.infer("digits-mid", ask_rows(draw(3)))
    versioned = server.infer("digits-mid/versions/1", ask_rows(draw(3)))
    assert (plain.status, versioned.status) == (200, 200)
    assert plain.json == versioned.json
    assert plain.json["model_name"] == "digits-mid"
    assert plain.json["model_version"] == "1"
    routed = server.infer("digits", ask_rows(draw(3))).json
    assert routed["model_name"] == "digits"
    assert "model_version" not in routed


def test_flat_nested_and_binary_inputs_give_the_same(server: Server) -> None:
    rows = draw(5)
    flat = server.infer("digits", ask_rows(rows))
    nested = server.infer("digits", {"inputs": [tensor("x", "FP32", [5, 4], rows.tolist())]})
    body, headers = with_binary(ask_rows(rows), {"x": rows.tobytes()})
    binary = server.infer("digits", body, headers)
    asked = ask_rows(rows, parameters={"binary_data_output": True})
    both_body, both_headers = with_binary(asked, {"x": rows.tobytes()})
    both = server.infer("digits", both_body, both_headers)
    assert [reply.status for reply in (flat, nested, binary, both)] == [200] * 4
    assert flat.json == nested.json == binary.json
    assert both.headers["content-type"] == "application/octet-stream"
    for name, array in flat.tensors().items():
        np.testing.assert_array_equal(array, both.tensors()[name])


def test_json_and_binary_mix_in_one_request(server: Server) -> None:
    a, b = np.array([[1, 2], [3, np.inf]], np.float32), np.array([2**53 + 1, -5], np.int64)
    head = {
        "inputs": [tensor("b", "INT64", [2], b.tolist()), tensor("a", "FP32", [2, 2], None)],
        "outputs": [{"name": "d", "parameters": {"binary_data": True}}, {"name": "c"}],
    }
    body, headers = with_binary(head, {"a": a.tobytes()})
    reply = server.infer("pair", body, headers)
    assert reply.status == 200
    assert list(reply.tensors()) == ["d", "c"]
    np.testing.assert_array_equal(reply.tensors()["d"], b)
    assert reply.tensors()["c"].tolist()[0] == [1.0, 2.0]
    size = int(reply.headers["inference-header-content-length"])
    outputs = json.loads(reply.body[:size])["outputs"]
    assert outputs[1]["data"] == [1.0, 2.0, 3.0, None]
    assert outputs[0]["parameters"] == {"binary_data_size": 16}


def test_only_the_outputs_asked_for_in_that_order(server: Server) -> None:
    def names(*asked: str) -> list[str]:
        reply = server.infer("digits", ask_rows(draw(40), outputs=[{"name": name} for name in asked]))
        return [output["name"] for output in reply.json["outputs"]]

    assert names("probabilities", "label") == ["probabilities", "label"]
    assert names("label", "probabilities") == ["label", "probabilities"]
    assert names("label") == ["label"]
    assert names() == ["label", "probabilities"]


def test_the_id_comes_back(server: Server) -> None:
    for text in ("r-1", "", '名前 \u0000 "quoted" \' \U0001f600'):
        reply = server.infer("digits", ask_rows(draw(1), id=text))
        assert reply.status == 200
        assert reply.json.get("id", "") == text


def test_unknown_parameters_and_fields_are_ignored(server: Server) -> None:
    body = ask_rows(
        draw(1), parameters={"priority": 3, "sequence_id": "a", "deep": {"a": [1]}}, raw_input_contents=None, more=[1]
    )
    body["inputs"][0] |= {"parameters": {"content_type": "np"}, "extra": {}}
    body["outputs"] = [{"name": "label", "parameters": {"content_type": "np"}, "extra": 1}]
    assert server.infer("digits", body).status == 200


# Infer: reply headers


def test_reply_headers_say_who_answered(server: Server) -> None:
    reply = server.infer("digits-mid", ask_rows(draw(1)))
    assert reply.headers["servery-route"] == "digits-mid"
    assert reply.headers["servery-model"] == "digits-mid"
    assert len(reply.headers["servery-record-id"]) == 52
    assert len(reply.headers["servery-version"]) == 12
    assert reply.headers["content-type"] == "application/json"


def test_headers_of_the_caller_come_back_on_answers_and_errors(server: Server) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-request-id": "mine-1", "traceparent": trace}
    replies = [
        server.infer("digits", ask_rows(draw(1)), headers),
        server.infer("digits", b"{", headers),
        server.infer("nobody", b"{}", headers),
        server.ask("GET", "/v2/models/digits", headers=headers),
        server.ask("GET", "/nowhere", headers=headers),
    ]
    for reply in replies:
        assert reply.headers["x-request-id"] == "mine-1"
        assert reply.headers["traceparent"] == trace
    query = "SELECT outcome FROM records WHERE request_id = 'mine-1' AND traceparent != ''"
    assert sorted(server.await_records(query, 3)) == [("refused",), ("refused",), ("served",)]


def test_a_name_with_slash_space_and_umlauts_is_called_escaped(server: Server) -> None:
    name = quote(ODD, safe="")
    reply = server.infer(name, ask_rows(draw(2)))
    assert reply.status == 200
    assert reply.json["model_name"] == ODD
    assert reply.headers["servery-route"].encode("latin-1").decode() == ODD
    assert server.get(f"/v2/models/{name}").json["name"] == ODD
    lower = name.replace("%C3%B6", "%c3%b6")
    assert server.infer(lower, ask_rows(draw(2))).status == 200
    assert server.ask("POST", f"/v2/models/{name}/infer?trace=1", json.dumps(ask_rows(draw(2)))).status == 200


# Infer: datatypes


@pytest.mark.parametrize(("datatype", "kind", "values"), artifacts.TYPES, ids=[name for name, _, _ in artifacts.TYPES])
def test_every_datatype_goes_and_comes_in_both_forms(
    server: Server, datatype: str, kind: int, values: list[Any]
) -> None:
    array = np.array(values, DTYPES[datatype]).reshape(2, 2)
    head = {"inputs": [tensor("x", datatype, [2, 2], values)]}
    if datatype == "FP16":
        reply = server.infer("same-fp16", head)
        assert reply.status == 400
        assert "'x': FP16 can't be sent as JSON" in reply.error
    else:
        reply = server.infer(f"same-{datatype.lower()}", head)
        assert reply.status == 200, reply
        assert reply.json["outputs"][0]["data"] == values
        assert reply.json["outputs"][0]["datatype"] == datatype
    for binary in (False, True):
        asked = {**head, "outputs": [{"name": "y", "parameters": {"binary_data": binary}}]}
        body, headers = with_binary(asked, {"x": array.tobytes()})
        reply = server.infer(f"same-{datatype.lower()}", body, headers)
        assert reply.status == 200, reply
        got = reply.tensors()["y"]
        assert got.dtype == array.dtype
        assert got.tobytes() == array.tobytes()


def test_bf16_gets_a_clear_answer(server: Server) -> None:
    head = {"inputs": [tensor("x", "BF16", [1, 2], [1.0, 2.0])]}
    reply = server.infer("same-bf16", head)
    assert reply.status == 400
    assert "BF16 can't be sent as JSON" in reply.error
    body, headers = with_binary(head, {"x": b"\x80\x3f\x00\x40"})
    reply = server.infer("same-bf16", body, headers)
    assert reply.status == 503
    assert "BF16" in reply.error
    assert "BF16" in server.get("/v2/models/same-bf16/ready").json["reasons"][0]


@pytest.mark.parametrize("form", ["json", "binary"])
def test_texts_empty_and_in_utf8(server: Server, form: str) -> None:
    words = ["", "a", "naïve", "日本語 \U0001f600", "nul \u0000 inside", 'quo"te\\', "x" * 70_000]
    head: dict[str, Any] = {"inputs": [tensor("words", "BYTES", [len(words), 1], words)]}
    reply = server.infer("words", head)
    assert reply.status == 200
    assert reply.json["outputs"][0]["data"] == words
    if form == "binary":
        head["parameters"] = {"binary_data_output": True}
        body, headers = with_binary(head, {"words": pack_bytes(word.encode() for word in words)})
        reply = server.infer("words", body, headers)
        assert reply.status == 200
        assert reply.tensors()["same"] == [word.encode() for word in words]


def test_bytes_that_are_no_text_are_the_callers_to_mend(server: Server) -> None:
    body, headers = with_binary(
        {"inputs": [tensor("words", "BYTES", [2, 1], None)]}, {"words": pack_bytes([b"fine", b"\xff\xfe"])}
    )
    reply = server.infer("words", body, headers)
    assert reply.status == 400
    assert "'words'" in reply.error
    assert "UTF-8" in reply.error


def test_nan_and_infinities_are_exact_in_binary_and_null_in_json(server: Server) -> None:
    array = np.array([[np.nan, np.inf], [-np.inf, -0.0]], np.float32)
    head = {"inputs": [tensor("x", "FP32", [2, 2], None)]}
    body, headers = with_binary(head | {"parameters": {"binary_data_output": True}}, {"x": array.tobytes()})
    assert server.infer("same-fp32", body, headers).tensors()["y"].tobytes() == array.tobytes()
    body, headers = with_binary(head, {"x": array.tobytes()})
    reply = server.infer("same-fp32", body, headers)
    assert reply.json["outputs"][0]["data"] == [None, None, None, -0.0]


# Infer: shapes


@pytest.mark.parametrize("name", ["digits", "digits-mid", "half", "fallback"])
def test_no_rows_give_no_rows(server: Server, name: str) -> None:
    reply = server.infer(name, {"inputs": [tensor("x", "FP32", [0, 4], [])]})
    assert reply.status == 200, reply.body
    outputs = {output["name"]: output for output in reply.json["outputs"]}
    assert outputs["label"]["shape"] == [0]
    assert outputs["probabilities"]["shape"] == [0, 3]
    assert outputs["label"]["data"] == []
    asked = ask_rows(draw(0), parameters={"binary_data_output": True})
    body, headers = with_binary(asked, {"x": b""})
    assert server.infer(name, body, headers).tensors()["probabilities"].shape == (0, 3)


def test_free_and_fixed_dimensions(server: Server) -> None:
    for shape in ([1, 1], [3, 7], [2, 0], [1, 5000]):
        count = shape[0] * shape[1]
        reply = server.infer("any", {"inputs": [tensor("x", "FP32", shape, [0.5] * count)]})
        assert reply.status == 200, reply
        assert reply.json["outputs"][0]["shape"] == shape
    assert server.infer("three-rows", {"inputs": [tensor("x", "FP32", [3, 2], [1.0] * 6)]}).status == 200
    reply = server.infer("three-rows", {"inputs": [tensor("x", "FP32", [2, 2], [1.0] * 4)]})
    assert reply.status == 400
    assert "[3, 2]" in reply.error


def test_a_large_body_of_binary_comes_back_whole(server: Server) -> None:
    array = np.random.default_rng(1).standard_normal((300, 5000)).astype(np.float32)
    asked = ask_rows(array[:0], parameters={"binary_data_output": True})
    asked["inputs"][0]["shape"] = list(array.shape)
    body, headers = with_binary(asked, {"x": array.tobytes()})
    assert server.infer("any", body, headers).tensors()["y"].tobytes() == array.tobytes()


# Routes


def test_rows_answered_by_different_tiers_are_joined_in_order(server: Server) -> None:
    rows = draw(200)
    alone = {tier: server.infer(f"digits-{tier}", ask_rows(rows)).tensors() for tier in ("cheap", "mid", "premium")}
    reply = server.infer("digits", ask_rows(rows))
    confident = {tier: outputs["probabilities"].max(axis=1) >= np.float32(0.7) for tier, outputs in alone.items()}
    owner = np.where(confident["cheap"], "cheap", np.where(confident["mid"], "mid", "premium"))
    counts = {tier: int((owner == tier).sum()) for tier in alone}
    assert min(counts.values()) > 5, "the rows must split, or this shows nothing"
    said = dict(part.split("=") for part in reply.headers["servery-tier"].split(","))
    assert {tier: int(count) for tier, count in said.items()} == counts
    assert dict(part.split("=") for part in reply.headers["servery-model"].split(",")) == {
        f"digits-{tier}": str(count) for tier, count in counts.items()
    }
    assert sum(int(part.split("=")[1]) for part in reply.headers["servery-version"].split(",")) == 200
    joined = reply.tensors()
    for name in ("label", "probabilities"):
        expected = np.stack([alone[tier][name][row] for row, tier in enumerate(owner)])
        np.testing.assert_allclose(joined[name], expected, rtol=1e-5)
    wanted = server.infer("digits", ask_rows(rows, outputs=[{"name": "label"}]))
    assert wanted.tensors()["label"].tolist() == joined["label"].tolist()
    for row in (0, 7, 199):
        one = server.infer("digits", ask_rows(rows[row : row + 1]))
        assert one.headers["servery-tier"] == owner[row]
        assert one.tensors()["label"][0] == joined["label"][row]


def test_a_less_sure_answer_is_marked_when_the_next_tier_is_gone(server: Server) -> None:
    rows = draw(50)
    alone = server.infer("digits-cheap", ask_rows(rows)).tensors()
    reply = server.infer("half", ask_rows(rows))
    assert reply.status == 200
    assert reply.headers["servery-degraded"] == "model_unavailable"
    assert reply.headers["servery-tier"] == "cheap=50"
    np.testing.assert_array_equal(reply.tensors()["label"], alone["label"])
    record = reply.headers["servery-record-id"].upper()
    query = f"SELECT outcome, degraded, attempts FROM records WHERE hex(id) = '{record}'"
    outcome, degraded, attempts = server.await_records(query, 1)[0]
    assert (outcome, degraded) == ("served", "model_unavailable")
    cheap, missing = json.loads(attempts)
    assert (cheap["answered"], missing["answered"]) == (50, 0)
    assert missing["reason"] == "model_unavailable"
    confident = rows[alone["probabilities"].max(axis=1) >= 0.75][:1]
    assert "servery-degraded" not in server.infer("half", ask_rows(confident)).headers


def test_the_next_tier_answers_for_artifacts_that_cannot_be_read(server: Server) -> None:
    rows = draw(2)
    reply = server.infer("fallback", ask_rows(rows))
    assert reply.status == 200
    assert reply.headers["servery-tier"] == "premium=2"
    assert reply.json["outputs"] == server.infer("digits-premium", ask_rows(rows)).json["outputs"]
    record = reply.headers["servery-record-id"].upper()
    query = f"SELECT tier, attempts FROM records WHERE hex(id) = '{record}'"
    tier, attempts = server.await_records(query, 1)[0]
    assert tier == "premium"
    made = [(attempt["tier"], attempt["role"], attempt.get("reason", "")) for attempt in json.loads(attempts)]
    assert made == [
        ("garbage", "serve", "model_unavailable"),
        ("torn", "fallback", "model_unavailable"),
        ("premium", "fallback", ""),
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("digits-missing", "missing.onnx does not exist"),
        ("digits-garbage", "garbage.onnx is not an ONNX model"),
        ("digits-torn", "torn.onnx is not an ONNX model"),
        ("hopeless", "missing.onnx does not exist"),
    ],
)
def test_an_unavailable_model_says_why(server: Server, name: str, reason: str) -> None:
    reply = server.infer(name, ask_rows(draw(1)))
    assert reply.status == 503, reply
    assert reason in reply.error
    assert int(reply.headers["retry-after"]) >= 1
    ready = server.get(f"/v2/models/{name}/ready")
    assert ready.status == 503
    assert reason in ready.json["reasons"][0]
    assert reason in server.get(f"/v2/models/{name}").error


def test_a_model_that_fails_is_no_fault_of_the_server(server: Server) -> None:
    def divide(by: int) -> Any:
        return {"inputs": [tensor("a", "INT64", [1], [6]), tensor("b", "INT64", [1], [by])]}

    for name in ("division", "first-zero"):
        assert server.infer(name, divide(3)).json["outputs"][0]["data"] == [2]
        reply = server.infer(name, divide(0))
        assert reply.status == 502
        assert reply.headers["servery-record-id"] in reply.error


# Deadlines


def test_deadlines_by_route_header_and_parameter(server: Server) -> None:
    def slowly(ms: float, **more: Any) -> dict[str, Any]:
        return {"inputs": [tensor("x", "FP32", [1, 1], [ms])], **more}

    assert server.infer("slow", slowly(5), {"servery-timeout-ms": "20000"}).status == 200
    late = [
        server.infer("quickly", slowly(500)),
        server.infer("quickly", slowly(500), {"servery-timeout-ms": "20000"}),
        server.infer("slow", slowly(500), {"servery-timeout-ms": "60.5"}),
        server.infer("slow", slowly(500, parameters={"timeout": 60_000})),
        server.infer("slow", slowly(500, parameters={"timeout": 60_000}), {"servery-timeout-ms": "20000"}),
        server.infer("slow", slowly(1), {"servery-timeout-ms": "1e-9"}),
    ]
    for reply in late:
        assert reply.status == 504, reply
        assert "ms" in reply.error
        assert "servery-record-id" in reply.headers
    assert "within 60 ms" in late[0].error
    assert "within 60.5 ms" in late[2].error
    for header in ("0", "-1", "soon", "nan", "inf", "", "1e999"):
        reply = server.infer("slow", slowly(1), {"servery-timeout-ms": header})
        assert reply.status == 400, header
        assert "servery-timeout-ms" in reply.error
        assert "servery-record-id" in reply.headers
    for value in (-1, 1.5, "60", None, [60]):
        reply = server.infer("slow", slowly(1, parameters={"timeout": value}))
        assert reply.status == 400, value
        assert "timeout" in reply.error
    assert server.infer("slow", slowly(1, parameters={"timeout": 2**70})).status == 200

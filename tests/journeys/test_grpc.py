"""The Open Inference Protocol over gRPC, asked of a running server by tritonclient and by raw stubs."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

import artifacts
from calling import Ended, ask, ask_rows, call, channel_to, grpc_port, tensor
from server import Server, pack_bytes
from server import tensor as json_tensor
from servery.wire.oip_grpc import FIELDS
from servery.wire.proto import health_pb2
from servery.wire.proto import open_inference_grpc_pb2 as pb
from servery.wire.tensors import DTYPES

ODD = "Größe 1/naïve 100 %"


def model(artifact: Path, **more: Any) -> dict[str, Any]:
    return {"runtime": "onnx", "artifact": str(artifact), **more}


def declare(folder: Path) -> dict[str, Any]:
    models = {
        f"same-{name.lower()}": model(artifacts.identity(folder / f"{name}.onnx", 2, kind))
        for name, kind, _ in artifacts.TYPES
    }
    models |= {
        "words": model(artifacts.texts(folder / "words.onnx")),
        "pair": model(artifacts.pair(folder / "pair.onnx")),
        "any": model(artifacts.identity(folder / "any.onnx")),
        "slow": model(artifacts.slow(folder / "slow.onnx")),
        "division": model(artifacts.division(folder / "division.onnx")),
        "cheap": model(artifacts.classifier(folder / "c.onnx", 4, seed=1), confidence={"output": "probabilities"}),
        "sure": model(artifacts.classifier(folder / "s.onnx", 4, seed=2), confidence={"output": "probabilities"}),
        "missing": model(folder / "missing.onnx"),
    }
    accept = {"accept": {"confidence": 0.7}}
    tiers = [{"name": "cheap", "model": "cheap", **accept}, {"name": "premium", "model": "sure"}]
    return {
        "models": models,
        "routes": {
            "digits": {"policy": {"kind": "cascade"}, "tiers": tiers},
            "quickly": {"tiers": [{"name": "only", "model": "slow"}], "deadline_ms": 60},
            ODD: {"tiers": [{"name": "only", "model": "sure"}]},
        },
        "server": {"grpc_port": 0, "max_body_mb": 2},
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("grpc")
    with Server(folder, declare(folder)) as running:
        yield running


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server) as opened:
        yield opened


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    opened = triton.InferenceServerClient(f"127.0.0.1:{grpc_port(server)}")
    yield opened
    opened.close()


def draw(rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).standard_normal((rows, 4)).astype(np.float32)


def fed(name: str, array: np.ndarray[Any, Any], datatype: str) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


# Metadata and health


def test_the_server_and_its_models_describe_themselves(client: Any, server: Server) -> None:
    assert client.is_server_live()
    assert client.is_server_ready() == (server.get("/v2/health/ready").status == 200)
    assert client.is_model_ready("sure")
    assert client.is_model_ready("sure", "1")
    assert not client.is_model_ready("missing")
    told = client.get_server_metadata(as_json=True)
    assert told["name"] == "servery"
    assert told["version"] == server.get("/v2").json["version"]
    assert told["extensions"] == ["model_configuration", "model_repository", "statistics"]
    for name in ("sure", "digits", ODD, "pair"):
        got = client.get_model_metadata(name)
        said = server.get("/v2/models/" + quote(name, safe="")).json
        assert (got.name, got.platform, list(got.versions)) == (name, said["platform"], said.get("versions", []))
        for ours, theirs in ((got.inputs, said["inputs"]), (got.outputs, said["outputs"])):
            assert [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in ours] == theirs


def test_the_health_service_agrees_with_readiness(channel: grpc.Channel, client: Any) -> None:
    kinds = health_pb2.HealthCheckResponse
    for service in ("", "inference.GRPCInferenceService"):
        message = health_pb2.HealthCheckRequest(service=service)
        ended = call(channel, "Check", message, service="grpc.health.v1.Health")
        status = kinds.FromString(ended.answer).status
        assert (status == kinds.SERVING) == client.is_server_ready()
        watching: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")(message.SerializeToString(), timeout=10)
        assert kinds.FromString(next(watching)).status == status
        watching.cancel()
    other = health_pb2.HealthCheckRequest(service="nobody")
    assert call(channel, "Check", other, service="grpc.health.v1.Health").code == "NOT_FOUND"
    assert call(channel, "Check", b"\xff", service="grpc.health.v1.Health").code == "INVALID_ARGUMENT"
    watching = channel.unary_stream("/grpc.health.v1.Health/Watch")(other.SerializeToString(), timeout=10)
    assert kinds.FromString(next(watching)).status == kinds.SERVICE_UNKNOWN
    watching.cancel()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("TraceSetting", "Record"),
        ("LogSettings", "stderr"),
        *[(f"{kind}SharedMemory{verb}", "sent with the request")
          for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")],
    ],
)  # fmt: skip
def test_what_is_not_there_says_what_is(channel: grpc.Channel, name: str, instead: str) -> None:
    ended = call(channel, name, b"")
    assert ended.code == "UNIMPLEMENTED"
    assert instead in ended.message
    assert name in ended.message


def test_a_models_configuration_is_the_same_as_over_http(client: Any, server: Server) -> None:
    for name in ("same-fp32", "words", "digits"):
        told = client.get_model_config(name, as_json=True)["config"]
        also = server.get(f"/v2/models/{name}/config").json
        assert told["name"] == also["name"] == name
        for part in ("input", "output"):
            assert [(one["name"], one["data_type"], [int(size) for size in one["dims"]]) for one in told[part]] == [
                (one["name"], one["data_type"], one["dims"]) for one in also[part]
            ]
        assert told.get("max_batch_size", 0) == also["max_batch_size"]
    with pytest.raises(InferenceServerException, match="nobody"):
        client.get_model_config("nobody")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_both_ways(client: Any, coding: str) -> None:
    x = draw(500)
    given = client.infer("any", [fed("x", x, "FP32")], compression_algorithm=coding)
    np.testing.assert_array_equal(given.as_numpy("y"), x)


# Infer


@pytest.mark.parametrize(("datatype", "_kind", "values"), artifacts.TYPES, ids=[name for name, *_ in artifacts.TYPES])
def test_every_datatype_raw_and_typed_equals_http(
    server: Server, channel: grpc.Channel, datatype: str, _kind: int, values: list[Any]
) -> None:
    name = f"same-{datatype.lower()}"
    block = np.array(values, DTYPES[datatype]).tobytes()
    ended = call(channel, "ModelInfer", ask(name, tensor("x", datatype, [2, 2]), raw=[block], id="r-1"))
    assert ended.code == "OK", ended
    assert (ended.answer.model_name, ended.answer.model_version, ended.answer.id) == (name, "1", "r-1")
    (output,) = ended.answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [2, 2])
    assert list(ended.answer.raw_output_contents) == [block]
    if datatype not in FIELDS:
        refused = call(channel, "ModelInfer", ask(name, tensor("x", datatype, [2, 2])))
        assert refused.code == "INVALID_ARGUMENT"
        assert f"{datatype} has no typed contents" in refused.message
        return
    typed = call(channel, "ModelInfer", ask(name, tensor("x", datatype, [2, 2], FIELDS[datatype], values)))
    assert typed.code == "OK", typed
    assert not typed.answer.raw_output_contents
    assert list(getattr(typed.answer.outputs[0].contents, FIELDS[datatype])) == values
    over_http = server.infer(name, {"inputs": [json_tensor("x", datatype, [2, 2], values)]})
    assert over_http.json["outputs"][0]["data"] == values


def test_texts_go_and_come_in_both_forms(channel: grpc.Channel, client: Any) -> None:
    words = [word.encode() for word in ("", "a", "naïve", "日本語 \U0001f600", "x" * 70_000)]
    raw = call(channel, "ModelInfer", ask("words", tensor("words", "BYTES", [5, 1]), raw=[pack_bytes(words)]))
    assert raw.answer.raw_output_contents[0] == pack_bytes(words)
    typed = call(channel, "ModelInfer", ask("words", tensor("words", "BYTES", [5, 1], "bytes_contents", words)))
    assert list(typed.answer.outputs[0].contents.bytes_contents) == words
    array = np.array(words, object).reshape(5, 1)
    assert client.infer("words", [fed("words", array, "BYTES")]).as_numpy("same").tolist() == array.tolist()
    refused = call(channel, "ModelInfer", ask("words", tensor("words", "BYTES", [1, 1], "bytes_contents", [b"\xff"])))
    assert refused.code == "INVALID_ARGUMENT"
    assert "'words'" in refused.message
    assert "UTF-8" in refused.message


def test_answers_equal_those_over_http(server: Server, client: Any) -> None:
    for rows in (0, 1, 40):
        asked = {"inputs": [json_tensor("x", "FP32", [rows, 4], draw(rows).ravel().tolist())]}
        said = server.infer("digits", asked)
        assert said.status == 200
        got = client.infer("digits", [fed("x", draw(rows), "FP32")], request_id="mine")
        response = got.get_response()
        assert (response.id, response.model_name, response.model_version) == ("mine", "digits", "")
        assert [output.name for output in response.outputs] == ["label", "probabilities"]
        for name, array in said.tensors().items():
            np.testing.assert_array_equal(got.as_numpy(name), array)


def test_only_the_outputs_asked_for_in_that_order(client: Any) -> None:
    a, b = np.array([[1, 2], [np.nan, np.inf]], np.float32), np.array([2**53 + 1, -5], np.int64)
    inputs = [fed("b", b, "INT64"), fed("a", a, "FP32")]
    outputs = [triton.InferRequestedOutput("d"), triton.InferRequestedOutput("c")]
    got = client.infer("pair", inputs, outputs=outputs)
    assert [output.name for output in got.get_response().outputs] == ["d", "c"]
    np.testing.assert_array_equal(got.as_numpy("c"), a)
    np.testing.assert_array_equal(got.as_numpy("d"), b)
    got = client.infer("pair", inputs, outputs=outputs[:1], priority=3, parameters={"mine": "x", "more": 1.5})
    assert [output.name for output in got.get_response().outputs] == ["d"]


def test_metadata_say_who_answered_and_come_back(server: Server, channel: grpc.Channel) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = {"x-request-id": "over-grpc", "traceparent": trace}
    ended = call(channel, "ModelInfer", ask_rows(ODD, draw(2)), sent)
    assert ended.code == "OK"
    assert unquote(ended.metadata["servery-route"]) == ODD
    assert ended.metadata["servery-tier"] == "only=2"
    assert ended.metadata["servery-model"] == "sure=2"
    assert ended.metadata["servery-version"].endswith("=2")
    record = ended.metadata["servery-record-id"]
    assert ended.answer.parameters["servery-record-id"].string_param == record
    refused = call(channel, "ModelInfer", ask_rows("nobody", draw(1)), sent)
    assert refused.metadata["servery-reason"] == "not_found"
    for got in (ended, refused):
        assert (got.metadata["x-request-id"], got.metadata["traceparent"]) == ("over-grpc", trace)
    query = "SELECT lower(hex(id)), route, outcome, request_id FROM records WHERE request_id = 'over-grpc'"
    assert sorted(server.await_records(query, 2)) == sorted(
        [(record, ODD, "served", "over-grpc"),
         (refused.metadata["servery-record-id"], "nobody", "refused", "over-grpc")]
    )  # fmt: skip
    said = json.dumps({"record_id": record, "row": 0, "name": "label", "value": 1})
    assert server.ask("POST", "/servery/v1/feedback", said).status == 202


# Errors


@pytest.mark.parametrize(
    ("asked", "code", "told"),
    [
        (ask_rows("nobody", draw(1)), "NOT_FOUND", "'nobody'"),
        (ask_rows("digits", draw(1), model_version="1"), "NOT_FOUND", "routes have no versions"),
        (ask_rows("sure", draw(1), model_version="7"), "NOT_FOUND", "no version '7'"),
        (pb.ModelInferRequest(), "NOT_FOUND", "no route or model"),
        (ask("digits"), "INVALID_ARGUMENT", "input 'x' is missing"),
        (ask("digits", tensor("y", "FP32", [1, 4]), raw=[b"0" * 16]), "INVALID_ARGUMENT", "no input 'y'"),
        (ask("digits", tensor("x", "FP64", [1, 4]), raw=[b"0" * 32]), "INVALID_ARGUMENT", "'x' is FP32"),
        (ask("digits", tensor("x", "FP32", [1, 5]), raw=[b"0" * 20]), "INVALID_ARGUMENT", "'x' has shape [-1, 4]"),
        (ask("digits", tensor("x", "FP32", [1, 4]), raw=[b"0" * 15]), "INVALID_ARGUMENT", "'x': its binary data"),
        (ask("digits", tensor("x", "FP32", [1, 4]), raw=[b"", b""]), "INVALID_ARGUMENT", "2 entries for 1 inputs"),
        (ask("digits", tensor("x", "FP32", [1, 4], "fp32_contents", [1] * 4), raw=[b"0" * 16]),
         "INVALID_ARGUMENT", "'x' has `contents` beside"),
        (ask_rows("digits", draw(1), outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="z")]),
         "INVALID_ARGUMENT", "no output 'z'"),
        (b"\xff\xff\xff\xff", "INVALID_ARGUMENT", "can't be read as ModelInferRequest"),
        (b'\x0a\x02\xff\xfe', "INVALID_ARGUMENT", "can't be read as ModelInferRequest"),
        (ask_rows("missing", draw(1)), "UNAVAILABLE", "missing.onnx does not exist"),
        (ask("division", tensor("a", "INT64", [1], "int64_contents", [6]),
             tensor("b", "INT64", [1], "int64_contents", [0])), "UNKNOWN", "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_has_its_code_and_one_record(
    server: Server, channel: grpc.Channel, asked: Any, code: str, told: str
) -> None:
    ended = call(channel, "ModelInfer", asked)
    assert (ended.code, ended.answer) == (code, None), ended
    assert told in ended.message
    if code == "UNAVAILABLE":
        assert int(ended.metadata["retry-after"]) >= 1
    record = ended.metadata["servery-record-id"].upper()
    rows = server.await_records(f"SELECT outcome, reason FROM records WHERE hex(id) = '{record}'", 1)
    assert rows == [("failed" if code == "UNKNOWN" else "refused", ended.metadata["servery-reason"])]
    for name in ("ModelReady", "ModelMetadata"):
        assert call(channel, name, b"\xff").code == "INVALID_ARGUMENT"
        assert call(channel, name, pb.ModelReadyRequest(name="nobody")).code == "NOT_FOUND"


def test_a_message_that_is_too_large_is_refused(server: Server, channel: grpc.Channel) -> None:
    large = np.zeros((1, 600_000), np.float32)
    for compression in (None, grpc.Compression.Gzip):
        ended = call(channel, "ModelInfer", ask_rows("any", large), compression=compression)
        assert ended.code == "RESOURCE_EXHAUSTED", ended
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        assert call(channel, "ModelInfer", ask_rows("any", large[:, :9]), compression=compression).code == "OK"
    assert server.get("/v2/health/live").status == 200


def test_deadlines(channel: grpc.Channel, client: Any) -> None:
    def slowly(ms: float, name: str = "slow", **sent: Any) -> Ended:
        return call(channel, "ModelInfer", ask_rows(name, np.full((1, 1), ms, np.float32)), **sent)

    assert slowly(5).code == "OK"
    late = [
        slowly(500, "quickly"),
        slowly(500, metadata={"servery-timeout-ms": "60.5"}),
        slowly(500, metadata={"servery-timeout-ms": "20000"}, limit_s=0.1),
    ]
    assert [ended.code for ended in late] == ["DEADLINE_EXCEEDED"] * 3
    assert "within 60 ms" in late[0].message
    assert "within 60.5 ms" in late[1].message
    for wrong in ("0", "-1", "soon", "nan", "inf", ""):
        ended = slowly(1, metadata={"servery-timeout-ms": wrong})
        assert (ended.code, "servery-timeout-ms" in ended.message) == ("INVALID_ARGUMENT", True)
    long = fed("x", np.full((1, 1), 500, np.float32), "FP32")
    with pytest.raises(InferenceServerException, match="within 60 ms"):
        client.infer("slow", [long], timeout=60_000)


# Streams and the aio client


def test_a_stream_answers_each_message_in_order_and_errors_in_band(server: Server, client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def keep(result: Any, error: Any) -> None:
        answers.put((result, error))

    client.start_stream(keep, headers={"x-request-id": "streamed"})
    sent = ["digits", "nobody", "sure", "missing", "digits"]
    for at, name in enumerate(sent):
        client.async_stream_infer(name, [fed("x", draw(3), "FP32")], request_id=f"r{at}")
    got = [answers.get(timeout=20) for _ in sent]
    client.stop_stream()
    assert [error is None for _, error in got] == [True, False, True, False, True]
    assert "'nobody'" in str(got[1][1])
    assert "missing.onnx" in str(got[3][1])
    assert [result.get_response().id for result, _ in got if result is not None] == ["r0", "r2", "r4"]
    alone = client.infer("digits", [fed("x", draw(3), "FP32")])
    np.testing.assert_array_equal(got[4][0].as_numpy("probabilities"), alone.as_numpy("probabilities"))
    said = got[0][0].get_response().parameters
    assert said["servery-route"].string_param == "digits"
    assert said["triton_final_response"].bool_param
    query = "SELECT lower(hex(id)), route, outcome FROM records WHERE request_id = 'streamed' ORDER BY at_ns"
    rows = server.await_records(query, 5)
    assert [route for _, route, _ in rows] == sent
    assert [outcome for *_, outcome in rows] == ["served", "refused", "served", "refused", "served"]
    assert rows[0][0] == said["servery-record-id"].string_param


def test_an_error_in_a_stream_names_its_request(channel: grpc.Channel) -> None:
    messages = [
        ask_rows("nobody", draw(1), id="mine").SerializeToString(),
        b"\xff",
        ask_rows("digits", draw(1)).SerializeToString(),
    ]
    stream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter(messages), timeout=20)
    got = [pb.ModelStreamInferResponse.FromString(message) for message in stream]
    assert [bool(one.error_message) for one in got] == [True, True, False]
    assert got[0].infer_response.id == "mine"
    assert got[0].infer_response.parameters["servery-reason"].string_param == "not_found"
    assert got[1].infer_response.parameters["servery-reason"].string_param == "invalid_request"
    assert stream.code() is grpc.StatusCode.OK


def test_the_aio_client_works(server: Server) -> None:
    async def talk() -> None:
        connected: Any = triton_aio.InferenceServerClient(f"127.0.0.1:{grpc_port(server)}")
        async with connected as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("sure")
            assert (await client.get_model_metadata("sure", as_json=True))["name"] == "sure"
            got = await asyncio.gather(
                *[client.infer("digits", [fed("x", draw(rows), "FP32")]) for rows in range(1, 30)]
            )
            assert [result.as_numpy("label").shape for result in got] == [(rows,) for rows in range(1, 30)]
            with pytest.raises(InferenceServerException, match="'nobody'"):
                await client.infer("nobody", [fed("x", draw(1), "FP32")])

            async def asks() -> Any:
                for name in ("digits", "nobody"):
                    yield {"model_name": name, "inputs": [fed("x", draw(1), "FP32")], "request_id": name}

            answered = [(result, error) async for result, error in client.stream_infer(asks())]
            assert [error is None for _, error in answered] == [True, False]

    asyncio.run(talk())

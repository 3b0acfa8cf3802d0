"""NVIDIA's own client, as it comes, against a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

import artifacts
from server import Server

X = np.array([[1, 2], [3, np.inf]], np.float32)


@pytest.fixture(scope="module", params=["shared", "dedicated"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("triton")
    built: dict[str, Path] = {
        "same": artifacts.identity(folder / "same.onnx", 2),
        "half": artifacts.identity(folder / "half.onnx", 2, TensorProto.FLOAT16),
        "pair": artifacts.pair(folder / "pair.onnx"),
        "words": artifacts.texts(folder / "words.onnx"),
        "missing": folder / "missing.onnx",
    }
    models = {
        name: {"runtime": "onnx", "artifact": str(path), "isolation": request.param} for name, path in built.items()
    }
    routes = {"a route/ß": {"tiers": [{"name": "only", "model": "same"}]}}
    with Server(folder, {"models": models, "routes": routes}) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=20) as made:
        yield made


def given(name: str, array: np.ndarray[Any, Any], datatype: str, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("same")
    assert client.is_model_ready("same", "1")
    assert not client.is_model_ready("missing")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "servery"
    metadata = client.get_model_metadata("pair", "1")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [
        {"name": "a", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "b", "datatype": "INT64", "shape": [-1]},
    ]
    assert client.get_model_metadata("a route/ß")["name"] == "a route/ß"


@pytest.mark.parametrize("version", ["", "1"])
def test_infer_as_it_does_by_default(client: triton.InferenceServerClient, version: str) -> None:
    result = client.infer("same", [given("x", X, "FP32")], version, request_id="r-1")
    np.testing.assert_array_equal(result.as_numpy("y"), X)
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_version"] == "1"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer_in_every_mix_of_forms(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    a, b = np.array([[0.1, 2], [3, -4]], np.float32), np.array([2**53 + 1, -1], np.int64)
    result = client.infer(
        "pair",
        [given("b", b, "INT64", not binary_in), given("a", a, "FP32", binary_in)],
        outputs=[
            triton.InferRequestedOutput("d", binary_data=not binary_out),
            triton.InferRequestedOutput("c", binary_data=binary_out),
        ],
    )
    np.testing.assert_array_equal(result.as_numpy("c"), a)
    np.testing.assert_array_equal(result.as_numpy("d"), b)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["d", "c"]


@pytest.mark.parametrize("binary", [True, False])
def test_texts(client: triton.InferenceServerClient, binary: bool) -> None:
    words = np.array(
        [
            [
                "",
            ],
            ["naïve \U0001f600"],
        ],
        dtype=object,
    )
    outputs = [triton.InferRequestedOutput("same", binary_data=binary)]
    result = client.infer("words", [given("words", words, "BYTES", binary)], outputs=outputs)
    got = [word.decode() if isinstance(word, bytes) else word for word in np.ravel(np.asarray(result.as_numpy("same")))]
    assert got == ["", "naïve \U0001f600"]


def test_halves(client: triton.InferenceServerClient) -> None:
    result = client.infer("half", [given("x", X.astype(np.float16), "FP16")])
    np.testing.assert_array_equal(result.as_numpy("y"), X.astype(np.float16))


def test_a_route_by_a_name_that_must_be_escaped(client: triton.InferenceServerClient) -> None:
    result = client.infer("a route/ß", [given("x", X, "FP32")])
    np.testing.assert_array_equal(result.as_numpy("y"), X)
    assert result.get_response()["model_name"] == "a route/ß"


def test_options_that_the_client_can_send(client: triton.InferenceServerClient) -> None:
    result = client.infer(
        "same", [given("x", X, "FP32")], timeout=5_000_000, priority=1, headers={"x-request-id": "mine"},
        query_params={"trace": "1"}, parameters={"team": "a"},
    )  # fmt: skip
    np.testing.assert_array_equal(result.as_numpy("y"), X)


def test_the_same_client_in_many_threads(client: triton.InferenceServerClient, server: Server) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as several:
        arrays = [np.full((1, 2), number, np.float32) for number in range(40)]
        waiting = [several.async_infer("same", [given("x", array, "FP32")]) for array in arrays]
        for array, one in zip(arrays, waiting, strict=True):
            np.testing.assert_array_equal(one.get_result().as_numpy("y"), array)


def test_errors_carry_our_message(client: triton.InferenceServerClient) -> None:
    def fails(status: str, message: str, name: str, *inputs: triton.InferInput, **more: Any) -> None:
        with pytest.raises(InferenceServerException) as raised:
            client.infer(name, list(inputs), **more)
        assert raised.value.status() == status
        assert message in raised.value.message()

    x = given("x", X, "FP32")
    fails("404", "no route or model is called 'nobody'", "nobody", x)
    fails("404", "no version '9'", "same", x, model_version="9")
    fails("400", "'same' has no input 'z'; it takes 'x'", "same", given("z", X, "FP32"))
    fails("400", "input 'x' is FP32, but FP64 was sent", "same", given("x", X.astype(np.float64), "FP64"))
    fails("400", "'same' has no output 'z'", "same", x, outputs=[triton.InferRequestedOutput("z")])
    fails("400", "classification", "same", x, outputs=[triton.InferRequestedOutput("y", class_count=2)])
    fails("503", "missing.onnx does not exist", "missing", x)
    for ask in (client.get_log_settings, client.get_trace_settings, client.get_system_shared_memory_status):
        with pytest.raises(InferenceServerException, match=r"there (are|is) no"):
            ask()


def test_the_asynchronous_client(server: Server) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready("same")
            assert (await client.get_model_metadata("same"))["name"] == "same"
            result = await client.infer("same", [given("x", X, "FP32")])
            np.testing.assert_array_equal(result.as_numpy("y"), X)
            with pytest.raises(InferenceServerException, match="no route or model"):
                await client.infer("nobody", [given("x", X, "FP32")])

    asyncio.run(ask())


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("rows", [2, 300, 9_000])
@pytest.mark.parametrize("binary", [False, True])
def test_compressed_both_ways(client: triton.InferenceServerClient, coding: str, rows: int, binary: bool) -> None:
    sent = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    tensor = triton.InferInput("x", list(sent.shape), "FP32")
    tensor.set_data_from_numpy(sent, binary_data=binary)
    asked = [triton.InferRequestedOutput("y", binary_data=binary)]
    given = client.infer(
        "same", [tensor], outputs=asked, request_compression_algorithm=coding, response_compression_algorithm=coding
    )
    np.testing.assert_array_equal(given.as_numpy("y"), sent)


def test_a_models_configuration(client: triton.InferenceServerClient) -> None:
    told = client.get_model_config("same")
    assert (told["name"], told["backend"], told["max_batch_size"]) == ("same", "onnx", 32)
    assert told["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]
    assert told["version_policy"]["specific"]["versions"] == [1]
    assert client.get_model_config("same", "1") == told
    with pytest.raises(InferenceServerException, match="no version '9'"):
        client.get_model_config("same", "9")

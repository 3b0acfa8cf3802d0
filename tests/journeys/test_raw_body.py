"""A body that is nothing but the data of the only input, as Triton takes it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from onnx import TensorProto

import artifacts
from server import Server, pack_bytes

RAW = {"inference-header-content-length": "0"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("raw")
    artifacts.identity(folder / "same-fp32.onnx", 2)
    artifacts.identity(folder / "same-bool.onnx", 2, TensorProto.BOOL)
    artifacts.identity(folder / "three-rows.onnx", 2, rows=3)
    artifacts.texts(folder / "words.onnx")
    artifacts.pair(folder / "pair.onnx")
    models = {path.stem: {"runtime": "onnx", "artifact": path.name} for path in folder.glob("*.onnx")}
    with Server(folder, {"models": models}) as running:
        yield running


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_body_that_is_only_the_data_of_the_one_input(server: Server, rows: int) -> None:
    sent = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    for path in ("/v2/models/same-fp32/infer", "/v2/models/%73ame-fp32/infer"):
        reply = server.ask("POST", path, sent.tobytes(), RAW)
        assert reply.status == 200, reply.body
        size = int(reply.headers["inference-header-content-length"])
        head = json.loads(reply.body[:size])
        assert (head["outputs"][0]["name"], head["outputs"][0]["shape"]) == ("y", [rows, 2])
        assert reply.body[size:] == sent.tobytes()


def test_a_text_alone_is_one_element(server: Server) -> None:
    reply = server.ask("POST", "/v2/models/words/infer", "wörter\x00".encode(), RAW)
    assert reply.status == 200, reply.body
    size = int(reply.headers["inference-header-content-length"])
    assert reply.body[size:] == pack_bytes(["wörter\x00".encode()])


@pytest.mark.parametrize(
    ("name", "body", "piece"),
    [
        ("same-fp32", bytes(12), "12 bytes don't make whole rows of 8 bytes"),
        ("three-rows", bytes(8), "has 8 bytes; shape [3, 2] of FP32 needs 24"),
        ("pair", bytes(8), "name them; data alone is for models with one input"),
        ("same-bool", b"\x02\x00", "BOOL elements must be the bytes 0 or 1"),
    ],
)
def test_data_alone_that_does_not_fit(server: Server, name: str, body: bytes, piece: str) -> None:
    reply = server.ask("POST", f"/v2/models/{name}/infer", body, RAW)
    assert reply.status == 400
    assert piece in reply.error


def test_the_names_of_all_that_can_be_called(server: Server) -> None:
    names = server.get("/v2/models").json["models"]
    assert set(names) == {"same-fp32", "same-bool", "three-rows", "words", "pair"}

"""Several Versions of one Model, by number and by label, through the running server."""

from __future__ import annotations

import pytest

import artifacts
from server import Server, tensor

ASK = {"inputs": [tensor("x", "FP32", [1, 30], [0.0] * 30)]}
SURE = {1: [0.9, 0.1], 2: [0.2, 0.8], 7: [0.3, 0.7]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("versions")
    for number, sure in SURE.items():
        artifacts.constant(folder / "m" / str(number) / "model.onnx", sure)
    model = {"runtime": "onnx", "artifact": "m", "versions": {"latest": 2}, "labels": {"stable": 2, "next": 7}}
    listed = [{"number": 4, "artifact": "m/1/model.onnx"}]
    route = {"tiers": [{"name": "only", "model": "m", "version": "stable"}]}
    models = {"m": model, "listed": {"runtime": "onnx", "artifacts": listed}}
    return Server(folder, {"models": models, "routes": {"r": route}})


def sure_of(server: Server, path: str) -> tuple[str | None, list[float]]:
    reply = server.infer(path, ASK)
    assert reply.status == 200, reply.body
    said = reply.json
    return said.get("model_version"), [round(p, 3) for p in said["outputs"][1]["data"]]


def test_numbers_labels_and_the_latest(server: Server) -> None:
    with server:
        assert server.get("/v2/models/m").json["versions"] == ["2", "7"]
        assert sure_of(server, "m") == ("7", SURE[7])
        assert sure_of(server, "m/versions/2") == ("2", SURE[2])
        assert sure_of(server, "m/versions/stable") == ("2", SURE[2])
        assert sure_of(server, "m/versions/next") == ("7", SURE[7])
        assert sure_of(server, "listed") == ("4", SURE[1])
        assert sure_of(server, "r") == (None, SURE[2])
        gone = server.infer("m/versions/1", ASK)
        assert (gone.status, gone.error) == (404, "'m' has no version '1'; it has 2, 7, stable, next")
        assert server.get("/v2/models/m/versions/next/ready").status == 200
        query = "SELECT DISTINCT attempts ->> '$[0].model', attempts ->> '$[0].version' FROM records WHERE outcome = 'served'"
        assert len(server.await_records(query, 3)) == 3

"""The benchmark's own parts: the floor answers rightly, and the driver measures it against itself."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import artifacts
from servery.cli.child import free_port
from servery.wire.proto import open_inference_grpc_pb2 as pb

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[int]:
    """The port of a running floor with a classifier `rows` and an identity `tensors`."""
    rows = artifacts.classifier(tmp_path / "rows.onnx", features=4)
    tensors = artifacts.identity(tmp_path / "tensors.onnx")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, BENCHMARKS / "floor.py", str(port), f"rows={rows}", f"tensors={tensors}"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 50
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def ask(port: int, name: str, body: bytes, headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", f"/v2/models/{name}/infer", body, headers)
        response = connection.getresponse()
        assert response.status == 200
        return {key.lower(): value for key, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_the_floor_answers_a_json_row_as_the_model_does(floor: int, tmp_path: Path) -> None:
    row = [0.5, -1.0, 2.0, 0.25]
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": row}]}
    _, body = ask(floor, "rows", json.dumps(asked).encode(), {"content-type": "application/json"})
    answer = json.loads(body)
    session = ort.InferenceSession(str(tmp_path / "rows.onnx"))
    names = [output.name for output in session.get_outputs()]
    arrays = [np.asarray(array) for array in session.run(names, {"x": np.array([row], np.float32)})]
    expected = dict(zip(names, arrays, strict=True))
    assert answer["model_name"] == "rows"
    assert [output["name"] for output in answer["outputs"]] == names
    for output in answer["outputs"]:
        assert output["shape"] == list(expected[output["name"]].shape)
        assert np.array_equal(np.array(output["data"], np.float32), expected[output["name"]].ravel().astype(np.float32))


def test_the_floor_echoes_a_binary_tensor_larger_than_a_socket_buffer(floor: int) -> None:
    values = np.random.default_rng(1).normal(size=(1, 150_000)).astype("<f4")
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": list(values.shape),
        "parameters": {"binary_data_size": values.nbytes},
    }
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    sent = {"inference-header-content-length": str(len(header))}
    headers, body = ask(floor, "tensors", header + values.tobytes(), sent)
    length = int(headers["inference-header-content-length"])
    output = json.loads(body[:length])["outputs"][0]
    assert output == {**tensor, "name": "y"}
    assert body[length:] == values.tobytes()


def test_requests_at_random_moments_and_each_answer_is_looked_at(floor: int, tmp_path: Path) -> None:
    """What was sent is answered, wrong or without an answer: nothing is left out."""
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0.5, -1.0, 2.0, 0.25]}]}
    (tmp_path / "row.json").write_bytes(json.dumps(asked).encode())
    _, answer = ask(floor, "rows", (tmp_path / "row.json").read_bytes(), {})
    (tmp_path / "right").write_bytes(answer)
    (tmp_path / "wrong").write_bytes(answer.replace(b"label", b"lable"))

    def seen(port: int, expected: str) -> dict[str, float]:
        command = [sys.executable, BENCHMARKS / "open_loop.py", str(port), "/v2/models/rows/infer"]
        told = [tmp_path / "row.json", tmp_path / expected, "no-key", "200", "0.3", "1"]
        done = subprocess.run([*command, *told], capture_output=True, text=True, timeout=40, check=True)
        return json.loads(done.stdout)

    right = seen(floor, "right")
    assert (right["sent"], right["answered"], right["wrong"], right["broken"]) == (60, 60, 0, 0)
    assert 0 < right["p50_us"] <= right["p99_us"]
    wrong = seen(floor, "wrong")
    assert (wrong["answered"], wrong["wrong"]) == (60, 60)


def test_the_driver_measures_the_floor_against_itself(tmp_path: Path) -> None:
    missing = [name for name in ("wrk", "taskset") if shutil.which(name) is None]
    if missing or len(os.sched_getaffinity(0)) < 2:
        assert not missing or not os.environ.get("CI"), f"CI must install {missing}"
        pytest.skip(f"needs {' and '.join(missing) or 'two cores'}")
    command = [sys.executable, BENCHMARKS / "bench.py", "--pairs", "1", "--seconds", "1", "--other", "floor"]
    done = subprocess.run(
        [*command, "--rows", "binary", "--into", tmp_path], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = tmp_path.glob("*-bench.txt")
    lines = [line for line in written.read_text().splitlines() if line.startswith("600 KB binary, 4 in flight")]
    assert len(lines) == 1
    ratio, least, most = (float(cell) for cell in lines[0].split()[8:11])
    assert least == ratio == most > 0


def test_the_floor_over_grpc_answers_the_load_that_looks_at_each_answer(tmp_path: Path) -> None:
    rows = artifacts.classifier(tmp_path / "rows.onnx", features=4)
    message = tmp_path / "row.pb"
    asked = pb.ModelInferRequest(model_name="rows", raw_input_contents=[np.ones(4, "<f4").tobytes()])
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    message.write_bytes(asked.SerializeToString())
    port = free_port()
    floor = subprocess.Popen([sys.executable, BENCHMARKS / "grpc_floor.py", str(port), f"rows={rows}"])
    try:
        load = [sys.executable, BENCHMARKS / "grpc_load.py", str(port), message, "no-key", "4", "0.3"]
        done = subprocess.run([str(part) for part in load], capture_output=True, text=True, timeout=40, check=True)
    finally:
        floor.terminate()
        floor.wait(10)
    word, *figures = done.stdout.split()
    requests, micros, p50, p99, failed, statuses, timeouts, wrong = map(int, figures)
    assert (word, failed, statuses, timeouts, wrong) == ("RESULT", 0, 0, 0, 0)
    assert requests > 10
    assert 300_000 <= micros < 10_000_000
    assert 0 < p50 <= p99

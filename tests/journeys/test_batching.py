"""Batches as callers see them: nobody's rows, parameters or mistakes become another's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from living import Living, until
from server import Reply, tensor

CODE = """\
import time
import numpy as np

class Mixed:
    def predict(self, inputs, parameters):
        x = inputs["x"]
        time.sleep(float(x[:, 1].max()))
        if (x[:, 0] == 13).any():
            raise ValueError("unlucky")
        if (x[:, 0] == 14).any() and len(x) > 1:
            return {"y": x[:-1, :1], "rows": np.full((len(x) - 1, 1), len(x), np.float32)}
        return {"y": x[:, :1] * parameters.get("times", 1), "rows": np.full((len(x), 1), len(x), np.float32)}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Living]:
    (tmp_path / "mixed.py").write_text(CODE)
    spec = {"datatype": "FP32", "shape": [-1, 1]}
    mixed = {
        "runtime": "python", "artifact": "mixed.py", "class": "Mixed", "queue": 40, "batch": {"max_rows": 16},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", **spec}, {"name": "rows", **spec}],
    }  # fmt: skip
    with Living(tmp_path, {"models": {"mixed": mixed}}) as living:
        yield living


def ask(server: Living, value: float, sleep_s: float = 0.0, **parameters: Any) -> Reply:
    asked = {"inputs": [tensor("x", "FP32", [1, 2], [value, sleep_s])], "parameters": parameters}
    return server.infer("mixed", json.dumps(asked).encode())


def together(server: Living, asks: list[tuple[float, dict[str, Any]]]) -> list[Reply]:
    """These, while a first one keeps the model busy: so they wait, and run together where they may."""
    with ThreadPoolExecutor(len(asks) + 1) as pool:
        first = pool.submit(ask, server, 1, 0.4)
        until(first.running)
        replies = [pool.submit(ask, server, value, 0.0, **parameters) for value, parameters in asks]
        assert first.result().status == 200
        return [reply.result() for reply in replies]


def values(reply: Reply) -> tuple[float, float]:
    assert reply.status == 200, reply.body
    y, rows = (output["data"][0] for output in reply.json["outputs"])
    return y, rows


def test_each_gets_its_own_rows_and_they_do_run_together(server: Living) -> None:
    replies = [values(reply) for reply in together(server, [(float(at), {}) for at in range(100, 124)])]
    assert [y for y, _ in replies] == [float(at) for at in range(100, 124)]
    assert max(rows for _, rows in replies) > 2


@pytest.mark.parametrize(("bad", "status"), [(13.0, 502), (14.0, 200)])
def test_a_bad_row_harms_its_own_caller_only(server: Living, bad: float, status: int) -> None:
    replies = together(server, [(float(at), {}) for at in (1, 2, bad, 4, 5, 6)])
    assert [reply.status for reply in replies] == [200, 200, status, 200, 200, 200]
    assert [values(reply)[0] for reply in replies if reply.status == 200 and reply is not replies[2]] == [1, 2, 4, 5, 6]


def test_parameters_reach_the_model_and_never_another_callers(server: Living) -> None:
    assert values(ask(server, 5, times=3))[0] == 15
    asks = [(float(at), {"times": at % 3}) for at in range(101, 125)]
    replies = [values(reply)[0] for reply in together(server, asks)]
    assert replies == [at * (at % 3) for at in range(101, 125)]
    reply = ask(server, 5, note="x" * 9_000)
    assert reply.status == 400
    assert "at most 8192 are taken" in reply.json["error"]


def test_the_queue_is_bounded_and_says_when_to_come_back(server: Living) -> None:
    with ThreadPoolExecutor(60) as pool:
        replies = [reply.result() for reply in [pool.submit(ask, server, 100.0 + at, 0.2) for at in range(60)]]
    refused = [reply for reply in replies if reply.status != 200]
    assert all(reply.status == 503 and int(reply.headers["retry-after"]) >= 1 for reply in refused)
    assert "full queue" in refused[0].json["error"]
    assert len(replies) - len(refused) >= 40
    assert all(values(reply)[0] == 100 + at for at, reply in enumerate(replies) if reply.status == 200)

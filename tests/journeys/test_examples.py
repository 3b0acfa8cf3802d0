"""Each manifest under examples/ runs and does what its comments say."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import estimators
from servery.cli.child import Child
from servery.host.clock import Clock

EXAMPLES = Path(__file__).parents[2] / "examples"
SETOSA = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The examples with their models made."""
    here = tmp_path / "examples"
    shutil.copytree(EXAMPLES, here, ignore=shutil.ignore_patterns("models", ".servery", "*.skops"))
    subprocess.run([sys.executable, "-W", "error", here / "make_models.py"], check=True, timeout=30)
    return here


def ask(port: int, key: str = "", flower: list[float] = SETOSA) -> tuple[int, dict[str, str], dict[str, object]]:
    tensor = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": flower}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        connection.request("POST", "/v2/models/flowers/infer", json.dumps({"inputs": [tensor]}), headers)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, json.loads(reply.read())
    finally:
        connection.close()


def label(answer: dict[str, object]) -> object:
    outputs = answer["outputs"]
    assert isinstance(outputs, list)
    return next(output["data"] for output in outputs if output["name"] == "label")


def test_every_example_is_tested_here() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/servery.yaml")} == {
        "tenants",
        "fixed-with-fallback",
        "own-code",
    }


def test_tenants_need_their_key_and_keep_to_their_limits(folder: Path) -> None:
    with Child(["up", folder / "tenants" / "servery.yaml"], 0, Clock()) as child:
        status, _, answer = ask(child.port, "try-me")
        assert (status, label(answer)) == (200, [0])
        assert ask(child.port)[0] == 401
        assert ask(child.port, "guessed")[0] == 401
        assert [ask(child.port, "try-me-slowly")[0] for _ in range(5)] == [200] * 5
        status, headers, _ = ask(child.port, "try-me-slowly")
        assert status == 429
        assert float(headers["retry-after"]) > 0
        assert ask(child.port, "try-me")[0] == 200


def test_the_fallback_answers_when_the_first_tier_cannot(folder: Path) -> None:
    manifest = folder / "fixed-with-fallback" / "servery.yaml"
    with Child(["up", manifest], 0, Clock()) as child:
        status, headers, answer = ask(child.port)
        assert (status, headers["servery-tier"], label(answer)) == (200, "first", [0])
    (folder / "models" / "flowers.onnx").write_text("\n")
    with Child(["up", manifest], 0, Clock(), ready="/v2/models/flowers/ready") as child:
        status, headers, answer = ask(child.port)
        assert (status, headers["servery-tier"], label(answer)) == (200, "fallback", [1])


def test_rules_answer_what_is_clear_and_an_estimator_the_rest(folder: Path) -> None:
    estimators.need_sklearn()
    subprocess.run([sys.executable, "-W", "error", folder / "own-code" / "make_estimator.py"], check=True, timeout=40)
    with Child(["up", folder / "own-code" / "servery.yaml"], 0, Clock(), ready="/v2/health/ready") as child:
        for flower, tier, species in ((SETOSA, "rules", 0), ([6.3, 2.8, 5.0, 1.7], "estimator", 2)):
            status, headers, answer = ask(child.port, flower=flower)
            assert (status, headers["servery-tier"], label(answer)) == (200, tier, [species])

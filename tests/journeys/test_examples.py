"""Each manifest under examples/ runs and does what its comments say."""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import openai
import pytest

import estimators
from living import servery, until
from servery.cli.child import Child, free_port
from servery.cli.examples import ANSWERING
from servery.host.clock import Clock

EXAMPLES = Path(__file__).parents[2] / "examples"
SETOSA = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The examples with their models made."""
    here = tmp_path / "examples"
    shutil.copytree(EXAMPLES, here, ignore=shutil.ignore_patterns("models", ".servery", "*.skops", "answers.csv"))
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
        "assistant",
        "experiment",
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


def run(script: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", script, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextlib.contextmanager
def assistant(folder: Path) -> Generator[Child]:
    """The example with its vendor, as its README says to start them, on free ports."""
    assert run(folder / "arithmetic.py").returncode == 0
    manifest, port = folder / "servery.yaml", free_port()
    manifest.write_text(manifest.read_text().replace("127.0.0.1:9000", f"127.0.0.1:{port}"))
    columns = [part for model in ANSWERING for part in ("--answer", model)]
    vendor = ["fake-vendor", "--answers", folder / "answers.csv", *columns]
    with Child(vendor, port, Clock(), "/vendor/invoice"), Child(["up", manifest], 0, Clock()) as child:
        yield child


def test_an_assistant_answers_its_tenants_within_their_budgets(folder: Path) -> None:
    with assistant(folder / "assistant") as child:
        done = run(folder / "assistant" / "send.py", "--url", child.url, "--limit", "120")
        assert done.returncode == 0, done.stderr
        told = re.search(
            r"assistant: 120 questions in [\d.]+ s, (\d+) right \(answered by cheap \d+, mid \d+", done.stdout
        )
        assert told, done.stdout
        assert int(told[1]) >= 108
        spent = run(folder / "assistant" / "send.py", "--url", child.url, "--key", "try-me-slowly")
        assert spent.returncode == 1
        assert "429" in spent.stderr
        assert "budget of $0.01 a day" in spent.stderr
        assert "401" in run(folder / "assistant" / "send.py", "--url", child.url, "--key", "guessed").stderr
        shown = re.search(r'"content": "(.*?)"', (EXAMPLES / "assistant" / "README.md").read_text("utf-8"))
        assert shown
        with (folder / "assistant" / "answers.csv").open(newline="", encoding="utf-8") as file:
            question = next(row for row in csv.DictReader(file) if row["prompt"] == shown[1])
        client = openai.OpenAI(base_url=f"{child.url}/v1", api_key="try-me")
        stream = client.chat.completions.create(
            model="assistant", messages=[{"role": "user", "content": question["prompt"]}], stream=True
        )
        assert question["label"] in "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_the_greeting_that_is_liked_better_is_to_be_shipped(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "experiment" / "servery.yaml", tmp_path)
    manifest, data = tmp_path / "servery.yaml", tmp_path / ".servery"

    def experiment(*words: str) -> str:
        return servery("experiment", *words, "--data", data).stdout

    with Child(["up", manifest], 0, Clock()) as child:
        until(lambda: "running" in experiment("start", "warmer"))
        line = http.client.HTTPConnection("127.0.0.1", child.port, timeout=10)

        def told(fact: dict[str, object]) -> tuple[int, str]:
            line.request("POST", "/servery/v1/feedback", json.dumps(fact))
            reply = line.getresponse()
            return reply.status, reply.read().decode()

        fact: dict[str, object] = {"name": "liked", "experiment": "warmer"}
        for user in range(260):
            prompt = {"model": "greeting", "user": str(user), "messages": [{"role": "user", "content": "Hi"}]}
            line.request("POST", "/v1/chat/completions", json.dumps(prompt))
            reply = line.getresponse()
            liked = b"Good to see you" in reply.read() or user % 3 == 0
            fact |= {"record_id": reply.headers["servery-record-id"], "value": liked}
            assert told(fact)[0] == 202
        for wrong, said in (({"experiment": "colder"}, "there is 'warmer'"), ({"name": "like"}, "but at 'liked'")):
            status, message = told({**fact, **wrong})
            assert (status, said in message) == (400, True)
        line.close()
        until(
            lambda: "feedback liked is better by" in experiment("report", "warmer"),
            said=lambda: experiment("report", "warmer"),
        )
        assert "ship warm" in experiment("stop", "warmer")
        assert '"models":{"only":"warm"}' in experiment("report", "warmer")


def test_the_questions_are_the_same_each_time_and_what_is_right_is_right(tmp_path: Path) -> None:
    script = EXAMPLES / "assistant" / "arithmetic.py"
    for name, options in (("a", []), ("b", []), ("c", ["--seed", "2", "--count", "50"])):
        assert run(script, "--out", str(tmp_path / name), *options).returncode == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    texts = {name: (tmp_path / name).read_text("utf-8") for name in "ac"}
    rows = {name: list(csv.DictReader(io.StringIO(text, newline=""))) for name, text in texts.items()}
    assert (len(rows["a"]), len(rows["c"])) == (360, 50)
    assert (
        len({row["prompt"] for row in rows["a"]} & {row["prompt"] for row in rows["c"]}) < 5
    )  # short ones may be alike
    for row in rows["a"]:
        for model in ANSWERING:
            assert (re.findall(r"\d+", row[model])[-1] == row["label"]) == (row[f"{model} right"] == "1"), row
    hard = [
        [int(row["small right"]) for row in rows["a"] if (int(row["steps"]) > 4) is above] for above in (False, True)
    ]
    assert sum(hard[0]) / len(hard[0]) > sum(hard[1]) / len(hard[1]) + 0.3

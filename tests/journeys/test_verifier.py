"""`servery verifier`: from judged answers to a file by which a cascade lets an answer stand, or asks the next tier."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fake_vendor import FakeVendor
from living import apply, servery
from server import Reply, Server
from servery.learning.answers import Columns, read_answers
from servery.learning.examples import Unusable
from servery.learning.files import read_verifier

pytestmark = pytest.mark.timeout(120)

ASKS = "Ann has {} bags of {} apples and finds {} more. How many apples does she have?"
SAYS = "She has {a} x {b} = {ab} apples in bags.\nWith the others she has {ab} + {c} = {all}.\n#### {all}"
GOOD = SAYS.format(a=6, b=7, ab=42, c=8, all=50)
BAD = SAYS.format(a=6, b=7, ab=49, c=8, all=50)  # 6 x 7 is another number, and so is 49 + 8
PROMPT = ASKS.format(6, 7, 8)


def write_answers(path: Path, count: int, seed: int) -> Path:
    """Right answers whose arithmetic holds; of the wrong ones, four in five compute wrongly."""
    dice = random.Random(seed)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["prompt", "answer", "right", "strong", "shop"])
        for row in range(count):
            a, b, c = (dice.randint(2, 40) for _ in range(3))
            right, slips = dice.random() < 0.65, dice.random() < 0.8
            ab = a * b + (0 if right or not slips else dice.choice((-9, -1, 1, 10)))
            text = SAYS.format(a=a, b=b, ab=ab, c=c, all=a * b + c)
            lines.writerow([ASKS.format(a, b, c), text, int(right), int(dice.random() < 0.9), f"s{row % 6}"])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verifier")
    data, plot = write_answers(folder / "answers.csv", 300, 1), folder / "curve.svg"
    options = ("--out", folder / "v.npz", "--folds", 2, "--strong", "strong", "--plot", plot)
    done = servery("verifier", "train", "--data", data, *options, limit_s=100)
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert float(lines["this verifier"][2]) > 0.8
    assert float(lines["chance"][1]) == 0.5
    assert float(lines["the cascade with this verifier"][5]) > float(lines["a router"][2])
    assert "the cascade with this verifier above a router (95 %, paired bootstrap): +" in done.stdout
    confidence = read_verifier(folder / "v.npz").confidence
    assert f"accept: {{check: verifier, verifier: v.npz, confidence: {confidence:g}}}" in done.stdout
    assert plot.read_text().startswith("<?xml")
    return folder / "v.npz"


def test_it_knows_answers_that_it_has_not_seen(trained: Path) -> None:
    found = read_verifier(trained)
    assert found.rows == 300
    assert found.verifier.chance(PROMPT, GOOD) > found.confidence > found.verifier.chance(PROMPT, BAD)


def test_evaluate_says_what_it_is_worth(trained: Path, tmp_path: Path) -> None:
    data = write_answers(tmp_path / "new.csv", 300, 2)
    done = servery("verifier", "evaluate", trained, "--data", data, "--confidence", 0.5)
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    auc, calibration = float(lines["this verifier"][2]), float(lines["this verifier"][-1])
    assert auc > 0.8
    assert calibration < 0.12
    assert "From a confidence of 0.5 on, " in done.stdout
    assert "dollars" not in done.stdout  # nobody knows what the next tier answers
    assert servery("verifier", "evaluate", trained, "--data", data, "--confidence", 0.5).stdout == done.stdout


def test_evaluate_beside_a_router(trained: Path, tmp_path: Path) -> None:
    data = write_answers(tmp_path / "new.csv", 200, 3)
    columns = ("--data", data, "--cheap", "right", "--strong", "strong", "--folds", 2)
    done = servery("router", "train", *columns, "--out", tmp_path / "r.npz", limit_s=100)
    assert done.returncode == 0, done.stderr
    wanted = (
        "--data",
        data,
        "--strong",
        "strong",
        "--router",
        tmp_path / "r.npz",
        "--cheap-usd",
        20,
        "--strong-usd",
        60,
    )
    done = servery("verifier", "evaluate", trained, *wanted)
    assert done.returncode == 0, done.stderr
    assert "\na router  " in done.stdout
    assert "\nprompt length  " in done.stdout
    assert "for 33.3 % of the dollars" in done.stdout
    done = servery("verifier", "evaluate", tmp_path / "r.npz", "--data", data)
    assert (done.returncode, "is a router, and no verifier" in done.stderr) == (1, True)


def test_groups_and_what_is_wanted_without_another_models_answers(tmp_path: Path) -> None:
    data = write_answers(tmp_path / "answers.csv", 200, 4)
    for wanted, said in ((("--accept", 0.75), "of which 7"), (("--share", 0.4), "40.0 % go on.")):
        options = ("--out", tmp_path / "v.npz", "--folds", 2, "--group", "shop", *wanted)
        done = servery("verifier", "train", "--data", data, *options, limit_s=100)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


def manifest(vendor: FakeVendor, confidence: float) -> dict[str, Any]:
    said = {"good": GOOD, "bad": BAD, "big": "It is 50.", "tool": ""}
    models = {
        name: {
            "runtime": "openai",
            "endpoint": vendor.url,
            "serves": f"{name}?says={quote(text)}" if text else f"{name}?calls=look_up",
            "price": PRICE,
        }
        for name, text in said.items()
    }
    accept = {"check": "verifier", "verifier": "v.npz", "confidence": confidence}
    routes = {
        f"{kind} {name}": {
            "policy": {"kind": kind, "retries": 0, **({"thresholds": [1]} if kind == "complexity" else {})},
            "tiers": [{"name": "cheap", "model": name, "accept": accept}, {"name": "dear", "model": "big"}],
        }
        for kind in ("cascade", "complexity")
        for name in ("good", "bad", "tool")
    }
    return {"models": models, "routes": routes}


@pytest.fixture(scope="module")
def server(vendor: FakeVendor, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "v.npz").write_bytes(trained.read_bytes())
    with Server(folder, manifest(vendor, read_verifier(trained).confidence)) as server:
        (folder / "v.npz").unlink()  # what is served is what was published
        yield server
    assert [path.suffix for path in (server.data / "verifiers").iterdir()] == [".npz"]


def chat(server: Server, route: str, stream: bool, **more: Any) -> Reply:
    body = {"model": route, "messages": [{"role": "user", "content": PROMPT}], "stream": stream, **more}
    return server.ask("POST", "/v1/chat/completions", json.dumps(body))


def text(reply: Reply, stream: bool) -> str:
    if not stream:
        return reply.json["choices"][0]["message"]["content"]
    lines = [line.removeprefix(b"data: ") for line in reply.body.split(b"\n\n") if line]
    assert lines[-1] == b"[DONE]"
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["cascade", "complexity"])
def test_a_good_answer_stands_and_a_bad_one_is_the_next_tiers_turn(server: Server, kind: str, stream: bool) -> None:
    reply = chat(server, f"{kind} good", stream)
    assert (reply.status, reply.headers["servery-tier"], text(reply, stream)) == (200, "cheap", GOOD)
    reply = chat(server, f"{kind} bad", stream)
    assert (reply.status, reply.headers["servery-tier"], text(reply, stream)) == (200, "dear", "It is 50.")
    wanted = reply.headers["servery-record-id"]
    ((made,),) = server.await_records(f"select attempts from records where id = x'{wanted}'", 1)
    told = [(attempt["tier"], attempt["answered"], attempt["pico_usd"] > 0) for attempt in json.loads(made)]
    assert told == [("cheap", 0, True), ("dear", 1, True)]  # the wasted call is paid too


def test_an_answer_without_a_text_is_never_sure(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    reply = chat(server, "cascade tool", False, tools=[tool])
    assert (reply.status, reply.headers["servery-tier"]) == (200, "dear")


def test_a_file_that_is_gone_or_broken_is_told_with_its_line_and_changes_nothing(
    server: Server, trained: Path, tmp_path: Path
) -> None:
    done = apply(server)
    assert done.returncode == 1
    assert "routes.cascade good.tiers[0].accept.verifier" in done.stderr.replace('["', ".").replace('"]', "")
    assert "v.npz can't be read: No such file or directory" in done.stderr
    (server.folder / "v.npz").write_bytes(b"no verifier")
    done = servery("check", server.manifest)
    assert (done.returncode, "is not a verifier: write one with" in done.stdout + done.stderr) == (1, True), done
    (server.folder / "v.npz").write_bytes(trained.read_bytes())
    done = apply(server)
    assert done.returncode == 0, done.stderr
    assert chat(server, "cascade good", False).headers["servery-tier"] == "cheap"


HEAD = "prompt,answer,right\n"
GAP = "prompt,answer,right,strong\n"


@pytest.mark.parametrize(
    ("lines", "strong", "said"),
    [
        ("", "", r"has no column 'prompt'; it has none"),
        ("prompt,answer\n", "", r"has no column 'right'"),
        (HEAD, "strong", r"has no column 'strong'"),
        (HEAD + "a,b,1\n", "", r"has 1 answers; at least 50 are needed"),
        (HEAD + "a,b,perhaps\n", "", r":2: 'right' is 'perhaps'; write 1 for a right answer and 0 for a wrong one"),
        (HEAD + "a,b,1\n" * 60, "", r"the model answers all prompts alike"),
        (GAP + "a,b,1,0\n" * 40 + "a,b,0,0\n" * 40, "strong", r"send everything to the cheap one"),
    ],
)
def test_what_is_said_of_answers_that_teach_nothing(tmp_path: Path, lines: str, strong: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(lines)
    with pytest.raises(Unusable, match=said):
        read_answers(path, Columns(strong=strong))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--share", 0.5, "--accept", 0.5), "say one of --accept, --share, --recover and --cost"),
        (("--recover", 0.5), "the gap isn't known without --strong"),
        (("--cost", 0.5), "even the cheap model costs more"),
        (("--cheap-usd", 10), "it has to be above --cheap-usd"),
        (("--plot", "curve.png"), "needs --strong"),
    ],
)
def test_wishes_that_make_no_sense(tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    data = write_answers(tmp_path / "a.csv", 60, 1)
    done = servery("verifier", "train", "--data", data, "--out", tmp_path / "v.npz", *arguments, limit_s=100)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_what_cant_be_promised_is_not_written(tmp_path: Path) -> None:
    data = write_answers(tmp_path / "a.csv", 100, 1)
    done = servery("verifier", "train", "--data", data, "--out", tmp_path / "none" / "v.npz", limit_s=100)
    assert (done.returncode, "doesn't exist" in done.stderr) == (1, True)
    data.write_text(HEAD + "".join(f"p{at},a,{at % 2}\n" for at in range(80)))
    done = servery("verifier", "train", "--data", data, "--out", tmp_path / "v.npz", "--accept", 1, limit_s=100)
    assert done.returncode == 1
    assert "no confidence from which on 100 %" in done.stderr
    assert not (tmp_path / "v.npz").exists()

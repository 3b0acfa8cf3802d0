"""`servery route calibrate` on the digits example: its manifest and its images, with three small models made here."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from onnx import TensorProto, helper
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import artifacts
from server import Server, tensor
from servery.cli.app import build
from servery.cli.child import servery_command
from servery.cli.examples import DIGITS, copy_example

WIDE = {"cheap": 0, "mid": 60, "premium": 1500}  # hidden units drawn at random; 0: straight from 20 pixels


def train(folder: Path, name: str, images: Any, labels: Any) -> None:
    """A least-squares classifier of the example's inputs and outputs, over random hidden units."""
    draw, hidden = np.random.default_rng(4), WIDE[name]
    mixed = draw.normal(0, 0.03, (64, hidden)) if hidden else np.eye(64)[:, 20:40] / 16
    features = np.maximum(images @ mixed, 0)
    wanted = np.eye(10)[labels.astype(int)] * 2 - 1
    inner = features.T @ features + np.eye(features.shape[1]) * 0.5
    weights = np.linalg.solve(inner, features.T @ wanted) * 6
    artifacts.save(
        folder / "models" / f"{name}.onnx",
        [
            helper.make_node("MatMul", ["pixels", "mixed"], ["drawn"]),
            helper.make_node("Relu", ["drawn"], ["features"]),
            helper.make_node("MatMul", ["features", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        ],
        [artifacts.tensor("pixels", [artifacts.ROWS, 64])],
        [
            artifacts.tensor("label", [artifacts.ROWS], TensorProto.INT64),
            artifacts.tensor("probabilities", [artifacts.ROWS, 10]),
        ],
        {"mixed": mixed.astype(np.float32), "weights": weights.astype(np.float32)},
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder, trained."""
    folder = tmp_path_factory.mktemp("digits")
    copy_example(DIGITS, folder)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(2).permutation(len(images))
    train_rows, held = order[:700], order[700:]
    for name in WIDE:
        train(folder, name, images[train_rows], labels[train_rows])
    with (folder / "held-out.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["label", *(f"p{number}" for number in range(64))])
        lines.writerows([labels[row], *map(int, images[row])] for row in held)
    return folder


@pytest.fixture
def manifest(digits: Path) -> Path:
    """The example's own manifest, fresh."""
    path = digits / "servery.yaml"
    path.write_bytes((files("servery") / "scaffold" / "digits" / "servery.yaml").read_bytes())
    return path


def calibrate(manifest: Path, *more: str | Path, route: str = "digits") -> subprocess.CompletedProcess[str]:
    data = manifest.parent / "held-out.csv"
    return subprocess.run(
        [*servery_command(), "route", "calibrate", route, manifest, "--data", data, *more],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={"PATH": str(Path(sys.executable).parent), "LANG": "C.UTF-8"},
    )


def thresholds(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"accept: \{confidence: ([0-9.]+)\}", text)]


def test_calibrate_writes_thresholds_that_are_then_served(manifest: Path, tmp_path: Path) -> None:
    before = manifest.read_text()
    done = calibrate(manifest, "--accuracy", "0.93", "--write", "--plot", tmp_path / "curve.svg")
    assert done.returncode == 0, done.stderr
    assert "Promised: 93 % of the rows or more are answered rightly, with a probability of at least 95 %" in done.stdout
    assert {"before", "after", "cheap alone", "premium alone"} <= set(re.findall(r"^\S+(?: alone)?", done.stdout, re.M))
    assert ElementTree.parse(tmp_path / "curve.svg").getroot().tag.endswith("svg")
    assert "cost (dollars per million rows)" in (tmp_path / "curve.svg").read_text()
    after = manifest.read_text()
    number = r"(?<=accept: \{confidence: )[0-9.]+"
    assert re.sub(number, "N", after) == re.sub(number, "N", before)
    chosen = thresholds(after)
    assert len(chosen) == 2
    assert chosen != [0.95, 0.8]
    changed = [line[1:] for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert changed
    assert all(line in after.splitlines() for line in changed)

    rows = np.loadtxt(manifest.parent / "held-out.csv", delimiter=",", skiprows=1, dtype=np.float32)
    routes = {"routes": {"digits": {"policy": {"kind": "cascade"}, "tiers": served_tiers(chosen)}}}
    models = {name: declared(manifest.parent / "models" / f"{name}.onnx") for name in WIDE}
    with Server(tmp_path / "served", {"models": models, **routes}) as server:
        asked = {"inputs": [tensor("pixels", "FP32", (len(rows), 64), rows[:, 1:].ravel().tolist())]}
        reply = server.infer("digits", asked)
        assert reply.status == 200, reply.body
        assert (reply.tensors()["label"] == rows[:, 0]).mean() >= 0.93
        told = dict(part.split("=") for part in reply.headers["servery-tier"].split(","))
    cells = next(line for line in done.stdout.splitlines() if line.startswith("after")).split()
    for at, name in enumerate(WIDE):  # on all examples, not only those that tested
        assert int(told.get(name, 0)) / len(rows) == pytest.approx(float(cells[3 + at]) / 100, abs=0.08)


def declared(artifact: Path) -> dict[str, Any]:
    return {"runtime": "onnx", "artifact": str(artifact), "confidence": {"output": "probabilities"}}


def served_tiers(accept: list[float]) -> list[dict[str, Any]]:
    tiers: list[dict[str, Any]] = [{"name": name, "model": name} for name in WIDE]
    for tier, confidence in zip(tiers, accept, strict=False):
        tier["accept"] = {"confidence": confidence}
    return tiers


def test_what_cannot_be_promised_is_told_with_what_can(manifest: Path, tmp_path: Path) -> None:
    before = manifest.read_text()
    done = calibrate(manifest, "--accuracy", "0.999", "--write", "--plot", tmp_path / "curve.png")
    assert done.returncode == 1
    best = re.search(r"about --accuracy (0\.\d+);", done.stderr)
    assert best, done.stderr
    assert 0.8 < float(best[1]) < 0.999
    assert "before" in done.stdout
    assert "after" not in done.stdout
    assert manifest.read_text() == before
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_bands_and_dollars_within_the_range(manifest: Path) -> None:
    text = manifest.read_text().replace("{confidence: 0.95}", "{confidence: 0.95, range: [0.5, 0.96]}")
    manifest.write_text(text)
    done = calibrate(manifest, "--cost", "1000", "--share", "cheap=0..0.9", "--risk", "0.1")
    assert done.returncode == 0, done.stderr
    assert "a million rows cost $1,000 or less on the mean" in done.stdout
    assert "cheap answers 0 % to 90 % of the rows, with a probability of at least 90 %" in done.stdout
    assert manifest.read_text() == text  # nothing is written unasked
    (chosen,) = re.findall(r"^\+ .*cheap.*confidence: ([0-9.]+), range: \[0.5, 0.96\]\}", done.stdout, re.MULTILINE)
    assert 0.5 <= float(chosen) <= 0.96


WRONG = [
    (("--accuracy", "0.9"), "digit", 1, "did you mean 'digits'?"),
    (("--accuracy", "0.9"), "always-cheap", 1, "no cascade"),
    (("--accuracy", "0.9", "--label", "truth"), "digits", 1, "no column `truth`"),
    (("--accuracy", "0.9", "--answer", "nothing"), "digits", 1, "has no output 'nothing'"),
    (("--accuracy", "0.9", "--answer", "probabilities"), "digits", 1, "not one value a row"),
    ((), "digits", 2, "say what you want"),
    (("--share", "cheap=0.9..0.1"), "digits", 2, "write TIER=LOW..HIGH"),
    (("--share", "chap=0.1..0.9"), "digits", 2, "did you mean 'cheap'?"),
    (("--cost", "1", "--plot", "curve.gif"), "digits", 2, "ends in .png or .svg"),
    (("--cost", "1", "--plot", "nowhere/curve.png"), "digits", 2, "the folder nowhere doesn't exist"),
]


def within(*arguments: str | Path) -> Any:
    """The command in this process: it ends before it does anything that takes long."""
    return CliRunner().invoke(build("route"), ["route", "calibrate", *map(str, arguments)])


@pytest.mark.parametrize(("options", "route", "code", "message"), WRONG)
def test_what_is_wrong_is_told(manifest: Path, options: tuple[str, ...], route: str, code: int, message: str) -> None:
    done = within(route, manifest, "--data", manifest.parent / "held-out.csv", *options)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in " ".join(done.stderr.split())


def test_a_model_without_a_price(manifest: Path) -> None:
    manifest.write_text(re.sub(r"\n    price: .*|\n    ceiling: .*", "", manifest.read_text()))
    done = within("digits", manifest, "--data", manifest.parent / "held-out.csv", "--cost", "1")
    assert done.exit_code == 1
    assert "the model 'digits-cheap' has no price" in done.stderr
    assert "price: {usd_per_hour: 0.05}" in done.stderr


def test_a_picture_without_its_extra_is_refused_before_anything_is_asked(manifest: Path) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from servery.cli.app import main; main()"
    told = ("route", "calibrate", "digits", manifest, "--data", "none.csv", "--cost", "1", "--plot", "x.png")
    done = subprocess.run([sys.executable, "-c", code, *told], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "pip install 'servery[plot]'" in done.stderr

"""`servery router`: from judged prompts to a file that knows which ones need the strong model."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

import living
from living import servery
from server import Server
from servery.control.apply import check
from servery.learning.examples import Unusable
from servery.learning.files import read_router, write_router
from servery.learning.prompts import Columns, read_answered

WORDS = ["apple", "river", "stone", "seven", "quick", "bright", "under", "paper", "music", "green", "house", "water"]
HARD, EASY = "Prove that the sum of these is even: {}.", "What is {}?"


def write_prompts(path: Path, count: int, seed: int) -> Path:
    """Hard and easy ones: the cheap model is right on 25 and 90 % of them, the strong one on 85 and 92 %."""
    dice = random.Random(seed)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["prompt", "cheap", "strong", "subject"])
        for row in range(count):
            hard = dice.random() < 0.4
            text = (HARD if hard else EASY).format(" ".join(dice.choices(WORDS, k=dice.randint(3, 25))))
            cheap, strong = dice.random() < (0.25 if hard else 0.9), dice.random() < (0.85 if hard else 0.92)
            lines.writerow([text, int(cheap), str(strong), f"s{row % 6}"])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("router")
    data = write_prompts(folder / "prompts.csv", 400, 1)
    done = servery(
        "router", "train", "--data", data, "--out", folder / "r.npz", "--folds", 2, "--share", 0.4, limit_s=100
    )
    assert done.returncode == 0, done.stderr
    assert "this router, on prompts that it had not seen" in done.stdout
    assert "40.0 % of these prompts go to the strong model" in done.stdout
    return folder / "r.npz"


@pytest.mark.timeout(120)
def test_it_knows_hard_prompts_that_it_has_not_seen(trained: Path) -> None:
    router = read_router(trained)
    assert router.rows == 400
    hard, easy = (router.scorer.gain(text.format("water under seven houses")) for text in (HARD, EASY))
    assert hard > router.threshold > easy
    assert hard - easy > 0.3  # 0.6 is true


@pytest.mark.timeout(120)
def test_a_range_must_hold_the_threshold_that_a_router_was_trained_for(trained: Path, tmp_path: Path) -> None:
    threshold = read_router(trained).threshold
    model = {"runtime": "openai", "endpoint": "http://127.0.0.1:9/v1", "serves": "gpt-4o-mini"}
    tiers = [{"name": "cheap", "model": "own", "share": [0.5, 0.7]}, {"name": "dear", "model": "big"}]
    for low, held in ((threshold - 0.1, True), (threshold + 0.05, False)):
        policy = {"kind": "complexity", "router": str(trained), "ranges": [[low, threshold + 0.1]]}
        declared = {
            "servery": 1,
            "models": {"own": model, "big": model},
            "routes": {"r": {"policy": policy, "tiers": tiers}},
        }
        path = tmp_path / "servery.yaml"
        path.write_text(json.dumps(declared))
        checked = check(path)
        assert [problem.where for problem in checked.problems] == ([] if held else ["routes.r.policy.ranges[0]"])
        assert checked.files.routers["r"].threshold == threshold
    assert f"{threshold:g} lies outside" in str(checked.problems[0])


@pytest.mark.timeout(120)
def test_gains_are_right_on_the_mean(trained: Path, tmp_path: Path) -> None:
    answered = read_answered(write_prompts(tmp_path / "new.csv", 1000, 5), Columns())
    scorer = read_router(trained).scorer
    foretold = sum(scorer.gain(text) for text in answered.texts) / 1000
    assert foretold == pytest.approx(answered.judged.gain.mean(), abs=0.1)


@pytest.mark.timeout(120)
def test_evaluate_says_what_it_is_worth(trained: Path, tmp_path: Path) -> None:
    data = write_prompts(tmp_path / "new.csv", 300, 2)
    plot = tmp_path / "curve.svg"
    done = servery("router", "evaluate", trained, "--data", data, "--plot", plot, limit_s=100)
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert float(lines["this router"][2]) > 0.75
    assert float(lines["chance"][1]) == 0.5
    assert "the best single model is the strong one" in done.stdout
    assert plot.read_text().startswith("<?xml")
    assert servery("router", "evaluate", trained, "--data", data, limit_s=100).stdout == done.stdout


@pytest.mark.timeout(120)
def test_groups_costs_and_other_columns(tmp_path: Path) -> None:
    data = write_prompts(tmp_path / "prompts.csv", 120, 3)
    text = data.read_text().replace("prompt,cheap,strong", "q,small,large", 1)
    with gzip.open(tmp_path / "prompts.csv.gz", "wt") as file:
        file.write(text)
    columns = ("--prompt", "q", "--cheap", "small", "--strong", "large", "--group", "subject")
    cost = ("--cost", 25, "--cheap-usd", 10, "--strong-usd", 60, "--folds", 2)
    done = servery(
        "router", "train", "--data", tmp_path / "prompts.csv.gz", "--out", tmp_path / "r.npz", *columns, *cost
    )
    assert done.returncode == 0, done.stderr
    assert "30.0 % of these prompts go to the strong model" in done.stdout


def test_a_router_is_the_same_after_it_was_written(trained: Path, tmp_path: Path) -> None:
    router = read_router(trained)
    write_router(tmp_path / "again.npz", router)
    again = read_router(tmp_path / "again.npz")
    assert (again.rows, again.threshold) == (router.rows, router.threshold)
    assert again.scorer.gain("What is seven?") == router.scorer.gain("What is seven?")
    assert [path.name for path in tmp_path.iterdir()] == ["again.npz"]


def test_a_damaged_router_is_refused(trained: Path, tmp_path: Path) -> None:
    whole = trained.read_bytes()
    broken = tmp_path / "broken.npz"
    for content in (b"", b"not a router", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        with pytest.raises(Unusable, match=r"is not a router: write one with `servery router train`"):
            read_router(broken)
    with np.load(trained) as arrays:
        parts = dict(arrays)
    for name, value in (("cheap_left", 999), ("strong_feature", -1), ("edge_counts", 26), ("cheap_value", np.nan)):
        changed = parts[name].copy()
        changed.flat[0] = value
        np.savez(broken, **{**parts, name: changed})
        with pytest.raises(Unusable, match="is damaged"):
            read_router(broken)
    np.savez(broken, **{**parts, "cheap_words": parts["cheap_words"][:10]})
    with pytest.raises(Unusable, match="is damaged"):
        read_router(broken)


@pytest.mark.timeout(120)
def test_a_route_sends_each_prompt_where_its_router_says(trained: Path, tmp_path: Path) -> None:
    model = {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": "So be it."}]}
    (tmp_path / "r.npz").write_bytes(trained.read_bytes())
    policy = {"kind": "complexity", "router": "r.npz"}
    tiers = [{"name": "cheap", "model": "small"}, {"name": "dear", "model": "big"}]
    declared = {"models": {"small": model, "big": model}, "routes": {"chat": {"policy": policy, "tiers": tiers}}}
    router = read_router(trained)
    with Server(tmp_path, declared) as server:
        (tmp_path / "r.npz").unlink()  # what is served is what was published
        for text in (HARD, EASY):
            said = text.format("water under seven houses")
            body = {"model": "chat", "messages": [{"role": "user", "content": said}]}
            reply = server.ask("POST", "/v1/chat/completions", json.dumps(body))
            gain = router.scorer.gain(said)
            assert reply.headers["servery-tier"] == ("dear" if gain > router.threshold else "cheap")
            (((attempts),),) = server.await_records(
                f"select attempts from records where id = x'{reply.headers['servery-record-id']}'", 1
            )
            assert json.loads(attempts)[0]["why"] == f"complexity:{gain:.4f}"
        done = living.apply(server)
        assert (done.returncode, "r.npz can't be read" in done.stderr) == (1, True), done.stderr
        (tmp_path / "r.npz").write_bytes(b"no router")
        done = servery("check", server.manifest)
        assert (done.returncode, "is not a router" in done.stdout + done.stderr) == (1, True), done
        body = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
        assert server.ask("POST", "/v1/chat/completions", json.dumps(body)).status == 200


HEAD = "prompt,cheap,strong\n"
GOOD = "".join(f"p{at},{at % 2},1\n" for at in range(49)) + "q,1,0\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"has no column 'prompt'; it has none"),
        ("prompt,cheap\n", r"has no column 'strong'; it has 'prompt', 'cheap'"),
        (HEAD, r"has 0 prompts; at least 50 are needed"),
        (HEAD + "a,1,maybe\n", r":2: 'strong' is 'maybe'; write 1 for a right answer and 0 for a wrong one"),
        (HEAD + "a,1\n", r":2: this line has not as many values as the first"),
        (HEAD + "a,1,1,1\n", r":2: this line has not as many values as the first"),
        (HEAD + GOOD.replace(",1\n", ",0\n"), r"send everything to the cheap one, or exchange the columns"),
        (HEAD + "a,0,1\n" * 60, r"the cheap model answers all prompts alike"),
    ],
)
def test_what_is_said_of_prompts_that_teach_nothing(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(Unusable, match=said):
        read_answered(path, Columns())


def test_files_that_are_no_csv(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"prompt,cheap,strong\n\xff,1,1\n")
    (tmp_path / "p.csv.gz").write_bytes(b"plain")
    for name, said in (("p.txt", "ends in .csv or .csv.gz"), ("p.csv", "not UTF-8"), ("p.csv.gz", "can't be read")):
        with pytest.raises(Unusable, match=said):
            read_answered(tmp_path / name, Columns())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--share", 0.5, "--recover", 0.5), "say one of --share, --recover and --cost"),
        (("--cost", 5), "--cost needs --cheap-usd and, above it, --strong-usd"),
        (("--cost", 5, "--cheap-usd", 6, "--strong-usd", 9), "even the cheap model costs more"),
        (("--plot", "curve.bmp"), "give a file that ends in .png or .svg"),
    ],
)
def test_wishes_that_make_no_sense(tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    data = write_prompts(tmp_path / "p.csv", 60, 1)
    done = servery("router", "train", "--data", data, "--out", tmp_path / "r.npz", *arguments, limit_s=100)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_too_little_to_learn_from_is_said(tmp_path: Path) -> None:
    data = write_prompts(tmp_path / "p.csv", 200, 1)
    lines = [line.rsplit(",", 1)[0] for line in data.read_text().splitlines()]
    data.write_text("\n".join([lines[0] + ",subject", *(f"{line},s{at % 2}" for at, line in enumerate(lines[1:]))]))
    done = servery(
        "router", "train", "--data", data, "--out", tmp_path / "r.npz", "--group", "subject", "--folds", 2, limit_s=100
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("servery router train: too few groups")
    data.write_text(HEAD + "".join(f"p{at},{int(at != 7)},{int(at < 70)}\n" for at in range(70)))
    done = servery("router", "train", "--data", data, "--out", tmp_path / "r.npz", limit_s=100)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the strong model answers all prompts alike" in done.stderr
    data.write_text(HEAD + "".join(f"p{at},{int(at > 1)},{int(at != 7)}\n" for at in range(70)))
    done = servery("router", "train", "--data", data, "--out", tmp_path / "r.npz", limit_s=100)
    assert (done.returncode, done.stdout) == (1, "")
    assert "all answers are right, or all wrong" in done.stderr
    assert not (tmp_path / "r.npz").exists()


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    done = servery("router", "evaluate", tmp_path / "none.npz", "--data", tmp_path / "none.csv", limit_s=100)
    assert (done.returncode, done.stderr) == (1, f"Error: {tmp_path}/none.npz: No such file or directory\n")

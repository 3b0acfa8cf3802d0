"""`servery router train --from-records`: from what callers asked, and what they said of the answers, to a router."""

from __future__ import annotations

import http.client
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from living import servery
from server import Server
from servery.learning.files import read_router

pytestmark = pytest.mark.timeout(180)

WORDS = ["apple", "river", "stone", "seven", "quick", "bright", "under", "paper", "music", "green", "house", "water"]
HARD, EASY = "Prove that the sum of these is even: {}.", "What is {}?"
PROMPTS = 800


class Asking:
    """One caller on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.close = self._connection.close

    def post(self, path: str, body: dict[str, Any]) -> dict[str, str]:
        self._connection.request("POST", path, json.dumps(body))
        reply = self._connection.getresponse()
        said = reply.read()
        assert reply.status in (200, 202), said
        return {name.lower(): value for name, value in reply.getheaders()}

    def ask(self, route: str, text: str) -> tuple[str, str]:
        """The Record and the tier of the answer."""
        headers = self.post("/v1/chat/completions", {"model": route, "messages": [{"role": "user", "content": text}]})
        return headers["servery-record-id"], headers["servery-tier"]

    def judge(self, record: str, good: bool, name: str = "good") -> None:
        self.post("/servery/v1/feedback", {"record_id": record, "name": name, "value": good})


def declared() -> dict[str, Any]:
    models = {name: {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": name}]} for name in ("small", "big")}
    tiers = [{"name": "cheap", "model": "small"}, {"name": "dear", "model": "big"}]
    policy = {"kind": "complexity", "thresholds": [0.3]}
    routes = {
        "chat": {"policy": {**policy, "explore": 0.5}, "tiers": tiers},
        "plain": {"policy": policy, "tiers": tiers},
        "silent": {"policy": {**policy, "explore": 0.5}, "tiers": tiers},
    }
    return {"models": models, "routes": routes, "content": {"keep_days": 30, "routes": ["chat", "plain"]}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left of a server that was asked: the cheap tier is right on 25 % of hard prompts and 90 % of easy ones, the dear
    one on 85 % and 92 %.
    """
    dice = random.Random(5)
    with Server(tmp_path_factory.mktemp("records"), declared()) as server:
        asking = Asking(server.port)
        asked: Counter[str] = Counter()
        for _ in range(PROMPTS):
            hard = dice.random() < 0.4
            text = (HARD if hard else EASY).format(" ".join(dice.choices(WORDS, k=dice.randint(3, 25))))
            record, tier = asking.ask("chat", text)
            asked[tier] += 1
            asking.judge(record, dice.random() < {"cheap": (0.9, 0.25), "dear": (0.92, 0.85)}[tier][hard])
        for route in ("plain", "silent"):
            for at in range(60):
                record, _ = asking.ask(route, EASY.format(at))
                asking.judge(record, at % 2 == 0)
        asking.close()
        assert min(asked.values()) > 100
    return server.data


def train(data: Path, out: Path, *more: object) -> Any:
    given = ("--from-records", "--data", data, "--out", out, "--folds", 2)
    more = more if "--route" in more else ("--route", "chat", *more)
    return servery("router", "train", *given, *more, limit_s=100)


def test_a_router_is_learned_from_what_was_drawn(data: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "r.npz", tmp_path / "curve.svg"
    done = train(data, out, "--feedback", "good", "--share", 0.4, "--plot", plot)
    assert done.returncode == 0, done.stderr
    assert f"{PROMPTS} of {PROMPTS} Records of `chat` say how the way that was drawn ended" in done.stdout
    assert "40.0 % of these prompts go to the strong model" in done.stdout
    assert "this router, on prompts that it had not seen" in done.stdout
    assert "an oracle" not in done.stdout
    assert "an oracle" not in plot.read_text()
    lines = {line.split(":")[0]: line for line in done.stdout.splitlines()}
    assert "which say as much as" in lines["cheap"]
    assert "right (95 %:" in lines["strong"]
    router = read_router(out)
    assert router.rows == PROMPTS
    hard, easy = (router.scorer.gain(text.format("water under seven houses")) for text in (HARD, EASY))
    assert hard > router.threshold > easy
    assert hard - easy > 0.25  # 0.58 is true
    asked = ("--from-records", "--data", data, "--route", "chat", "--feedback", "good", "--folds", 2)
    done = servery("router", "evaluate", out, *asked, limit_s=100)
    assert done.returncode == 0, done.stderr
    assert "this router" in done.stdout
    assert "an oracle" not in done.stdout
    assert "of these prompts go to the strong model" in done.stdout
    again = {line.split(":")[0]: line for line in done.stdout.splitlines()}
    assert (again["cheap"], again["strong"]) == (
        lines["cheap"],
        lines["strong"],
    )  # the same Records say the same of each way
    done = servery("audit", "show", "--data", data, "-o", "json")
    entries = [json.loads(line) for line in done.stdout.splitlines()[-2:]]
    for entry, verb in zip(entries, ("train", "evaluate"), strict=True):
        assert (entry["act"], entry["subject"], entry["evidence"]["read"]) == (f"router {verb}", "chat", PROMPTS)


REFUSED = [
    (("--route", "plain", "--feedback", "good"), 1, "all 60 judged Records began where the policy always begins"),
    (("--route", "silent", "--feedback", "good"), 1, "none of the 60 judged Records has Content"),
    (("--feedback", "stars"), 1, f"has the Feedback 'stars'; there is `good` ({PROMPTS})"),
    (("--feedback", "good", "--tenant", "acme"), 1, "none of the 0 judged Records"),
    (("--route", "chad", "--feedback", "good"), 2, "there is no route 'chad'; there is `chat`, `plain`, `silent`"),
    (("--feedback", "good", "--cheap", "mid"), 2, "the route has no tier 'mid'; it has `cheap`, `dear`"),
    (("--feedback", "good", "--cheap", "dear"), 1, "a router tells two tiers apart, and `dear` is one"),
    (("--feedback", "good", "--group", "subject"), 2, "Records have one kind of groups: `tenant`"),
    (("--feedback", "good", "--group", "tenant"), 1, "too few groups"),
    (("--feedback", "good", "--since", "soon"), 2, "'soon' is not a span of time"),
    ((), 2, "--from-records needs it"),
]


@pytest.mark.parametrize(("more", "code", "said"), REFUSED)
def test_what_teaches_nothing_is_refused_with_what_to_do(
    data: Path, tmp_path: Path, more: tuple[str, ...], code: int, said: str
) -> None:
    done = train(data, tmp_path / "r.npz", *more)
    assert done.returncode == code, done
    assert said in " ".join(done.stderr.replace("│", " ").split()), done.stderr
    assert not (tmp_path / "r.npz").exists()


def test_options_of_records_are_not_for_files(tmp_path: Path) -> None:
    done = servery("router", "train", "--data", tmp_path / "p.csv", "--out", tmp_path / "r.npz", "--route", "chat")
    assert done.returncode == 2
    assert "it is for --from-records" in " ".join(done.stderr.replace("│", " ").split())
    done = servery("router", "evaluate", tmp_path / "r.npz", "--data", tmp_path, "--from-records")
    assert "r.npz" in done.stderr

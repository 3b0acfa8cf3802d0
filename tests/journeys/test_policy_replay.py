"""`servery policy replay`: another policy on the traffic of a server that explores, beside what is true of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from lines import rows
from living import servery
from server import Server

pytestmark = pytest.mark.timeout(120)

REQUESTS = 400
TIERS = [{"name": "cheap", "model": "small"}, {"name": "dear", "model": "big"}]
RIGHT = {("cheap", True): 0.2, ("cheap", False): 0.9, ("dear", True): 0.8, ("dear", False): 0.9}


def declared(**policy: Any) -> dict[str, Any]:
    models = {
        name: {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": name}], "drift": {}}
        for name in ("small", "big")
    }
    routes = {
        "chat": {"policy": {"kind": "complexity", "thresholds": [0.5], "explore": 0.4, **policy}, "tiers": TIERS},
        "plain": {"policy": {"kind": "complexity", "thresholds": [0.5]}, "tiers": TIERS},
        "one": {"tiers": TIERS[:1]},
    }
    return {"servery": 1, "models": models, "routes": routes, "content": {"keep_days": 30}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left of a server that was asked. Half of the prompts are long, and hard; none of them long enough for 0.5."""
    dice = random.Random(3)
    with Server(tmp_path_factory.mktemp("replayed"), declared()) as server:
        for at in range(REQUESTS + 20):
            hard, route = at % 2 == 0, "chat" if at < REQUESTS else "plain"
            text = "What is it? " * (20 if hard else 1)
            asked = {"model": route, "messages": [{"role": "user", "content": text}]}
            reply = server.ask("POST", "/v1/chat/completions", json.dumps(asked))
            right = dice.random() < RIGHT[reply.headers["servery-tier"], hard]
            told = {"record_id": reply.headers["servery-record-id"], "name": "good", "value": right}
            assert server.ask("POST", "/servery/v1/feedback", json.dumps(told)).status == 202
    return server.data


def tried(data: Path, folder: Path, manifest: dict[str, Any], *more: object) -> Any:
    (folder / "new.yaml").write_text(json.dumps(manifest))
    more = more if "--route" in more else ("--route", "chat", *more)
    return servery("policy", "replay", folder / "new.yaml", "--data", data, *more, limit_s=60)


def test_another_policy_is_valued_on_what_was_recorded(data: Path, tmp_path: Path) -> None:
    """Hard prompts to the dear model: 0.85 of all answers are right, where 0.55 and the explored ones were."""
    done = tried(
        data,
        tmp_path,
        declared(thresholds=[0.3], explore=0),
        "--metric",
        "feedback",
        "--feedback",
        "good",
        "-o",
        "json",
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["found"]["usable"], told["found"]["unsupported"]) == (REQUESTS, 0)
    value = told["found"]["value"]
    for name in ("ips", "self_normalised", "doubly_robust"):
        assert value[name]["low"] - 0.03 < 0.85 < value[name]["high"] + 0.03, value
    assert value["gain"]["low"] > 0
    assert value["effective"] < REQUESTS
    done = tried(data, tmp_path, declared(thresholds=[0.3], explore=0), "--metric", "latency")
    assert done.returncode == 0, done.stderr
    assert "the other policy, doubly robust" in done.stdout, done.stdout
    assert f"{REQUESTS} of {REQUESTS} Records tell something" in done.stdout


def test_the_prompts_of_content_are_scored_where_records_have_another_score(data: Path, tmp_path: Path) -> None:
    fixed = declared()
    fixed["routes"]["chat"]["policy"] = {"kind": "fixed"}
    done = tried(data, tmp_path, fixed, "--metric", "errors", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["found"]["value"]["ips"]["value"] == 0


def test_tokens_of_text_are_counted_for_drift(data: Path) -> None:
    """Not compared yet: a day hasn't gone by."""
    found = rows(data / "ledger.db", "SELECT DISTINCT model, tenant, json_extract(features, '$[0][0]') FROM sketches")
    assert set(found) == {(model, "local", "prompt tokens") for model in ("small", "big")}
    done = servery("drift", "big", "--data", data)
    assert done.returncode == 0, done.stderr
    assert "not yet: the reference is not complete: windows still to come" in done.stdout
    assert "no model 'bigg' is watched; did you mean 'big'?" in servery("drift", "bigg", "--data", data).stderr.replace(
        "\n", " "
    )


def without(tier: str) -> dict[str, Any]:
    """The tier `tier` has a model that was never asked."""
    manifest = declared()
    tiers = [{**one, "model": "other"} if one["name"] == tier else one for one in TIERS]
    manifest["models"]["other"] = manifest["models"]["small"]
    manifest["routes"]["chat"] = {"policy": {"kind": "fixed"}, "tiers": tiers}
    return manifest


def checked() -> dict[str, Any]:
    manifest = declared()
    tiers = [{**TIERS[0], "accept": {"check": "json_schema", "confidence": 1}}, TIERS[1]]
    manifest["routes"]["chat"] = {"policy": {"kind": "cascade"}, "tiers": tiers}
    return manifest


def by_header() -> dict[str, Any]:
    manifest = declared()
    policy = {"kind": "static", "by": "header", "name": "x-quality", "choose": {"best": "dear"}}
    manifest["routes"]["chat"]["policy"] = policy
    return manifest


REFUSED = [
    (declared(), ("--route", "plain"), 1, "every choice was certain"),
    (declared(), ("--route", "one"), 1, "there are no Records of the route 'one'"),
    (declared(), ("--route", "chad"), 2, "there is no route 'chad'; did you mean 'chat'?"),
    (declared(), ("--metric", "feedback"), 2, "--metric feedback and --feedback NAME go together"),
    (declared(), ("--metric", "feedback", "--feedback", "stars"), 1, "the Feedback that there is: `good` (400)"),
    (declared(), ("--since", "soon"), 2, "'soon' is not a span of time"),
    (without("cheap"), (), 1, "chooses nothing that was tried"),
    (checked(), (), 1, "after the tier `cheap` it goes on otherwise: `json_schema` at 1, then `dear`"),
    (by_header(), (), 1, "Records don't hold what callers said in it"),
    ({"servery": 1, "modles": {}}, (), 1, "doesn't declare what could be served"),
]


@pytest.mark.parametrize(("manifest", "more", "code", "said"), REFUSED)
def test_what_the_records_cant_tell_is_refused(
    data: Path, tmp_path: Path, manifest: dict[str, Any], more: tuple[str, ...], code: int, said: str
) -> None:
    done = tried(data, tmp_path, manifest, *more)
    assert done.returncode == code, done
    assert said in " ".join(done.stderr.replace("│", " ").split()), done.stderr

"""Limits, and where they are counted: what `servery check` says of what would do nothing, and of what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import artifacts
from servery.control.apply import check
from servery.control.places import Places
from servery.control.restart import needs_restart
from servery.terms.limits import Counters
from servery.terms.manifest import Manifest

KEY = {"id": "k", "sha256": "0" * 64}


def manifest(folder: Path) -> dict[str, Any]:
    artifacts.identity(folder / "m.onnx", 2)
    rented = {"runtime": "openai", "endpoint": "http://127.0.0.1:9000/v1", "serves": "gpt-4o-mini"}
    return {
        "servery": 1,
        "models": {
            "rented": {**rented, "limits": {"requests_per_minute": 60, "usd_per_request": 0.1, "tokens_per_minute": 9}},
            "canned": {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": "Yes."}]},
            "rows": {
                "runtime": "onnx",
                "artifact": "m.onnx",
                "price": {"usd_per_hour": 1},
                "limits": {"usd_per_day": 1},
            },
            "free rows": {"runtime": "onnx", "artifact": "m.onnx", "limits": {"concurrency_per_worker": 3}},
        },
        "routes": {
            "text": {
                "tiers": [{"name": "a", "model": "rented"}],
                "limits": {"usd_per_request": 1, "when_spent": "cheaper"},
            },
            "tensors": {"tiers": [{"name": "a", "model": "rows"}], "limits": {"requests_per_minute": 1}},
        },
        "tenants": {
            "acme": {"keys": [{**KEY, "limits": {"usd_per_month": 5}}], "limits": {"usd_per_day": 5, "mode": "observe"}}
        },
        "counters": {"redis": "redis://127.0.0.1:6379/0", "prefix": "mine", "on_unavailable": "refuse"},
    }


def problems_of(folder: Path, declared: dict[str, Any]) -> list[str]:
    path = folder / "servery.yaml"
    path.write_text(json.dumps(declared, indent=1))
    found = check(path).problems
    assert all(problem.line > 1 for problem in found), found
    return [f"{problem.where}: {problem.message} → {problem.fix}" for problem in found]


def test_the_good_one_is_good(tmp_path: Path) -> None:
    assert problems_of(tmp_path, manifest(tmp_path)) == []


@pytest.mark.parametrize(
    ("part", "limits", "where", "told"),
    [
        (("models", "rented"), {"mode": "observe"}, "models.rented.limits.mode", "does nothing without a limit"),
        (("models", "rented"), {"usd_per_day": 1, "when_spent": "cheaper"}, "models.rented.limits.when_spent", "always asked"),
        (("models", "canned"), {"usd_per_day": 1}, "models.canned.limits.usd_per_day", "costs nothing"),
        (("models", "free rows"), {"usd_per_month": 1}, 'models["free rows"].limits.usd_per_month', "usd_per_hour"),
        (("models", "rows"), {"tokens_per_minute": 1}, "models.rows.limits.tokens_per_minute", "take tensors"),
        (("models", "rows"), {"usd_per_request": 1}, "models.rows.limits.usd_per_request", "take tensors"),
        (("routes", "tensors"), {"usd_per_request": 1}, "routes.tensors.limits.usd_per_request", "take tensors"),
        (("routes", "tensors"), {"requests_per_minute": 1, "when_spent": "cheaper"}, "routes.tensors.limits.when_spent",
         "what is over a limit is refused"),
        (("routes", "text"), {"usd_per_day": 4_000_001}, "routes.text.limits.usd_per_day", "up to 4000000"),
        (("routes", "text"), {"requests_per_minute": 0}, "routes.text.limits.requests_per_minute", "a whole number from 1"),
        (("routes", "text"), {"requests_per_second": 1}, "routes.text.limits.requests_per_second", "requests_per_minute"),
        (("tenants", "acme"), {"when_spent": "cheaper"}, "tenants.acme.limits.when_spent", "without a limit"),
    ],
)  # fmt: skip
def test_a_limit_that_does_nothing_is_told(
    tmp_path: Path, part: tuple[str, str], limits: dict[str, Any], where: str, told: str
) -> None:
    declared = manifest(tmp_path)
    declared[part[0]][part[1]]["limits"] = limits
    (problem,) = problems_of(tmp_path, declared)
    assert problem.startswith(f"{where}: "), problem
    assert told in problem


@pytest.mark.parametrize(
    ("counters", "where", "told"),
    [
        ({"prefix": "mine"}, "counters.prefix", "add `redis: redis://HOST:6379/0`"),
        ({"username": "me"}, "counters.username", "kept in files"),
        ({"credentials": {"env": "HOME"}}, "counters.credentials", "kept in files"),
        ({"redis": "http://127.0.0.1"}, "counters.redis", "rediss://"),
        ({"redis": "redis://me:secret@127.0.0.1/0"}, "counters.redis", "credentials: {env: NAME}"),
        ({"redis": "redis://127.0.0.1/0?password=secret"}, "counters.redis", "credentials: {env: NAME}"),
        ({"redis": "unix:///run/r.sock?db=1&username=me"}, "counters.redis", "credentials: {env: NAME}"),
        ({"redis": "redis://127.0.0.1/zero"}, "counters.redis", "no address of a Redis"),
        ({"redis": "redis://127.0.0.1:99999999/0"}, "counters.redis", "no address of a Redis"),
        ({"redis": "redis:///0"}, "counters.redis", "no address of a Redis"),
        ({"redis": "unix://x"}, "counters.redis", "no address of a Redis"),
        ({"redis": "unix:///run/r.sock?db=x"}, "counters.redis", "no address of a Redis"),
        ({"redis": "redis://127.0.0.1", "prefix": "a b"}, "counters.prefix", "text"),
        ({"redis": "redis://127.0.0.1", "on_unavailable": "allow"}, "counters.on_unavailable", "`local_share`"),
        ({"redis": "redis://127.0.0.1", "credentials": {"env": "SERVERY_NOT_SET"}}, "counters.credentials.env", "is not set"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_counted_is_told(tmp_path: Path, counters: dict[str, Any], where: str, told: str) -> None:
    (problem,) = problems_of(tmp_path, {**manifest(tmp_path), "counters": counters})
    assert problem.startswith(f"{where}: "), problem
    assert told in problem
    assert "secret" not in problem


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1", "rediss://[::1]:6380", "unix:///run/r.sock?db=2", "redis://h:1/3"]
)
def test_addresses_of_a_redis(tmp_path: Path, url: str) -> None:
    assert problems_of(tmp_path, {**manifest(tmp_path), "counters": {"redis": url}}) == []


WITHOUT = """
import sys
from pathlib import Path
sys.modules["redis"] = None
import servery.wiring.supervisor
from servery.control.apply import check
for problem in check(Path(sys.argv[1])).problems:
    print(problem)
"""


def test_what_is_missing_is_named_with_its_extra(tmp_path: Path) -> None:
    problems_of(tmp_path, manifest(tmp_path))
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "servery.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert "counters.redis: counting in a Redis needs redis-py" in done.stdout
    assert "pip install 'servery[redis]'" in done.stdout


def test_where_it_is_counted_changes_with_a_new_start_only() -> None:
    old, new = Manifest(1), Manifest(1, counters=Counters(redis="redis://127.0.0.1"))
    (problem,) = needs_restart(old, new, Places("servery.yaml"))
    assert problem.where == "counters.redis"

"""Language models in the place of others: asked beside them (agreement, guards, money, and nobody waits), or checked first."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_vendor import FakeVendor
from living import Living, servery, until
from rolling_out import rollout

PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}
GUARDS = [{"metric": "errors", "margin": 0.2}, {"metric": "agreement", "margin": 0.2}]
KIND: dict[str, Any] = {
    "kind": "shadow",
    "share": 0.5,
    "bake_s": 1,
    "min_requests": 20,
    "guards": GUARDS,
    "mirror": {"concurrency": 8, "usd_per_hour": 1},
}
POOR_USD = 0.0001  # an hour, over two workers: a call or two of each
SLOW_MS = 400
# By model: how it behaves, how its new version does, and what differs of its rollout.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "agrees": ("old?calls=weather", f"new?calls=weather&latency_ms={SLOW_MS}", {}),
    "fails": ("old?says=Yes", "new-fails?fault=500", {}),
    "differs": ("old?says=Yes", "new-differs?says=No", {}),
    "poor": (
        "old?says=Yes",
        "new-poor?says=Yes",
        {"mirror": {"concurrency": 1, "usd_per_hour": POOR_USD}, "bake_s": 600},
    ),
}
CHECKS = [
    {"prompt": "Is 7 a number?", "contains": "yes"},
    {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is 7 a number?"}],
        "matches": "^Yes",
    },
]
SAYS = [
    {"prompt": "Is 7 a number?", "equals": " yes "},
    {"prompt": "As JSON?", "json": True},
    {"prompt": "So?", "contains": "x"},
]
SECRET = "sk-of-the-vendor"
# Models that nobody calls: what the new version says, its checks, and whether it has an API key.
CHECKED: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "sound": ("sound?says=Yes, it is.", CHECKS),
    "wrong": (f"wrong?says=Yes, {SECRET}", [CHECKS[0], SAYS[0], CHECKS[1]]),
    "wordy": ("wordy?says=Yes", SAYS),
    "gone": ("gone?fault=401", CHECKS),
}  # fmt: skip


def manifest(url: str, new: bool) -> dict[str, Any]:
    def model(old: str, coming: str, more: dict[str, Any]) -> dict[str, Any]:
        serves = coming if new else old
        return {"runtime": "openai", "endpoint": url, "serves": serves, "price": PRICE, "rollout": {**KIND, **more}}

    kind = {"kind": "blue-green", "bake_s": 0, "min_requests": 0, "guards": [{"metric": "errors", "margin": 0.2}]}
    checked = {
        name: model("old?says=Yes", coming, {**dict.fromkeys(KIND, None), **kind, "checks": checks})
        for name, (coming, checks) in CHECKED.items()
    }
    checked["wrong"]["credentials"] = {"env": "VENDOR_KEY"}
    models = {**{name: model(*of) for name, of in MODELS.items()}, **checked}
    for one in models.values():
        one["rollout"] = {key: value for key, value in one["rollout"].items() if value is not None}
    return {"models": models}


class Asking:
    """Callers of all models at once, whole and in streams, until they are stopped: how each call ended."""

    def __init__(self, server: Living) -> None:
        self._server = server
        self._stop = threading.Event()
        self.ended: list[bool] = []  # whether it is a whole answer
        self._threads = [threading.Thread(target=self._ask, args=(at,)) for at in range(4)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        at = number
        while not self._stop.wait(0.005):
            at += 1
            model, stream = list(MODELS)[at % len(MODELS)], at % 8 < 4
            body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": f"Is {at} a number?"}]}
            reply = self._server.ask("POST", "/v1/chat/completions", json.dumps(body))
            whole = reply.status == 200 and (not stream or reply.body.endswith(b"data: [DONE]\n\n"))
            self.ended.append(whole)

    def stop(self) -> list[bool]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.ended


class Told:
    """What a server has come to: its ledger, the vendor's invoice, and what callers had."""

    def __init__(self, server: Living, vendor: FakeVendor, ended: list[bool]) -> None:
        self.ended = ended
        self.status, self.now = rollout(server, "status", "--past"), rollout(server, "status")
        self.lines = until(lambda: (found := vendor.invoice()) and all(one["ended"] for one in found) and found)
        rows = until(lambda: self._all(server, len(self.lines)), said=server.written)
        self.arms = Counter((json.loads(one[2])[0]["model"], arm["arm"]) for one in rows for arm in json.loads(one[1]))
        self.took_ns = {
            arm: [one[3] for one in rows if json.loads(one[2])[0]["model"] == "agrees" and f'"{arm}"' in one[1]]
            for arm in ("mirrored", "incumbent")
        }
        self.served = [attempt for one in rows for attempt in json.loads(one[2])]
        self.late = [
            (json.loads(one[0]), one[1], one[2]) for one in server.records("SELECT attempt, rows, alike FROM late")
        ]

    @staticmethod
    def _all(server: Living, billed: int) -> list[tuple[Any, ...]]:
        """All Records, once what the vendor billed has come to the ledger."""
        rows = server.records("SELECT lower(hex(id)), arms, attempts, duration_ns FROM records")
        late = server.records("SELECT attempt FROM late")
        calls = [one for row in rows for one in json.loads(row[2])] + [json.loads(one[0]) for one in late]
        return rows if sum("tokens" in one for one in calls) >= billed else []


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """All models get new versions at once, under traffic, and each rollout comes to its end, or to the end of its money."""
    folder = tmp_path_factory.mktemp("shadow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VENDOR_KEY", SECRET)
        yield from come_to_its_end(folder)


def come_to_its_end(folder: Path) -> Iterator[Told]:
    with FakeVendor(folder) as vendor, Living(folder, manifest(vendor.url, False), "--workers", "2") as server:
        until(lambda: server.log_lines("serving on .*: ready"), said=server.written)
        until(server.controlled, said=server.written)
        asking = Asking(server)
        server.manifest.write_text(json.dumps({"servery": 1, **manifest(vendor.url, True)}))
        done = servery("apply", server.manifest, "--data", server.data, "--yes", "--reason", "new ones")
        assert done.returncode == 0, done.stdout + done.stderr
        ends = (
            "agrees is promoted",
            *(f"{name} is rolled back" for name in ("fails", "differs", "wrong", "wordy", "gone")),
        )
        for end in (*ends, "sound is running"):
            until(lambda end=end: server.log_lines(f"the rollout .* of {end}"), said=server.written)
        told = Told(server, vendor, asking.stop())
        yield told


def test_nobody_notices_that_another_one_is_asked_too(told: Told) -> None:
    assert all(told.ended)
    mirrored = sorted(told.took_ns["mirrored"])
    assert len(mirrored) > 20
    assert mirrored[len(mirrored) // 2] < SLOW_MS / 2 * 1e6  # nobody waits for the one that takes so long


def test_what_says_the_same_is_promoted_and_what_does_not_goes(told: Told) -> None:
    assert "every guard passed at every step" in told.status
    assert "errors is worse by more" in told.status
    assert "agreement is between" in told.status
    of = {one["model"]: (rows, alike) for one, rows, alike in told.late if rows}
    assert (of["agrees"], of["differs"]) == ((1, 1), (1, 0))
    assert "fails" not in of  # there was nothing to compare
    assert {one["role"] for one, _, _ in told.late} == {"shadow"}


def test_the_vendors_invoice_is_the_books_with_what_was_mirrored(told: Told) -> None:
    calls = told.served + [one for one, _, _ in told.late]
    booked, billed = Counter[str](), Counter[str]()
    for one in calls:
        if "tokens" in one:
            assert not one.get("estimated")
            assert one["pico_usd"] == one["tokens"]["input"] * 1_000_000 + one["tokens"]["output"] * 2_000_000
            booked[one["answered_as"]] += one["tokens"]["input"] + one["tokens"]["output"]
    for line in told.lines:
        billed[line["model"].partition("?")[0] + "-2026"] += line["prompt_tokens"] + line["completion_tokens"]
    assert booked == billed
    assert {"new-2026", "new-differs-2026", "new-poor-2026", "sound-2026", "wrong-2026"} < set(booked)


def test_an_hours_money_holds_over_all_workers_but_for_what_is_under_way(told: Told) -> None:
    spent = [one["pico_usd"] for one, _, _ in told.late if one["model"] == "poor"]
    assert 0 < sum(spent) <= POOR_USD * 1e12 + 2 * max(spent)
    assert told.arms["poor", "dropped"] > 0
    assert "poor" in told.now


def test_checks_are_asked_once_each_until_one_is_answered_otherwise(told: Told) -> None:
    asked = Counter(one["model"] for one in told.served if one["role"] == "check")
    assert asked == {"sound": 2, "wrong": 2, "wordy": 2, "gone": 1}
    assert "check 1: it said 'Yes, …', not ' yes '" in told.status
    assert "check 1: it said 'Yes', which is no JSON" in told.status
    assert "check 0: model_failed: the endpoint of 'gone' answered 401" in told.status
    assert SECRET not in told.status
    assert {one["outcome"] for one in told.served if one["model"] == "gone"} == {"failed"}

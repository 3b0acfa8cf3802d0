"""The ledger against the vendor's own invoice, call by call: the same to the token wherever the vendor said its count, close where
it didn't.
"""

from __future__ import annotations

import http.client
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fake_vendor import FakeVendor
from living import until
from server import Server

pytestmark = pytest.mark.timeout(120)

PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2, "usd_per_1m_cached": 0.25}
APIS = {"openai": "chat/completions", "anthropic": "messages"}
# By the vendor's name for them.
PARTS = {"prompt_tokens": "input", "completion_tokens": "output", "cached_tokens": "cached"}
TIMES = 10
SLOW = "tokens=40&latency_ms=50&spread=exponential&gap_ms=2"


class Case(msgspec.Struct, frozen=True):
    """What is asked, of whom, and what happens to it."""

    target: str
    face: str
    cached: bool
    tools: bool
    retried: bool
    hedged: bool
    stream: bool
    aborted: bool

    @property
    def model(self) -> str:
        """One for all that is asked of the same vendor in the same way: it teaches how long its tokens and answers are."""
        words = [word for word in ("cached", "tools", "retried", "hedged") if getattr(self, word)]
        return "-".join([self.target, *words])

    @property
    def orders(self) -> str:
        """What the vendor does."""
        parts = [SLOW]
        if self.cached:
            parts.append("cached=7")
        if self.tools:
            parts.append("calls=weather")
        if self.retried:  # one kind is billed, the other isn't
            parts.append("fault=cut:250&chance=0.2" if self.cached else "fault=503&chance=0.2")
        return "&".join(parts)

    @property
    def policy(self) -> dict[str, Any]:
        hedge = {"hedge": {"after_ms": 60, "share": 1}} if self.hedged else {}
        return {"retries": 5 if self.retried else 0, **hedge}


YES_NO = (False, True)
PRODUCT = tuple(
    Case(target, face, *words)
    for target, face, words in itertools.product(APIS, APIS, itertools.product(YES_NO, repeat=6))
)


def covering() -> list[Case]:
    """Twelve of them in which any two properties meet in all four ways (a Plackett-Burman design)."""
    row = [True, True, False, True, True, True, False, False, False, True, False]
    rows = [row[-shift:] + row[:-shift] for shift in range(11)] + [[False] * 11]
    apis = list(APIS)
    return [Case(apis[row[0]], apis[row[1]], *row[2:8]) for row in rows]


def manifest(vendor: FakeVendor, cases: Sequence[Case]) -> dict[str, Any]:
    models: dict[str, Any] = {}
    routes: dict[str, Any] = {}
    for case in cases:
        serves = f"{case.model}?{case.orders}"
        models[case.model] = {"runtime": case.target, "endpoint": vendor.url, "serves": serves, "price": PRICE}
        routes[f"by {case.model}"] = {"policy": case.policy, "tiers": [{"name": "only", "model": case.model}]}
    return {"models": models, "routes": routes}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


def body_of(case: Case, at: int, name: str) -> str:
    text = f"The question number {at} is about foxes, dogs and the prices of both. " * (1 + at % 3)
    asked = {"model": f"by {case.model}", "messages": [{"role": "user", "content": text}], "stream": case.stream}
    user = {"user": name} if case.face == "openai" else {"metadata": {"user_id": name}}
    return json.dumps({**asked, **user, "max_tokens": 1_000})


def ask(server: Server, case: Case, at: int, name: str) -> None:
    """One request, which ends by itself, by its caller's leaving, or by the deadline that the caller has set."""
    path, body, headers = f"/v1/{APIS[case.face]}", body_of(case, at, name), {"x-request-id": name}
    if case.aborted and not case.stream and at // 8 % 2:
        reply = server.ask("POST", path, body, {**headers, "servery-timeout-ms": "40"})
        assert reply.status in (200, 502, 503, 504), reply
    elif case.aborted:
        leave(server, path, body, headers, case.stream)
    else:
        reply = server.ask("POST", path, body, headers)
        assert reply.status in (200, 502, 503), reply


def leave(server: Server, path: str, body: str, headers: dict[str, str], stream: bool) -> None:
    """Hear the beginning of a stream, or wait for a moment, and hang up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=0.03 if not stream else 30)
    connection.request("POST", path, body, headers)
    try:
        heard = connection.getresponse()
        for _ in range(40):
            heard.readline()
        heard.close()
    except TimeoutError:
        pass
    connection.close()


class Booked(msgspec.Struct):
    """What one model's calls took, in tokens: by the vendor where it told us, by its own count and by ours where it didn't."""

    calls: int = 0
    told: int = 0
    guessed: int = 0  # calls that it didn't tell us of
    untold: int = 0
    estimated: int = 0

    def book(self, attempt: dict[str, Any], line: dict[str, Any]) -> str:
        """Hold an Attempt against its line of the invoice; what differs, in words."""
        ours = {part: attempt["tokens"].get(part, 0) for part in PARTS.values()}
        theirs = {part: line.get(said, 0) for said, part in PARTS.items()}
        self.calls += 1
        if not attempt.get("estimated"):
            self.told += theirs["input"] + theirs["output"]
            return "" if ours == theirs and line["reported"] else f"{ours} was booked for {line}"
        self.guessed += 1
        self.untold += theirs["input"] + theirs["output"]
        self.estimated += ours["input"] + ours["output"]
        return f"{attempt} was told {line}" if line.get("reported") and not given_up(attempt) else ""


def given_up(attempt: dict[str, Any]) -> bool:
    """Whether nobody waited for its answer any more: what it says is told to nobody."""
    return attempt["outcome"] == "abandoned" or attempt.get("reason") == "deadline_exceeded"


def check_books(vendor: FakeVendor, folder: Path, cases: Sequence[Case], times: int) -> dict[str, Booked]:
    """Ask all `cases` so often, and compare call by call."""
    by_model: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_model[case.model].append(case)
    with Server(folder, manifest(vendor, cases)) as server, ThreadPoolExecutor(8) as pool:

        def ask_all(model: str) -> None:
            lessons = [msgspec.structs.replace(by_model[model][0], aborted=False)] * 3  # on how long a token is
            for number, case in enumerate([*lessons, *by_model[model] * times]):
                ask(server, case, number, f"{folder.name} {model} {number}")

        list(pool.map(ask_all, by_model))
        rows = server.await_records("select request_id, attempts from records", len(cases) * times + 3 * len(by_model))
        lines = until(lambda: (found := vendor.invoice()) and all(line["ended"] for line in found) and found)
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        calls[line["user"]].append(line)
    wrong: list[str] = []
    found = {model: Booked() for model in by_model}
    for name, text in rows:
        attempts = [attempt for attempt in json.loads(text) if attempt.get("tokens")]
        billed = calls.pop(name, [])
        # Of a call that was given up at once the vendor may never have heard.
        billed += [{} for attempt in attempts[len(billed) :] if given_up(attempt) and attempt["estimated"]]
        if len(attempts) != len(billed):
            wrong.append(f"{attempts} for {billed}")
        for attempt, line in zip(attempts, billed, strict=False):
            wrong.append(found[attempt["model"]].book(attempt, line))
    assert [words for words in wrong if words] == []
    assert [name for name in calls if name.startswith(folder.name)] == []
    return found


def judge(found: dict[str, Booked], times: int) -> None:
    """Print each model's sums; those of what was estimated are close to the vendor's own."""
    untold, estimated = (sum(getattr(one, part) for one in found.values()) for part in ("untold", "estimated"))
    lines = [
        f"{model:36} {one.calls:4} calls: {one.told:6} tokens told and booked; {one.guessed:4} calls of {one.untold:6} "
        f"tokens estimated as {one.estimated:6}"
        for model, one in found.items()
    ]
    print(
        "",
        *lines,
        f"in all {untold} tokens estimated as {estimated}: {100 * (estimated / untold - 1):+.1f} %",
        sep="\n",
    )
    assert estimated == pytest.approx(untold, rel=0.15)
    assert min(one.calls for one in found.values()) > times / 2  # none was left alone for its faults for long


def test_the_ledger_is_the_vendors_invoice(vendor: FakeVendor, tmp_path: Path) -> None:
    judge(check_books(vendor, tmp_path, covering(), TIMES), TIMES)


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_the_ledger_is_the_vendors_invoice_over_all_that_can_meet(vendor: FakeVendor, tmp_path: Path) -> None:
    judge(check_books(vendor, tmp_path, PRODUCT, TIMES), 8 * TIMES)

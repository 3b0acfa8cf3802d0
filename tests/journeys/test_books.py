"""The ledger against the vendor's own invoice: the same to the token where the vendor said its count, close where it didn't."""

from __future__ import annotations

import http.client
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_vendor import FakeVendor
from living import until
from server import Server

pytestmark = pytest.mark.timeout(120)

PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2, "usd_per_1m_cached": 0.25}
APIS = {"openai": "chat/completions", "anthropic": "messages"}
# What the vendor does, and the policy that it is asked by.
ORDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("tokens=30", {}),
    "cached": ("tokens=30&cached=7", {}),
    "tools": ("calls=weather", {}),
    "retried": ("tokens=30&fault=cut:250&chance=0.5", {"retries": 4}),
    "refused": ("tokens=30&fault=503&chance=0.5", {"retries": 4}),
    "hedged": ("tokens=30&latency_ms=60&spread=exponential", {"hedge": {"after_ms": 40, "share": 1}}),
    "deserted": ("tokens=30&latency_ms=250&spread=exponential", {}),
    "aborted": ("tokens=300&gap_ms=2", {}),
}
EACH = 12
# By the vendor's name for them.
PARTS = {"prompt_tokens": "input", "completion_tokens": "output", "cached_tokens": "cached"}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


def manifest(vendor: FakeVendor) -> dict[str, Any]:
    models: dict[str, Any] = {}
    routes: dict[str, Any] = {}
    for api, (name, (order, policy)) in itertools.product(APIS, ORDERS.items()):
        told = {"runtime": api, "endpoint": vendor.url, "serves": f"{api}-{name}?{order}", "price": PRICE}
        models[f"{api} {name}"] = told
        tiers = [{"name": "only", "model": f"{api} {name}"}]
        routes[f"{name} by {api}"] = {"policy": {"retries": 0, **policy}, "tiers": tiers}
        if name == "deserted":
            routes[f"{name} by {api}"]["deadline_ms"] = 150
    return {"models": models, "routes": routes}


def leave_early(server: Server, path: str, body: dict[str, Any]) -> None:
    """Hear the beginning of a stream, and hang up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    heard = connection.getresponse()
    for _ in range(60):
        heard.readline()
    heard.close()
    connection.close()


def test_the_ledger_is_the_vendors_invoice(vendor: FakeVendor, tmp_path: Path) -> None:
    asked = 0
    with Server(tmp_path, manifest(vendor)) as server:
        for (api, path), name, stream in itertools.product(APIS.items(), ORDERS, (False, True)):
            for at in range(EACH):
                text = f"The question number {at} is about foxes, dogs and the prices of both. " * (1 + at % 3)
                body = {"model": f"{name} by {api}", "messages": [{"role": "user", "content": text}], "stream": stream}
                body |= {"max_tokens": 1_000}
                if name == "aborted" and stream and at > 3:  # the first ones teach how long a token is
                    leave_early(server, f"/v1/{path}", body)
                else:
                    assert server.ask("POST", f"/v1/{path}", json.dumps(body)).status in (200, 502, 503, 504)
                asked += 1
        rows = server.await_records("select attempts from records", asked)
        lines = until(lambda: (found := vendor.invoice()) and all(line["ended"] for line in found) and found)
    ours: dict[str, Counter[str]] = defaultdict(Counter)
    guessed: dict[str, Counter[str]] = defaultdict(Counter)
    for attempt in [attempt for (text,) in rows for attempt in json.loads(text)]:
        if attempt.get("tokens"):
            booked = guessed if attempt.get("estimated") else ours
            booked[attempt["model"].replace(" ", "-")] += Counter(attempt["tokens"])
    theirs: dict[str, Counter[str]] = defaultdict(Counter)
    untold: dict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        billed = theirs if line["reported"] else untold
        billed[line["model"].split("?")[0]] += Counter({part: line[said] for said, part in PARTS.items()})
    told = "\n".join(
        f"{model:20} reported {dict(theirs[model])} booked {dict(ours[model])}; unreported {dict(untold[model])} "
        f"estimated {dict(guessed[model])}"
        for model in sorted({*theirs, *ours, *untold, *guessed})
    )
    for model in [model for model in theirs if model.endswith(("hedged", "deserted"))]:
        untold[model] += theirs[model] - ours[model]  # told to nobody: another call was faster, or time was up
        theirs[model] &= ours[model]
    assert ours == theirs, told
    assert {model for model, found in guessed.items() if found} == {
        model for model, found in untold.items() if found
    }, told
    sums = [sum(found["input"] + found["output"] for found in by_model.values()) for by_model in (guessed, untold)]
    assert sums[0] == pytest.approx(sums[1], rel=0.15), told

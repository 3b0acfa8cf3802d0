"""Damaged prompts over both APIs: refused as the caller's fault or answered, never an error of ours, and each leaves its Record."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_fuzz import damaged

from fake_vendor import FakeVendor
from server import Server

# A caller's own fault, or of what can't be asked of the model's API.
REFUSED = {400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 417, 431, 501}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TURNS: list[Any] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "what is this?"}, IMAGE]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c", "content": "sunny"},
]  # fmt: skip
BLOCKS: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "what is this?"}]},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "weather", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "sun"}]}]},
]  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": TURNS, "tools": [TOOL], "max_tokens": 9, "stream_options": {"include_usage": True}},
    "messages": {"messages": BLOCKS, "max_tokens": 9, "tools": [{"name": "weather", "input_schema": {"type": "object"}}]},
    "completions": {"prompt": ["once", "upon"], "max_tokens": 9, "logprobs": 2},
    "embeddings": {"input": ["a", "b"]},
    "responses": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
    "moderations": {"input": "hi"},
    "messages/count_tokens": {"messages": BLOCKS},
}  # fmt: skip


def manifest(vendor: FakeVendor) -> dict[str, Any]:
    told = {"endpoint": vendor.url, "price": {"usd_per_1m_input": 1, "usd_per_1m_output": 2}}
    models: dict[str, Any] = {
        "gpt": {"runtime": "openai", "serves": "gpt?tokens=5", "offers": ["responses", "moderations"], **told},
        "claude": {"runtime": "anthropic", "serves": "claude?tokens=5", **told},
        "lax": {"runtime": "anthropic", "serves": "claude?tokens=5", "drop_unsupported": True, **told},
        "lax gpt": {"runtime": "openai", "serves": "gpt?tokens=5", "drop_unsupported": True, **told},
    }
    return {"models": models, "server": {"receive_limit_s": 1, "max_body_mb": 4}}


class Asked(Server):
    """`ids` are those of the Records that it has promised."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        super().__init__(folder, manifest)
        self.ids: set[str] = set()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("fuzz")
    with FakeVendor(folder) as vendor, Asked(folder / "s", manifest(vendor)) as running:
        yield running
    assert "Traceback" not in running.written(), running.written()[-3000:]
    rows = running.records("select lower(hex(id)), reason from records")
    assert {row[0] for row in rows} == running.ids
    assert Counter(row[1] for row in rows)["bug"] == 0


def body_of(dice: random.Random) -> tuple[str, bytes]:
    path = dice.choice(list(FORMS))
    fields = {**FORMS[path], "model": dice.choice(("gpt", "claude", "lax", "lax gpt")), "stream": dice.random() < 0.3}
    kept = {name: value for name, value in fields.items() if dice.random() < 0.95}
    return path, json.dumps(kept).encode()


def anything(server: Asked, seconds: float, seed: int) -> Counter[int]:
    dice = random.Random(seed)
    statuses: Counter[int] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        path, body = body_of(dice)
        sent, fields = (damaged(dice, body) if dice.random() < 0.9 else body), dict[str, str]()
        if dice.random() < 0.1:
            sent, fields = gzip.compress(sent), {"content-encoding": "gzip"}
        reply = server.ask("POST", f"/v1/{path}", sent, fields)
        statuses[reply.status] += 1
        assert reply.status == 200 or (reply.status in REFUSED and reply.json["error"]["message"]), (reply, sent)
        if record := reply.headers.get("servery-record-id"):
            server.ids.add(record)
    return statuses


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_prompts_harm_nobody(server: Asked, seed: int) -> None:
    statuses = anything(server, 4, seed)
    assert statuses[200] > 5, statuses
    assert statuses[400] > 20, statuses


@pytest.mark.proof
@pytest.mark.timeout(120)
def test_damaged_prompts_harm_nobody_for_a_minute(server: Asked) -> None:
    assert anything(server, 60, int(time.time())).total() > 1000

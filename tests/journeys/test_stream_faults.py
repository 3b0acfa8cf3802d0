"""Every fault of the fake vendor, wherever it comes: another tier answers, or the caller is told. None is taken for a whole answer.

The table is printed (`-s`); that of today is in benchmarks/results.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fake_vendor import FakeVendor
from server import Reply, Server
from vendor_faults import AFTER, APIS, OTHER, PAIRS, SAYS, START, STREAMED, WHOLE, manifest

pytestmark = pytest.mark.timeout(120)

TOLD = {"upstream_cut", "wrong_answer", "deadline_exceeded"}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        yield vendor


@pytest.fixture(scope="module")
def server(vendor: FakeVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("faults"), manifest(vendor)) as server:
        yield server
    assert "Traceback" not in server.written(), server.written()[-3000:]


def ask(server: Server, face: str, called: str, stream: bool) -> Reply:
    body = {"model": called, "max_tokens": 99, "stream": stream, "messages": [{"role": "user", "content": "count"}]}
    return server.ask("POST", f"/v1/{APIS[face]}", json.dumps(body))


def heard(reply: Reply, face: str) -> tuple[str, str, str]:
    """What a caller makes of a stream: the text, why it ended ("" where that isn't said), and the code of an error."""
    text, ended, error = "", "", ""
    events = [part.rpartition(b"data: ")[2] for part in reply.body.split(b"\n\n") if part]
    for event in [json.loads(event) for event in events if event != b"[DONE]"]:
        assert not error, reply.body  # nothing comes behind an error
        if "error" in event:
            error = event["error"]["code"]
        elif face == "openai":
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                ended = choice["finish_reason"] or ended
        else:
            delta = event.get("delta", {})
            text += delta.get("text", "")
            ended = delta.get("stop_reason") or ended
    closes = b"data: [DONE]" if face == "openai" else b'"message_stop"'
    assert error or reply.body.strip().splitlines()[-1].find(closes) >= 0, reply.body
    return text, ended, error


def outcome(reply: Reply, face: str, stream: bool) -> str:
    """What became of it: `failed over`, `whole`, or the error that the caller was told. Anything else fails."""
    assert reply.status == 200, reply.body
    if stream:
        text, ended, error = heard(reply, face)
    else:
        told = reply.json
        text = told["choices"][0]["message"]["content"] if face == "openai" else told["content"][0]["text"]
        ended, error = told["choices"][0]["finish_reason"] if face == "openai" else told["stop_reason"], ""
    tier = reply.headers["servery-tier"]
    if error:
        assert (error in TOLD, tier, SAYS.startswith(text)) == (True, "faulty", True), reply.body
        return error
    assert ended in ("stop", "end_turn"), reply.body
    assert text == (SAYS if tier == "faulty" else OTHER), reply.body  # nothing is missing
    return "whole" if tier == "faulty" else "failed over"


def asked(server: Server, names: Any, stream: bool) -> dict[Any, dict[tuple[str, str], str]]:
    """The outcomes of every fault over every pair of APIs (target, face)."""
    every = list(itertools.product(names, PAIRS))

    def one(key: tuple[Any, tuple[str, str]]) -> str:
        fault, (target, face) = key
        return outcome(ask(server, face, f"route {face} by {target}: {fault}", stream), face, stream)

    found: dict[Any, dict[tuple[str, str], str]] = defaultdict(dict)
    with ThreadPoolExecutor(8) as pool:
        for (fault, pair), told in zip(every, pool.map(one, every), strict=True):
            found[fault][pair] = told
    return found


def test_every_fault_of_a_stream_is_failed_over_or_told(server: Server) -> None:
    found = asked(server, STREAMED, stream=True)
    print(f"\n{'fault':18}{'where':24}" + "".join(f"{f'{face} by {target}':24}" for target, face in PAIRS))
    for (kind, where), by_pair in found.items():
        print(f"{kind:18}{where:24}" + "".join(f"{by_pair[pair]:24}" for pair in PAIRS))
    for (kind, where), by_pair in found.items():
        outcomes = set(by_pair.values())
        wanted = {START: {"failed over"}, AFTER: {"whole"}}.get(where, TOLD)
        assert outcomes <= wanted, (kind, where, by_pair)


def test_every_fault_of_an_answer_in_one_is_failed_over(server: Server) -> None:
    for fault, by_pair in asked(server, WHOLE, stream=False).items():
        assert set(by_pair.values()) == {"failed over"}, (fault, by_pair)

"""Every fault of the fake vendor, wherever it comes: another tier answers, or the caller is told. None is taken for a whole answer.

The table is printed (`-s`); that of today is in benchmarks/results.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fake_vendor import FakeVendor
from server import Reply, Server

pytestmark = pytest.mark.timeout(120)

SAYS = "one two three four five six seven eight"  # a token each
OTHER = "another tier says this"
APIS = {"openai": "chat/completions", "anthropic": "messages"}
PAIRS = tuple(itertools.product(APIS, APIS))
TOLD = {"upstream_cut", "wrong_answer", "deadline_exceeded"}
# Where a fault comes: before the first word, in the middle of them, behind the last but before the reason for the end, or behind that.
START, MIDDLE, LAST, AFTER = "before the first word", "between words", "behind the last word", "behind the answer"
# What is ordered of a stream, where that strikes; {cut} is a number of bytes that differs by API.
STREAMED: dict[tuple[str, str], str] = {
    **{
        (status, START): f"fault={status}" for status in ("401", "404", "408", "429", "500", "502", "503", "504", "529")
    },
    ("hangup", START): "fault=hangup",
    ("html", START): "fault=html",
    ("slow first token", START): "latency_ms=60000",
    **{(kind, START): f"fault={kind}:0" for kind in ("stall", "bad", "error", "endless")},
    **{(kind, MIDDLE): f"fault={kind}:4" for kind in ("stall", "bad", "error", "endless")},
    **{(kind, LAST): f"fault={kind}:99" for kind in ("stall", "bad", "error", "endless")},
    ("unfinished", LAST): "fault=unfinished",
    ("cut", START): "fault=cut:{start}",
    ("cut", MIDDLE): "fault=cut:{middle}",
    ("cut", LAST): "fault=cut:{last}",
    ("cut", AFTER): "fault=cut:{after}",
    ("length", AFTER): "fault=length",
    ("no [DONE]", AFTER): "done=false",
    ("no usage", AFTER): "usage=none",
    ("wrong usage", AFTER): "usage=wrong",
}
# The same of answers in one.
WHOLE: dict[str, str] = {
    **{
        f"{status}, whole": f"fault={status}"
        for status in ("401", "404", "408", "429", "500", "502", "503", "504", "529")
    },
    **{
        f"{kind}, whole": f"fault={kind}"
        for kind in ("hangup", "html", "length", "unfinished", "endless", "cut:0", "cut:80")
    },
    "slow, whole": "latency_ms=60000",
}


def stream_of(vendor: FakeVendor, api: str) -> bytes:
    """What the vendor streams when nothing goes wrong."""
    body = {"model": f"x?says={SAYS}", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    return vendor.post(APIS[api], body)


def cuts_of(streamed: bytes) -> dict[str, int]:
    """After how many bytes a cut strikes where. (Ids get longer meanwhile, so none is at the edge of an event.)"""
    first, last = streamed.index(b'"one"'), streamed.index(b'" eight"')
    finish = re.search(rb'"(finish|stop)_reason": "', streamed)
    assert finish is not None
    ended = streamed.index(b"\n\n", finish.start())
    return {
        "start": first // 2,
        "middle": (first + last) // 2,
        "last": finish.start() - 9,
        "after": (ended + len(streamed)) // 2,
    }


def manifest(vendor: FakeVendor) -> dict[str, Any]:
    price = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}
    models: dict[str, Any] = {
        "other": {"runtime": "openai", "endpoint": vendor.url, "serves": f"x?says={OTHER}", "price": price}
    }
    routes: dict[str, Any] = {}
    for target, face in PAIRS:
        cuts = cuts_of(stream_of(vendor, target))
        orders = {name: order.format(**cuts) for name, order in [*STREAMED.items(), *WHOLE.items()]}
        for name, order in orders.items():
            key = f"{face} by {target}: {name}"
            stalls = order.startswith("fault=stall") and not order.endswith(":0")
            model = {"runtime": target, "endpoint": vendor.url, "serves": f"x?says={SAYS}&{order}", "price": price}
            models[key] = {**model, "first_token_ms": 5_000}
            tiers = [{"name": "faulty", "model": key}, {"name": "other", "model": "other"}]
            routes[f"route {key}"] = {
                "deadline_ms": 10_000 if stalls else 60_000,
                "policy": {"retries": 0},
                "tiers": tiers,
            }
    return {"models": models, "routes": routes}


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

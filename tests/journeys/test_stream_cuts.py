"""A stream that is cut after any of its bytes: another tier answers, or the caller is told; it is whole once the reason for its end
has come, and never before.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest
from test_stream_faults import TOLD, outcome

from fake_vendor import FakeVendor
from odd_vendor import Answer, Asked, OddVendor
from server import Server
from vendor_faults import APIS, OTHER, PAIRS, SAYS, stream_of

pytestmark = pytest.mark.timeout(120)

PRICE = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}


def cutting(streamed: bytes) -> Answer:
    """Says so many bytes of it as the prompt's last words say: `close 250` as if they were all, `length 250` as a part."""

    def answer(asked: Asked) -> Iterable[bytes]:
        content = asked["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        framing, at = text.split()
        length = b"content-length: %d\r\n" % len(streamed) if framing == "length" else b""
        yield b"HTTP/1.1 200 OK\r\nconnection: close\r\n%b\r\n" % length
        yield streamed[: int(at)]

    return answer


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What each API's stream looks like, byte by byte."""
    with FakeVendor(tmp_path_factory.mktemp("vendor")) as vendor:
        return {api: stream_of(vendor, api) for api in APIS}


@pytest.fixture(scope="module")
def server(streams: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    answers = {api: cutting(streamed) for api, streamed in streams.items()}
    with OddVendor(answers) as vendor:
        models = {api: {"runtime": api, "endpoint": vendor.url, "serves": api, "price": PRICE} for api in APIS}
        other = {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": OTHER}]}
        routes = {
            f"by {api}": {
                "policy": {"retries": 0},
                "tiers": [{"name": "faulty", "model": api}, {"name": "other", "model": "other"}],
            }
            for api in APIS
        }
        with Server(
            tmp_path_factory.mktemp("cuts"), {"models": {**models, "other": other}, "routes": routes}
        ) as server:
            yield server
    assert "Traceback" not in server.written(), server.written()[-3000:]


def wanted(streamed: bytes, at: int) -> str:
    """What is to become of a stream of which so many bytes come."""
    events = streamed[:at].split(b"\n\n")[:-1]
    if any(re.search(rb'"(finish|stop)_reason": "', event) for event in events):
        return "whole"
    return "told" if any(b'"one"' in event for event in events) else "failed over"


def cut_after(server: Server, face: str, target: str, framing: str, at: int) -> str:
    said = [{"role": "user", "content": f"{framing} {at}"}]
    body = {"model": f"by {target}", "max_tokens": 99, "stream": True, "messages": said}
    reply = server.ask("POST", f"/v1/{APIS[face]}", json.dumps(body))
    found = outcome(reply, face, stream=True)
    return "told" if found in TOLD else found


def cut_everywhere(server: Server, streams: dict[str, bytes], step: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for (target, face), framing in itertools.product(PAIRS, ("close", "length")):
        streamed = streams[target]
        for at in range(0, len(streamed) + 1, step):
            told = cut_after(server, face, target, framing, at)
            assert told == wanted(streamed, at), (target, face, framing, at, streamed[:at][-80:])
            found[told] += 1
            if told != "whole":  # after a few failures in a row it would be left alone
                assert cut_after(server, face, target, framing, len(streamed)) == "whole"
    return found


def test_a_stream_is_whole_once_its_end_was_explained_and_never_before(
    server: Server, streams: dict[str, bytes]
) -> None:
    assert set(cut_everywhere(server, streams, 97)) == {"whole", "told", "failed over"}


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_a_stream_is_cut_after_each_of_its_bytes(server: Server, streams: dict[str, bytes]) -> None:
    print(f"\n{dict(cut_everywhere(server, streams, 1))} of {SAYS!r}")

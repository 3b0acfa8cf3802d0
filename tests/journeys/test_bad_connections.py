"""However a connection is used: garbage, endless, slow, left, many at once. The others never notice."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from server import Reply, post, read_all, split_replies, tensor, with_binary
from watched import Watched, X, fine, watched

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("bad")) as running:
        yield running


def slowly(ms: float) -> bytes:
    return json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [ms])]}).encode()


# What is unusual, but HTTP

INFER = json.dumps({"inputs": [tensor("x", "FP32", [2, 2], X.ravel().tolist())]}).encode()
CHUNKED = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (INFER[:1], INFER[1:40], INFER[40:])) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /v2/models/m/infer HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(INFER), INFER),
        b"POST /v2/models/m/infer HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
        b"POST http://any/v2/models/m/infer HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (len(INFER), INFER),
        b"\r\n" + post("/v2/models/m/infer", INFER, "Connection: Close"),
        post("/v2/models/%6d/infer", INFER, "connection: close"),
        post("/v2/models/m/infer/", INFER, "connection: close"),
        post("/v2/models/m/infer?a=b#c", INFER, "connection: close", "content-type: text/plain"),
        post("/v2/models/m/infer", INFER + b" " * 70_000, "connection: close"),
    ],
    ids=["HTTP/1.0", "chunked", "absolute", "empty line first", "escaped", "slash", "query", "beyond the quick way"],
)
def test_unusual_ways_to_send_are_answered(server: Watched, raw: bytes) -> None:
    (reply,) = split_replies(server.raw(raw))
    server.note(reply)
    assert reply.status == 200, reply
    assert reply.json["outputs"][0]["data"] == X.ravel().tolist()
    assert reply.headers["connection"] == "close"


def test_a_body_that_is_waited_for_is_called_for(server: Watched) -> None:
    head = post("/v2/models/m/infer", INFER, "expect: 100-continue", "connection: close")[: -len(INFER)]
    with server.connect() as line:
        line.sendall(head)
        assert line.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(INFER)
        (reply,) = split_replies(read_all(line))
    server.note(reply)
    assert reply.status == 200


def test_no_length_means_no_body(server: Watched) -> None:
    reply = server.refuse(b"POST /v2/models/m/infer HTTP/1.1\r\nconnection: close\r\n\r\n", 400, "not JSON")
    assert "servery-record-id" in reply.headers


def test_a_request_in_single_bytes_is_answered(server: Watched) -> None:
    with server.connect() as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post("/v2/models/m/infer", INFER, "x-request-id: bytewise"):
            line.sendall(bytes([byte]))
        reply = receive_one(line)
    server.note(reply)
    assert reply.status == 200
    assert reply.headers["x-request-id"] == "bytewise"


# What is no HTTP


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x00" * 100,
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"GET /v2 FTP/1.1\r\n\r\n",
        b"BREW /v2 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nx-request-id: a\x00b\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nx-request-id: a\rservery: b\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nx-request-id: a\r\n servery: b\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: ten\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 1e3\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_garbage_instead_of_http_is_a_400(server: Watched, raw: bytes) -> None:
    server.refuse(raw, 400, "this is not HTTP/1.1, or its head is broken")
    if b"chunked\r\n\r\n" in raw and b"content-length" not in raw:
        server.abandoned += 1  # its head was whole and its key checked; the chunks in its body are broken
    server.check_unharmed()


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /" + b"a" * MIB + b" HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nx-long: " + b"a" * MIB + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n" + b"x-many: a\r\n" * 100_000 + b"\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 2\r\n" + b"x-many: a\r\n" * 100_000 + b"\r\n{}",
    ],
    ids=["url", "value", "lines", "lines of an infer call"],
)
def test_an_endless_head_is_a_431(server: Watched, raw: bytes) -> None:
    server.refuse(raw, 431, "head of the request is longer than 64 KiB")
    server.check_unharmed()


def test_an_upgrade_is_answered_as_plain_http(server: Watched) -> None:
    """As Java's HTTP client asks by default."""
    body = json.dumps(fine()).encode()
    upgrade = ("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAEAAEAA")
    with server.connect() as line:
        for _ in range(3):
            line.sendall(post("/v2/models/m/infer", body, *upgrade))
            reply = receive_one(line)
            server.note(reply)
            assert reply.status == 200
    with server.connect() as line:
        line.sendall(b"GET /v2 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert receive_one(line).json["name"] == "servery"
    server.check_unharmed()


def receive_one(line: socket.socket) -> Reply:
    """The next whole reply of a connection that stays open."""
    received = b""
    while True:
        part = line.recv(65536)
        assert part, f"closed after {received!r}"
        received += part
        head, found, rest = received.partition(b"\r\n\r\n")
        if found:
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            if len(rest) >= size:
                return split_replies(received)[0]


# Too large


def test_a_gigabyte_is_refused_before_it_is_read(server: Watched) -> None:
    for path in ("/v2/models/m/infer", "/v2/models/m/versions/1/infer", "/servery/v1/feedback"):
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {1 << 30}\r\n\r\n".encode()
        reply = server.refuse(head, 413, f"the body has {1 << 30} bytes or more; at most 64 MiB are taken")
        assert reply.headers["connection"] == "close"
        expecting = head.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n")
        server.refuse(expecting, 413, "at most 64 MiB")
    server.check_unharmed()


def test_a_body_of_65_mb_in_chunks_is_refused_and_the_refusal_arrives(server: Watched) -> None:
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
    server.refuse(head + chunk * 80, 413, "at most 64 MiB are taken (server.max_body_mb)")
    server.check_unharmed()


def test_a_client_that_sends_all_before_it_reads_gets_the_413(server: Watched) -> None:
    body = b" " * (70 * MIB)
    server.refuse(post("/v2/models/m/infer", body), 413, "at most 64 MiB")
    server.check_unharmed()


def test_60_mb_are_taken(server: Watched) -> None:
    array = np.zeros((60 * MIB // 8, 2), np.float32)
    head = {
        "inputs": [tensor("x", "FP32", array.shape, None)],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    body, headers = with_binary(head, {"x": array.tobytes()})
    reply = server.infer("m", body, headers)
    assert reply.status == 200
    assert len(reply.body) > 60 * MIB


# Too slow, and gone


def test_what_arrives_in_drips_is_a_408(server: Watched) -> None:
    body = json.dumps(fine()).encode()
    whole = post("/v2/models/m/infer", body)
    slow_ways = {
        "nothing": (b"", b""),
        "head": (b"POST /v2/mod", whole[12:]),
        "body": (whole[: -len(body) + 5], body[5:]),
        "large body": (post("/v2/models/m/infer", b" " * 200_000)[:400], b" " * 1000),
        "chunked body": (
            b"POST /v2/models/m/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            b"1\r\n \r\n" * 100,
        ),
        "feedback": (post("/servery/v1/feedback", b" " * 500)[:120], b" " * 100),
    }
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        lines = {way: stack.enter_context(server.connect()) for way in slow_ways}
        for way, (first, _) in slow_ways.items():
            lines[way].sendall(first)
        ended: dict[str, float] = {}
        for drop in range(60):
            for way, line in lines.items():
                if way in ended:
                    continue
                with contextlib.suppress(OSError):
                    line.send(slow_ways[way][1][drop : drop + 1])
                line.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    assert line.recv(5, socket.MSG_PEEK), way
                    ended[way] = time.monotonic() - began
            if len(ended) == len(lines):
                break
        for way, line in lines.items():
            line.settimeout(5)
            (reply,) = split_replies(read_all(line))
            assert reply.status == 408, (way, reply)
            assert "within 1 s (server.receive_limit_s)" in reply.error
            assert reply.headers["connection"] == "close"
        assert all(0.9 < took < 4 for took in ended.values()), ended
    server.abandoned += 2  # the large and the chunked body: their key was checked before
    server.check_unharmed()


def test_a_client_that_leaves_in_its_body_is_recorded_where_its_key_was_checked(server: Watched) -> None:
    """A small body is looked at once it is whole, the key of a large one before its body is read."""
    whole = post("/v2/models/m/infer", json.dumps(fine()).encode())
    large = post("/v2/models/m/infer", b" " * MIB)
    for sent in (b"", whole[:9], whole[:-5], large[: MIB // 2]):
        with server.connect() as line:
            line.sendall(sent)
        server.check_unharmed()
    server.abandoned += 1
    server.await_records("SELECT 1 FROM records WHERE outcome = 'abandoned'", server.abandoned)


@pytest.mark.parametrize("path", ["/v2/models/slow/infer", "/v2/models/slo%77/infer"])
def test_a_client_that_leaves_an_inference_is_recorded_as_abandoned(server: Watched, path: str) -> None:
    query = "SELECT id, attempts FROM records WHERE outcome = 'abandoned' AND route = 'slow'"
    before = len(server.await_records(query, 0))
    for _ in range(2):  # the second one waits behind the first
        with server.connect() as line:
            line.sendall(post(path, slowly(150)))
            line.settimeout(0.03)
            with pytest.raises(TimeoutError):
                line.recv(1)
        server.abandoned += 1
    found = server.await_records(query, before + 2)
    for _, attempts in found:
        assert [attempt["outcome"] for attempt in json.loads(attempts)] in ([], ["abandoned"])
    assert server.ask("POST", path, slowly(1)).status == 200
    server.check_unharmed()


# Several at once on one connection


def ask_pipelined(server: Watched, *requests: bytes) -> list[Reply]:
    """The replies to requests that go out in one piece; the last one must ask for the connection's end."""
    replies = split_replies(server.raw(b"".join(requests)))
    server.note(*replies)
    return replies


def named(name: str, called: str = "m", ms: float = 0, *lines: str) -> bytes:
    sent = {"id": name, "inputs": [tensor("x", "FP32", [1, 1], [ms])] if called == "slow" else fine()["inputs"]}
    return post(f"/v2/models/{called}/infer", json.dumps(sent).encode(), f"x-request-id: {name}", *lines)


LAST = b"GET /v2/health/live HTTP/1.1\r\nx-request-id: last\r\nconnection: close\r\n\r\n"
META = b"GET /v2/models/m HTTP/1.1\r\nx-request-id: meta\r\n\r\n"


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([named("a"), named("b"), named("c"), LAST], ["a", "b", "c", "last"]),
        ([named("a"), named("b", "slow", 60), named("c"), LAST], ["a", "b", "c", "last"]),
        ([named("a", "slow", 60), named("b"), named("c"), LAST], ["a", "b", "c", "last"]),
        ([named("a", "slow", 60), named("b", "slow", 30), named("c", "slow", 1), LAST], ["a", "b", "c", "last"]),
        ([META, named("a", "slow", 40), META, named("b"), LAST], ["meta", "a", "meta", "b", "last"]),
        ([named("a"), META, named("b", "slow", 40), META, LAST], ["a", "meta", "b", "meta", "last"]),
        ([named("a", "slow", 40), named("b", "m", 0, "connection: close")], ["a", "b"]),
        ([named("a", "slow", 40, "connection: close"), named("b")], ["a"]),
        ([named("a"), named("b", "slo%77", 1), named("c"), LAST], ["a", "b", "c", "last"]),
    ],
)
def test_pipelined_requests_are_answered_in_order(server: Watched, requests: list[bytes], expected: list[str]) -> None:
    replies = ask_pipelined(server, *requests)
    assert [reply.headers["x-request-id"] for reply in replies] == expected
    for reply in replies:
        wrong = b"slo%77" in b"".join(requests) and reply.headers["x-request-id"] == "b"
        assert reply.status == (400 if wrong else 200), reply
    server.check_unharmed()


def test_a_pipelined_error_stops_nothing_before_it(server: Watched) -> None:
    replies = ask_pipelined(server, named("a", "slow", 60), named("b"), b"nonsense\r\n\r\n")
    assert [reply.status for reply in replies] == [200, 200, 400]
    assert [reply.headers.get("x-request-id") for reply in replies] == ["a", "b", None]
    replies = ask_pipelined(server, named("a"), post("/v2/models/m/infer", b"{"), named("c"), LAST)
    assert [reply.status for reply in replies] == [200, 400, 200, 200]
    server.check_unharmed()


def test_half_a_request_behind_a_slow_one_does_not_end_it(server: Watched) -> None:
    with server.connect() as line:
        line.sendall(named("a", "slow", 3500) + b"POST /v2/mod")
        reply = receive_one(line)
        server.note(reply)
        assert reply.status == 200
    server.check_unharmed()


def test_a_client_that_leaves_pipelined_requests_leaves_a_record_of_each(server: Watched) -> None:
    """Nothing more is read from a connection while requests wait in it, so that it ended is seen when one is answered."""
    with server.connect() as line:
        line.sendall(named("left-a", "slow", 150) + named("left-b", "slow", 150))
        line.settimeout(0.03)
        with pytest.raises(TimeoutError):
            line.recv(1)
    query = "SELECT lower(hex(id)), request_id, outcome FROM records WHERE request_id LIKE 'left-%' ORDER BY request_id"
    found = server.await_records(query, 2)
    assert [request for _, request, _ in found] == ["left-a", "left-b"]
    server.ids += [record for record, _, outcome in found if outcome != "abandoned"]
    server.abandoned += sum(outcome == "abandoned" for _, _, outcome in found)
    server.check_unharmed()

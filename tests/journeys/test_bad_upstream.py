"""Whatever an endpoint answers: another's turn or an error that says so, one Record, tokens and dollars that can be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from odd_vendor import Answer, Asked, OddVendor
from server import Reply, Server

pytestmark = pytest.mark.timeout(120)

SECRET = "sk-of-the-odd-vendor-0123456789"
PATHS = ("chat/completions", "messages")
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def http(body: Any, status: bytes = b"200 OK", *lines: bytes) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = b"".join([line + b"\r\n" for line in (*lines, b"connection: close")])
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(content), head, content)


def says(content: bytes) -> Answer:
    return lambda _: [content]


def events(*each: Any) -> bytes:
    return http(b"".join([b"data: %b\n\n" % json.dumps(event).encode() for event in each]))


def chat(**more: Any) -> dict[str, Any]:
    said = {"index": 0, "message": {"role": "assistant", "content": "odd"}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "model": "v", "choices": [said], "usage": USAGE, **more}


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "model": "v", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def message(**more: Any) -> dict[str, Any]:
    said = {"content": [{"type": "text", "text": "odd"}], "stop_reason": "end_turn"}
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "v",
        **said,
        "usage": {"output_tokens": 4},
        **more,
    }


def endless(begin: bytes, part: bytes) -> Answer:
    def answer(asked: Asked) -> Iterable[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n" + begin
        for _ in range((1 << 30) // len(part)):
            yield part

    return answer


DEEP = b"[" * 100_000 + b"]" * 100_000
BROKEN = "wrong_answer", "upstream_cut"
ENDLESS = "wrong_answer", "upstream_slow"
# What it answers, whatever it is asked, and the reasons for which it isn't heard.
ODD: dict[str, tuple[Answer, tuple[str, ...]]] = {
    "a page": (says(http(b"<html>Bad gateway</html>", b"200 OK", b"content-type: text/html")), BROKEN),
    "a page as an error": (says(http(b"<html>Bad gateway</html>", b"502 Bad Gateway")), ("model_failed",)),
    "a redirect": (says(http(b"", b"302 Found", b"location: http://127.0.0.1:9/")), ("model_failed",)),
    "nothing": (says(http(b"")), BROKEN),
    "null": (says(http(b"null")), BROKEN),
    "a list": (says(http(b"[]")), BROKEN),
    "an empty object": (says(http(b"{}")), BROKEN),
    "vectors": (says(http({"object": "list", "data": [{"embedding": [1]}], "usage": USAGE})), BROKEN),
    "models": (says(http({"object": "list", "data": [{"id": "x", "object": "model"}]})), BROKEN),
    "a count": (says(http({"input_tokens": 5})), BROKEN),
    "a completion": (says(http({"choices": [{"text": "odd", "finish_reason": "stop"}], "usage": USAGE})), BROKEN),
    "a completion's chunks": (
        says(events({"choices": [{"index": 0, "text": "odd"}]}, {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})),
        BROKEN,
    ),
    "a chat without choices": (says(http(chat(choices=[]))), BROKEN),
    "a chat without a message": (says(http(chat(choices=[{"index": 0, "finish_reason": "stop"}]))), BROKEN),
    "what isn't UTF-8": (says(http(json.dumps(chat()).encode().replace(b"odd", b"\xff\xfe"))), BROKEN),
    "what isn't UTF-8 where nobody looks": (
        says(http(json.dumps(chat(content=[], type="message", stop_reason="x", odd="?")).encode().replace(b"?", b"\xff"))), BROKEN,
    ),
    "an event that isn't": (
        says(events({**chunk("stop", content="odd"), "odd": "?", "type": "message_delta"}).replace(b"?", b"\xff")), BROKEN,
    ),
    "what is nested without end": (says(http(b'{"choices":%b,"content":%b,"type":"message"}' % (DEEP, DEEP))), BROKEN),
    "an event that is": (says(http(b'data: {"type":"ping","choices":%b}\n\n' % DEEP)), BROKEN),
    "packed": (says(http(b"\x1f\x8b\x08\x00", b"200 OK", b"content-encoding: gzip")), BROKEN),
    "a length that isn't true": (says(http(chat())[:-9]), ("upstream_cut",)),
    "two replies' heads": (says(b"HTTP/1.1 100 Continue\r\n\r\n" + http(b"")), BROKEN),
    "a body without end": (endless(b'{"a":"', b"x" * 65_536), ENDLESS),
    "a line without end": (endless(b"data: ", b"x" * 65_536), ENDLESS),
    "comments without end": (endless(b"", b": nothing\n\n" * 4096), ENDLESS),
    "empty data without end": (endless(b"", b"data:\n" * 8192), ENDLESS),
    "a pause that can't be": (
        says(http(b"{}", b"429 Too Many", b"retry-after: " + b"9" * 60_000)), ("upstream_busy",),
    ),
    "a date that can't be": (
        says(http(b"{}", b"503 Busy", b"retry-after: Fri, 31 Dec 9999 23:59:59 +99999999999999")), ("upstream_busy",),
    ),
    "a long error": (says(http(b"x" * 200_000, b"500 Bug")), ("model_failed", *BROKEN)),
}  # fmt: skip
COUNTS: tuple[Any, ...] = (10**30, 2**62, 10**9, -1, 1.5, "3", None, [], {})


def counted(api: str, count: Any) -> Answer:
    """An answer, whole or in a stream, whose usage says `count` of everything."""
    usage = {"prompt_tokens": count, "completion_tokens": count}
    told = {"input_tokens": count, "output_tokens": count}

    def answer(asked: Asked) -> Iterable[bytes]:
        stream = bool(asked.get("stream"))
        if api == "openai":
            chunks = events(chunk(content="odd"), chunk("stop"), {"choices": [], "usage": usage})
            yield chunks if stream else http(chat(usage=usage))
            return
        text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "odd"}}
        started = {"type": "message_start", "message": message(content=[], stop_reason=None, usage=told)}
        ended = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": told}
        yield events(started, text, ended, {"type": "message_stop"}) if stream else http(message(usage=told))

    return answer


def leaks(words: str) -> Answer:
    """A refusal that says back what the caller mustn't know."""
    return says(http({"error": {"type": "x", "message": words}}, b"400 Bad Request"))


ANSWERS: dict[str, Answer] = {
    **{name: answer for name, (answer, _) in ODD.items()},
    **{f"{api} counts {at}": counted(api, count) for api in ("openai", "anthropic") for at, count in enumerate(COUNTS)},
    "leaks": leaks(f"the key {SECRET} may not do this, Bearer {SECRET}"),
}


def manifest(vendor: OddVendor) -> dict[str, Any]:
    models: dict[str, Any] = {"fine": {"runtime": "heuristic", "replies": [{"pattern": ".", "reply": "fine"}]}}
    routes: dict[str, Any] = {}
    for api, name in itertools.product(("openai", "anthropic"), ANSWERS):
        models[f"{api}: {name}"] = {
            "runtime": api,
            "endpoint": vendor.url,
            "serves": name,
            "price": {"usd_per_1m_input": 10_000, "usd_per_1m_output": 10_000},
            "credentials": {"env": "SERVERY_TEST_SECRET"},
            **({"first_token_ms": 400} if "without end" in name else {}),
        }
        tiers = [{"name": "odd", "model": f"{api}: {name}"}, {"name": "fine", "model": "fine"}]
        routes[f"{name} by {api}"] = {"policy": {"retries": 0}, "tiers": tiers}
    return {"models": models, "routes": routes}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, OddVendor(ANSWERS) as vendor:
        patch.setenv("SERVERY_TEST_SECRET", SECRET)
        with Server(tmp_path_factory.mktemp("odd"), manifest(vendor)) as server:
            yield server
    assert SECRET not in server.written()
    assert "Traceback" not in server.written(), server.written()[-3000:]
    files = [path for path in server.data.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def ask(server: Server, called: str, path: str, stream: bool) -> Reply:
    body = {"model": called, "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
    return server.ask("POST", f"/v1/{path}", json.dumps(body))


def attempts(server: Server, replies: dict[Any, Reply]) -> dict[Any, list[dict[str, Any]]]:
    """Those of each reply's Record."""
    ids = {reply.headers["servery-record-id"]: key for key, reply in replies.items()}
    wanted = ", ".join(f"x'{record}'" for record in ids)
    rows = server.await_records(f"select lower(hex(id)), attempts from records where id in ({wanted})", len(ids))
    return {ids[record]: json.loads(text) for record, text in rows}


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_what_is_no_answer_is_anothers_turn(server: Server, api: str) -> None:
    replies: dict[Any, Reply] = {}
    for name, path, stream in itertools.product(ODD, PATHS, (False, True)):
        replies[name, path, stream] = reply = ask(server, f"{name} by {api}", path, stream)
        assert (reply.status, b"fine" in reply.body, b"odd" in reply.body) == (200, True, False), (name, reply.body)
    for (name, path, stream), tried in attempts(server, replies).items():
        *odd, fine = tried
        assert fine["outcome"] == "served"
        # Where it wants to be left alone, it isn't asked a second time.
        assert {attempt["reason"] for attempt in odd} <= set(ODD[name][1]), (name, path, stream, tried)
        assert odd or stream or path != PATHS[0]


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_counts_that_cant_be_are_estimated_and_lose_no_record(server: Server, api: str) -> None:
    replies: dict[Any, Reply] = {}
    for at, path, stream in itertools.product(range(len(COUNTS)), PATHS, (False, True)):
        replies[at, path, stream] = reply = ask(server, f"{api} counts {at} by {api}", path, stream)
        assert b"odd" in reply.body, reply
    for key, (tried,) in attempts(server, replies).items():
        assert (tried["outcome"], tried["estimated"], tried["pico_usd"] > 0) == ("served", True, True), (key, tried)
        assert tried["tokens"]["input"] + tried["tokens"]["output"] < 100


def test_a_vendor_who_says_the_secret_isnt_repeated(server: Server) -> None:
    for api, path, stream in itertools.product(("openai", "anthropic"), PATHS, (False, True)):
        reply = ask(server, f"leaks by {api}", path, stream)
        assert reply.status == 400
        assert SECRET not in reply.body.decode()
        assert "may not do this" in reply.json["error"]["message"]

"""Whatever a caller sends: a clear error in the protocol's form, nothing lost, and the next request unharmed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server import pack_bytes, post, tensor, with_binary
from watched import Watched, X, fine, watched

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("bad")) as running:
        yield running


def x(data: str = "[1,2]", shape: str = "[1,2]", datatype: str = "FP32", more: str = "", name: str = "x") -> bytes:
    """A body with one input, as text: much of what is sent here can't be made by a JSON library."""
    body = f'{{"inputs":[{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":{data}{more}}}]}}'
    return body.encode("utf-8", "surrogateescape")


def binary(block: bytes, size: object, shape: list[int] | None = None, datatype: str = "FP32") -> bytes:
    """JSON that says its tensor has `size` bytes of binary data, and then the block."""
    sent = {"name": "x", "shape": shape or [2, 2], "datatype": datatype, "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [sent]}).encode() + block


def many(brackets: int) -> str:
    return "[" * brackets + "]" * brackets


# id, name called, body, a piece of the message. All are 400.
BODIES: list[tuple[str, str, bytes, str]] = [
    ("empty", "m", b"", "not JSON"),
    ("array", "m", b"[]", "Expected `object`, got `array`"),
    ("null", "m", b"null", "Expected `object`, got `null`"),
    ("number", "m", b"7", "Expected `object`"),
    ("no inputs", "m", b"{}", "missing required field `inputs`"),
    ("inputs null", "m", b'{"inputs":null}', "$.inputs"),
    ("inputs object", "m", b'{"inputs":{}}', "$.inputs"),
    ("inputs empty", "m", b'{"inputs":[]}', "input 'x' is missing"),
    ("input is a number", "m", b'{"inputs":[1]}', "$.inputs[0]"),
    ("input without name", "m", b'{"inputs":[{"shape":[1,2],"datatype":"FP32","data":[1,2]}]}', "`name`"),
    ("input without shape", "m", b'{"inputs":[{"name":"x","datatype":"FP32","data":[1,2]}]}', "`shape`"),
    ("input without datatype", "m", b'{"inputs":[{"name":"x","shape":[1,2],"data":[1,2]}]}', "`datatype`"),
    ("input without data", "m", b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32"}]}', "'x' has neither `data`"),
    ("cut short", "m", x()[:-3], "not JSON"),
    ("more after the end", "m", x() + b"x", "not JSON"),
    ("byte order mark", "m", b"\xef\xbb\xbf" + x(), "not JSON"),
    ("UTF-16", "m", x().decode().encode("utf-16"), "not JSON"),
    ("a form", "m", b"inputs=1&x=2", "not JSON"),
    ("HTML", "m", b"<html></html>", "not JSON"),
    ("not UTF-8 in a name", "m", x(name="\udcff"), "not JSON"),
    ("not UTF-8 in data", "words", x('["\udcff"]', "[1,1]", "BYTES", name="words"), "'words'"),
    ("half a surrogate", "words", x('["\\ud800"]', "[1,1]", "BYTES", name="words"), "JSON"),
    ("id is a number", "m", b'{"id":7,"inputs":[]}', "$.id"),
    ("wrong name", "m", x(name="y"), "'m' has no input 'y'; it takes 'x'"),
    ("wrong name of a route", "route", x(name="y"), "'route' has no input 'y'"),
    ("very long name", "m", x(name="n" * MIB), "no input 'nnn"),
    ("missing input", "pair", x("[1,2]", "[1,2]", name="a"), "input 'b' is missing"),
    ("input twice", "m", json.dumps({"inputs": fine()["inputs"] * 2}).encode(), "input 'x' is given twice"),
    ("rows disagree", "pair",
     json.dumps({"inputs": [tensor("a", "FP32", [2, 2], [1.0] * 4), tensor("b", "INT64", [3], [1, 2, 3])]}).encode(),
     "input 'b' has 3 rows, the one before it 2"),
    ("unknown datatype", "m", x(datatype="FP8"), "tensor 'x': datatype 'FP8' is unknown; use one of"),
    ("very long datatype", "m", x(datatype="F" * MIB), "tensor 'x': datatype 'FFF"),
    ("wrong datatype", "m", x(datatype="FP64"), "input 'x' is FP32, but FP64 was sent"),
    ("FP16 in JSON", "m", x(datatype="FP16"), "tensor 'x': FP16 can't be sent as JSON"),
    ("shape is a number", "m", x(shape="2"), "$.inputs[0].shape"),
    ("shape has floats", "m", x(shape="[1,2.5]"), "$.inputs[0].shape[1]"),
    ("shape has texts", "m", x(shape='["1",2]'), "$.inputs[0].shape[0]"),
    ("negative shape", "m", x(shape="[-1,2]"), "tensor 'x': shape [-1, 2] has a negative dimension"),
    ("no shape", "m", x("[1]", "[]"), "input 'x' has shape [-1, 2]"),
    ("rank too low", "m", x(shape="[2]"), "input 'x' has shape [-1, 2] (-1: any size), but [2] was sent"),
    ("rank too high", "m", x(shape="[1,1,2]"), "but [1, 1, 2] was sent"),
    ("wrong columns", "m", x("[1,2,3]", "[1,3]"), "but [1, 3] was sent"),
    ("40 dimensions", "m", x("[1]", str([1] * 40)), "tensor 'x': shape has 40 dimensions"),
    ("huge product", "m", x(shape="[4294967296,4294967296]"), "tensor 'x': shape"),
    ("product beyond 64 bits", "m", x(shape="[4294967296,4294967296,4294967296]"), "tensor 'x': shape"),
    ("size beyond 64 bits", "m", x(shape=f"[{10**30},2]"), "tensor 'x': shape"),
    ("size of 5000 digits", "m", x(shape=f"[{'9' * 5000},2]"), "$.inputs[0].shape[0]"),
    ("nothing of a huge size", "any", x("[]", "[0,99999999999999999999]"), "tensor 'x': shape"),
    ("nothing of two huge sizes", "any", x("[]", "[0,4611686018427387904,4]"), "tensor 'x': shape"),
    ("gigabytes declared", "m", x(shape="[100000000,2]"), "tensor 'x': data has 2 elements"),
    ("too few elements", "m", x("[1]"), "tensor 'x': data has 1 elements; shape [1, 2] needs 2"),
    ("too many elements", "m", x("[1,2,3]"), "tensor 'x': data has 3 elements"),
    ("data is a number", "m", x("1"), "tensor 'x' (FP32): data: Expected `array`, got `int`"),
    ("data is an object", "m", x('{"0":1}'), "tensor 'x' (FP32): data"),
    ("data is null", "m", x("null"), "'x'"),
    ("text among numbers", "m", x('[1,"2"]'), "tensor 'x' (FP32): data: Expected `float`, got `str` - at `$[1]`"),
    ("null among numbers", "m", x("[1,null]"), "`$[1]`"),
    ("boolean among numbers", "m", x("[1,true]"), "`$[1]`"),
    ("number among texts", "words", x("[1]", "[1,1]", "BYTES", name="words"), "tensor 'words' (BYTES)"),
    ("number among booleans", "bools", x("[1]", "[1,1]", "BOOL"), "tensor 'x' (BOOL)"),
    ("float among integers", "ints", x("[1.5]", "[1,1]", "INT64"), "tensor 'x' (INT64)"),
    ("NaN", "m", x("[NaN,1]"), "not JSON"),
    ("Infinity", "m", x("[1,Infinity]"), "not JSON"),
    ("-Infinity", "m", x("[1,-Infinity]"), "not JSON"),
    ("nan", "m", x("[nan,1]"), "not JSON"),
    ("1e400", "m", x("[1,1e400]"), "tensor 'x' (FP32): data: Number out of range"),
    ("1e39 into FP32", "m", x("[1,1e39]"), "tensor 'x': a number is out of range for FP32"),
    ("2^63 into INT64", "ints", x("[9223372036854775808]", "[1,1]", "INT64"), "tensor 'x': a number is out of range"),
    ("5000 digits into INT64", "ints", x(f"[{'9' * 5000}]", "[1,1]", "INT64"), "tensor 'x' (INT64)"),
    ("hexadecimal", "m", x("[0x1,2]"), "not JSON"),
    ("ragged", "m", x("[[1,2],[3]]", "[2,2]"), "tensor 'x': data is not nested as shape [2, 2] says"),
    ("ragged rows", "m", x("[[1,2],3]", "[2,2]"), "tensor 'x' (FP32)"),
    ("nested too deep", "m", x("[[[1,2]]]", "[1,2]"), "tensor 'x' (FP32)"),
    ("nested the wrong way", "m", x("[[1],[2]]", "[1,2]"), "tensor 'x': data is not nested as shape [1, 2]"),
    ("100k brackets", "m", many(100_000).encode(), ""),
    ("100k open brackets", "m", b"[" * 100_000, ""),
    ("100k brackets in data", "m", x(many(100_000)), "nested too deeply"),
    ("100k brackets in a parameter", "m", b'{"inputs":[],"parameters":{"a":%b}}' % many(100_000).encode(), "deeply"),
    ("100k brackets where nobody looks", "m", b'{"a":%b,"inputs":[]}' % many(100_000).encode(), "deeply"),
    ("100k objects", "m", b'{"a":' * 100_000, ""),
    ("1000 brackets in data", "m", x(many(1000)), "nested too deeply"),
    ("output unknown", "m", json.dumps(fine(outputs=[{"name": "z"}])).encode(), "'m' has no output 'z'; it gives 'y'"),
    ("output twice", "m", json.dumps(fine(outputs=[{"name": "y"}] * 2)).encode(), "output 'y' is asked for twice"),
    ("outputs object", "m", json.dumps(fine(outputs={"name": "y"})).encode(), "$.outputs"),
    ("output without name", "m", json.dumps(fine(outputs=[{}])).encode(), "`name`"),
    ("output as class", "m",
     json.dumps(fine(outputs=[{"name": "y", "parameters": {"classification": 3}}])).encode(), "output 'y'"),
    ("binary_data is text", "m",
     json.dumps(fine(outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}])).encode(), "output 'y'"),
    ("binary_data_output is 1", "m", json.dumps(fine(parameters={"binary_data_output": 1})).encode(), "binary_data_out"),
    ("parameters array", "m", json.dumps(fine(parameters=[1])).encode(), "$.parameters"),
    ("size without a block", "m", binary(b"", 16), "tensor 'x': binary_data_size is 16, but 0 bytes are left"),
    ("block without a length", "m", binary(X.tobytes(), 16), "not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("called", "body", "piece"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_a_bad_body_is_a_400_that_says_what(server: Watched, called: str, body: bytes, piece: str) -> None:
    reply = server.infer(called, body)
    assert reply.status == 400, reply
    assert piece in reply.error
    assert len(reply.error) < 2000
    assert "servery-record-id" in reply.headers
    server.check_unharmed()


JSON_LENGTH = len(binary(b"", 16))

# id, body, the header that parts JSON from blocks, a piece of the message.
BLOCKS: list[tuple[str, bytes, str, str]] = [
    ("text for a length", binary(X.tobytes(), 16), "abc", "must be a count of bytes"),
    ("negative length", binary(X.tobytes(), 16), "-1", "must be a count of bytes"),
    ("empty length", binary(X.tobytes(), 16), "", "must be a count of bytes"),
    ("float length", binary(X.tobytes(), 16), "1e2", "must be a count of bytes"),
    ("signed length", binary(X.tobytes(), 16), f"+{JSON_LENGTH}", "must be a count of bytes"),
    ("digits of elsewhere", binary(X.tobytes(), 16), "²", "must be a count of bytes"),
    ("endless length", binary(X.tobytes(), 16), "9" * 4000, "must be a count of bytes"),
    ("length beyond the body", binary(X.tobytes(), 16), "100000", "is 100000, but the body has"),
    ("length too short", binary(X.tobytes(), 16), str(JSON_LENGTH - 1), "not JSON"),
    ("length too long", binary(X.tobytes(), 16), str(JSON_LENGTH + 1), "not JSON"),
    ("size negative", binary(X.tobytes(), -1), "", "tensor 'x': binary_data_size must be a count of bytes"),
    ("size text", binary(X.tobytes(), "16"), "", "tensor 'x': binary_data_size"),
    ("size float", binary(X.tobytes(), 16.0), "", "tensor 'x': binary_data_size"),
    ("size true", binary(X.tobytes(), True), "", "tensor 'x': binary_data_size"),
    ("size beyond the body", binary(X.tobytes(), 17), "", "binary_data_size is 17, but 16 bytes are left"),
    ("size huge", binary(X.tobytes(), 2**80), "", "but 16 bytes are left"),
    ("size too small for the shape", binary(X.tobytes(), 15), "", "its binary data has 15 bytes"),
    ("bytes left over", binary(X.tobytes() + b"more", 16), "", "4 bytes of the body belong to no tensor"),
    ("shape too large for the block", binary(X.tobytes(), 16, [3, 2]), "", "shape [3, 2] of FP32 needs 24"),
    ("BF16 to FP32", binary(X.tobytes(), 16, [4, 2], "BF16"), "", "input 'x' is FP32, but BF16 was sent"),
    ("texts that run over", binary(b"\xff\xff\xff\xff1234", 8, [1, 1], "BYTES"), "", "element 0 runs beyond"),
    ("texts cut in a length", binary(pack_bytes([b"a", b"b"])[:-2], 8, [2, 1], "BYTES"), "", "element 1 runs beyond"),
    ("texts left over", binary(pack_bytes([b"a", b"b"]), 10, [1, 1], "BYTES"), "", "5 bytes are left after its 1"),
    ("too few texts", binary(pack_bytes([b"a"]), 5, [9, 1], "BYTES"), "", "too few for 9 BYTES elements"),
    ("booleans of 2", binary(b"\x01\x02", 2, [2, 1], "BOOL"), "", "BOOL elements must be the bytes 0 or 1"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "length", "piece"), [case[1:] for case in BLOCKS], ids=[case[0] for case in BLOCKS])
def test_lengths_and_sizes_that_lie_are_found_out(server: Watched, body: bytes, length: str, piece: str) -> None:
    honest = not length and piece != "must be a count of bytes"
    told = str(body.index(b"}]}") + 3) if honest else length
    line = b"inference-header-content-length: " + told.encode("latin-1")
    raw = post("/v2/models/m/infer", body, "connection: close").replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n", 1)
    reply = server.refuse(raw, 400, piece)
    assert "servery-record-id" in reply.headers
    server.check_unharmed()


def test_data_beside_a_block_is_refused(server: Watched) -> None:
    body, headers = with_binary(fine(), {"x": X.tobytes()})
    both = body.replace(b'"parameters"', b'"data": [1], "parameters"')
    headers = {"inference-header-content-length": str(int(headers["inference-header-content-length"]) + 13)}
    reply = server.infer("m", both, headers)
    assert reply.status == 400
    assert "tensor 'x' has both `data` and binary_data_size" in reply.error


# Paths, methods, encodings


@pytest.mark.parametrize(
    ("path", "piece"),
    [
        ("/", "nothing at /"),
        ("/index.html", "nothing at /index.html"),
        ("/v0/models", "nothing at"),
        ("/v3", "nothing at"),
        ("//v2", "nothing at"),
        ("/v2/logging", "there are no log settings"),
        ("/v2/trace/setting", "there are no trace settings"),
        ("/v2/systemsharedmemory/status", "no memory shared with callers"),
        ("/v2/cudasharedmemory/region/r/register", "no memory shared with callers"),
        ("/v2/health", "nothing at"),
        ("/v2/../../../../etc/passwd", "nothing at"),
        ("/v2/models/..%2f..%2f..%2fetc%2fpasswd", "no route or model is called '../../../etc/passwd'"),
        ("/v2/models/../../etc/passwd", ""),
        ("/v2/models/%00", "no route or model"),
        ("/v2/models/%ff%fe", "no route or model"),
        ("/v2/models/%", "no route or model is called '%'"),
        ("/v2/models/" + "n" * 30_000, "no route or model is called 'nnn"),
        ("/v2/models/m/nowhere", "no route or model is called 'm/nowhere'"),
        ("/v2/models/m/versions", "no route or model is called 'm/versions'"),
        ("/v2/models/m/versions/2", "no version '2'"),
        ("/v2/models/m/versions/..%2f1", "no version '../1'"),
        ("/v2/models/m/versions/1/nowhere", "no route or model is called 'm/versions/1/nowhere'"),
        ("/v2/models/route/versions/1", "routes have no versions"),
        ("/v2/models/nobody", "no route or model is called 'nobody'; there is 'route', 'm'"),
        ("/v2/models//infer", ""),
    ],
)
def test_an_unknown_path_is_a_404(server: Watched, path: str, piece: str) -> None:
    reply = server.ask("GET", path)
    assert reply.status in ((404, 405) if path.endswith("infer") else (404,)), reply
    assert piece in reply.error
    assert len(reply.error) < 1000
    server.check_unharmed()


@pytest.mark.parametrize("name", ["nobody", "%2e%2e", "n" * 30_000, "%00", "%ff", "m/versions/2", "m/versions/x%2f1"])
def test_an_infer_call_of_nobody_is_a_404_with_a_record(server: Watched, name: str) -> None:
    reply = server.infer(name, fine())
    assert reply.status == 404
    assert reply.error
    assert "servery-record-id" in reply.headers
    server.check_unharmed()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2", "GET"),
        ("/v2/health/live", "GET"),
        ("/v2/health/ready", "GET"),
        ("/v2/models/m", "GET"),
        ("/v2/models/m/ready", "GET"),
        ("/v2/models/m/infer", "POST"),
        ("/v2/models/m/versions/1/infer", "POST"),
        ("/servery/v1/feedback", "POST"),
    ],
)
def test_other_methods_are_a_405_that_names_the_one(server: Watched, path: str, allowed: str) -> None:
    for method in ("HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "GET" if allowed == "POST" else "POST"):
        reply = server.ask(method, path, b"{}" if method == "PUT" else None)
        assert reply.status == 405, (method, reply)
        assert reply.headers["allow"] == allowed
        assert reply.headers["content-type"] == "application/json"
        if method == "HEAD":
            assert reply.body == b""
        else:
            assert f"{method} is not possible here; use {allowed}" in reply.error
    server.check_unharmed()


def test_a_coding_that_is_not_known_is_a_415(server: Watched) -> None:
    for path in ("/v2/models/m/infer", "/v2/models/%6d/infer", "/servery/v1/feedback"):
        for encoding in ("br", "identity, gzip", "zstd", "gzip, gzip"):
            reply = server.ask("POST", path, b"\x1f\x8b", {"content-encoding": encoding})
            assert reply.status == 415, (path, encoding)
            assert "send gzip, deflate, or the body as it is" in reply.error
    assert server.infer("m", fine(), {"content-encoding": "identity"}).status == 200


WHOLE = gzip.compress(json.dumps(fine()).encode())
BROKEN = {
    "not gzip": b"plain text",
    "ends early": WHOLE[:-1],
    "ends at once": b"",
    "a wrong checksum": WHOLE[:-8] + bytes(8),
    "more behind it": WHOLE + b"x",
    "twice": WHOLE + WHOLE,
}


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/models/%6d/infer"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_body_that_is_not_what_its_coding_says_is_a_400(server: Watched, path: str, what: str) -> None:
    reply = server.ask("POST", path, BROKEN[what], {"content-encoding": "gzip"})
    assert reply.status == 400, reply.body
    assert "gzip" in reply.error


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_decompression_bomb_is_a_413_and_takes_no_memory(server: Watched, coding: str) -> None:
    """2 GiB of zeros in 2 MB."""
    stream = zlib.compressobj(9, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    bomb = b"".join([*[stream.compress(bytes(1 << 24)) for _ in range(128)], stream.flush()])
    before = peak_mb(server)
    reply = server.ask("POST", "/v2/models/m/infer", bomb, {"content-encoding": coding})
    assert reply.status == 413, reply.body
    assert "once it is decoded" in reply.error
    assert peak_mb(server) - before < 300


def peak_mb(server: Watched) -> int:
    """The most memory that the worker ever had."""
    assert server.process is not None
    (worker,) = [
        one
        for one in psutil.Process(server.process.pid).children()
        if "servery.wiring worker" in " ".join(one.cmdline())
    ]
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10

"""Damaged requests over both protocols: refused as the caller's fault or answered, never an error of ours, and nobody else notices."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable, Iterator

import pytest

from calling import ask_rows, call, channel_to
from server import tensor, with_binary
from watched import Watched, X, watched

# What refusals of a caller's own request are.
HTTP = {200, 400, 404, 405, 408, 411, 413, 414, 415, 417, 431, 501}
RPC = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
WORDS = [
    b"null", b"-1", b"1e999", b"9" * 40, b"[", b"{", b'"', b"\\u0000", b"\xff", b"\x00", b"", b"true", b"[[[[", b"NaN", b"0.1",
    b"FP64", b"BYTES", b"binary_data_size", b"shape", b'"y"', b",", b"18446744073709551616", b"-9223372036854775809",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("fuzz"), "--grpc-port", "0") as running:
        yield running


def damaged(dice: random.Random, body: bytes) -> bytes:
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        at = dice.randrange(len(body) + 1)
        end = min(len(body), at + dice.choice((0, 1, 1, 2, 8, 40)))
        piece = dice.choice((dice.choice(WORDS), dice.randbytes(dice.randrange(4)), body[: dice.randrange(30)]))
        body = body[:at] + piece + body[end:]
    return body


def over_http(server: Watched, dice: random.Random) -> Callable[[], None]:
    plain = json.dumps(
        {"id": "a", "inputs": [tensor("x", "FP32", [2, 2], [1, 2, 3, 4])], "outputs": [{"name": "y"}]}
    ).encode()
    body, fields = with_binary({"inputs": [tensor("x", "FP32", [2, 2], None)]}, {"x": X.tobytes()})
    forms: list[tuple[bytes, dict[str, str]]] = [
        (plain, {}),
        (body, fields),
        (gzip.compress(plain), {"content-encoding": "gzip"}),
        (X.tobytes(), {"inference-header-content-length": "0"}),
    ]

    def ask() -> None:
        body, fields = dice.choice(forms)
        sent = damaged(dice, body) if dice.random() < 0.9 else dice.randbytes(dice.randrange(200))
        reply = server.infer("m", sent, fields)
        assert reply.status in HTTP, (reply, sent)
        assert reply.status == 200 or reply.error

    return ask


def over_grpc(server: Watched, dice: random.Random) -> Callable[[], None]:
    message = ask_rows("m", X).SerializeToString()
    channel = channel_to(server)
    names = ("ModelInfer", "ModelInfer", "ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelReady")

    def ask() -> None:
        sent = damaged(dice, message)
        ended = call(channel, dice.choice(names), sent)
        if "servery-record-id" in ended.metadata:
            server.ids.append(ended.metadata["servery-record-id"])
        # bytes that are no message are refused by gRPC itself, which calls that INTERNAL
        assert ended.code in RPC or "deserializ" in ended.message, (ended, sent)

    return ask


def anything(server: Watched, seconds: float, seed: int) -> int:
    dice = random.Random(seed)
    ways = (over_http(server, dice), over_grpc(server, dice))
    asked, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        dice.choice(ways)()
        asked += 1
    server.check_unharmed()
    assert "Traceback" not in server.written()
    return asked


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_requests_harm_nobody(server: Watched, seed: int) -> None:
    assert anything(server, 4, seed) > 100


@pytest.mark.proof
@pytest.mark.timeout(120)
def test_damaged_requests_harm_nobody_for_a_minute(server: Watched) -> None:
    assert anything(server, 60, int(time.time())) > 1000

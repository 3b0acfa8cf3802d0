"""How a set of Replicas is called when some of them answer oddly, or die."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servery.host.channel import listen_at
from servery.host.clock import Clock
from servery.targets.oip import OipTarget
from servery.terms.change import Version
from servery.terms.manifest import Health, Model
from servery.terms.reasons import Reason
from servery.terms.request import Call, Called
from servery.terms.tensors import Signature, TensorSpec
from servery.wire import replica as wire

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),), "test")
VERSION = Version("m", "1", "ab" * 32, "m", signature=SIGNATURE)

Act = Callable[["Odd", asyncio.StreamWriter], Awaitable[None]]


def reply(status: int, body: bytes, **headers: object) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body


def answer() -> bytes:
    y = np.ones((1, 1), np.float32)
    chunks, length = wire.encode_outputs("m", ["y"], {"y": y}, {"y": "FP32"})
    return reply(200, b"".join(chunks), inference_header_content_length=length, servery_busy_ns=5)


async def well(_: Odd, writer: asyncio.StreamWriter) -> None:
    writer.write(answer())


async def dies(odd: Odd, writer: asyncio.StreamWriter) -> None:
    writer.write(answer()[:70])
    await writer.drain()
    odd.die()


def says(content: bytes) -> Act:
    async def act(_: Odd, writer: asyncio.StreamWriter) -> None:
        writer.write(content)

    return act


async def never(_: Odd, writer: asyncio.StreamWriter) -> None:
    return


class Odd:
    """A Replica of the test's own: answers health looks with `state`, and calls by its `act`."""

    def __init__(self, path: Path, act: Act, state: bytes = b"") -> None:
        self.calls = 0
        self.size = 0  # of the last call's body
        self.closed = 0
        self._path = path
        self._act = act
        self._state = state or wire.encode_state(wire.State(True, f"run-{path.name}", since_ns=7))
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, sock=listen_at(self._path))

    def die(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        called = False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    writer.write(reply(200, self._state))
                    continue
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(size)
                self.size = size
                called = True
                self.calls += 1
                await self._act(self, writer)
        self.closed += called
        self._writers.discard(writer)
        writer.transport.abort()


@contextlib.asynccontextmanager
async def calling(folder: Path, *acts: Act, state: bytes = b"") -> AsyncGenerator[tuple[OipTarget, list[Odd]]]:
    replicas = [Odd(folder / f"{at}.sock", act, state) for at, act in enumerate(acts)]
    for odd in replicas:
        await odd.start()
    model = Model(runtime="onnx", artifact="m", replicas=len(acts), health=Health(0.05, 1.0, 3))
    target = OipTarget(model, VERSION, [folder / f"{at}.sock" for at in range(len(acts))], Clock())
    await target.start()
    if not state:
        async with asyncio.timeout(20):
            while len(target.uptimes("", 10)) < len(acts):
                await asyncio.sleep(0.005)
    yield target, replicas
    await target.drain()
    for odd in replicas:
        odd.die()
    await asyncio.sleep(0)


async def ask(target: OipTarget) -> Called:
    job = target.submit(Call(["y"], {"x": np.zeros((1, 1), np.float32)}, 1, time.perf_counter_ns() + 10**10))
    assert job is not None
    async with asyncio.timeout(20):
        return await job.future


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def test_a_replica_that_dies_with_a_call_in_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with calling(tmp_path, dies, well) as (target, (one, other)):
            called = [await ask(target) for _ in range(4)]
            assert [each.failure for each in called] == [""] * 4
            assert (one.calls, other.calls) == (1, 4)
            assert target.refusal is None

    play(scene())


def test_a_call_that_two_replicas_died_of_goes_to_no_third(tmp_path: Path) -> None:
    async def scene() -> None:
        async with calling(tmp_path, dies, dies, dies) as (target, replicas):
            called = await ask(target)
            assert called.failure == Reason.MODEL_FAILED.word
            assert "ended in the middle of the call" in called.message
            assert sum(odd.calls for odd in replicas) == 2

    play(scene())


def test_the_last_one_dead_is_a_failure_and_then_a_refusal(tmp_path: Path) -> None:
    async def scene() -> None:
        async with calling(tmp_path, dies) as (target, _):
            assert (await ask(target)).failure == Reason.MODEL_FAILED.word
            assert (await ask(target)).failure == Reason.WARMING.word
            async with asyncio.timeout(20):
                while target.refusal is None:
                    await asyncio.sleep(0.005)
            assert target.unready == "its process ended and starts again"
            (life,) = target.uptimes("", time.time_ns())
            assert life.until_ns < time.time_ns()

    play(scene())


@pytest.mark.parametrize("reason", [Reason.NO_ROOM, Reason.DRAINING, Reason.WARMING, Reason.MODEL_UNAVAILABLE])
def test_one_that_takes_no_call_now(tmp_path: Path, reason: Reason) -> None:
    async def scene() -> None:
        refused = says(reply(503, b'{"error":"not now"}', servery_reason=reason.word))
        async with calling(tmp_path, refused, well) as (target, _):
            assert [(await ask(target)).failure for _ in range(4)] == [""] * 4
        async with calling(tmp_path, refused, refused) as (target, replicas):
            called = await ask(target)
            assert (called.failure, called.message) == (reason.word, "not now")
            assert [odd.calls for odd in replicas] == [1, 1]

    play(scene())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (reply(500, b"a page of somebody's"), Reason.MODEL_FAILED),
        (reply(500, b'{"error":"a bug"}', servery_reason="bug"), Reason.MODEL_FAILED),
        (reply(503, b"", servery_reason="no such reason"), Reason.MODEL_FAILED),
        (reply(200, b"{}", inference_header_content_length=2), Reason.WRONG_ANSWER),
        (reply(200, b"[", inference_header_content_length="many"), Reason.WRONG_ANSWER),
        (reply(200, answer().split(b"\r\n\r\n")[1][:-3], inference_header_content_length=90), Reason.WRONG_ANSWER),
        (b"this is not HTTP at all\r\n\r\n", Reason.MODEL_FAILED),
    ],
)
def test_an_answer_that_is_none(tmp_path: Path, content: bytes, reason: Reason) -> None:
    async def scene() -> None:
        async with calling(tmp_path, says(content)) as (target, _):
            called = await ask(target)
            assert called.failure == reason.word
            assert called.message

    play(scene())


def test_memory_that_cannot_be_shared(tmp_path: Path) -> None:
    sizes: list[int] = []

    async def act(odd: Odd, writer: asyncio.StreamWriter) -> None:
        sizes.append(odd.size)
        writer.write(reply(503, b'{"error":"not from here"}', servery_unshared=1) if len(sizes) == 1 else answer())

    async def scene() -> None:
        async with calling(tmp_path, act) as (target, _):
            large = Call(["y"], {"x": np.zeros((100_000, 1), np.float32)}, 100_000, time.perf_counter_ns() + 10**10)
            for _ in range(2):
                job = target.submit(large)
                assert job is not None
                assert (await job.future).failure == ""
        assert sizes[0] < 1000
        assert min(sizes[1:]) > 400_000

    play(scene())


def test_giving_up_closes_the_connection(tmp_path: Path) -> None:
    async def scene() -> None:
        async with calling(tmp_path, never) as (target, (odd,)):
            job = target.submit(Call(["y"], {"x": np.zeros((1, 1), np.float32)}, 1, time.perf_counter_ns() + 10**10))
            assert job is not None
            async with asyncio.timeout(20):
                while not odd.calls:
                    await asyncio.sleep(0.005)
                target.give_up(job)
                while not odd.closed:
                    await asyncio.sleep(0.005)

    play(scene())


def test_whoever_listens_there_is_no_replica(tmp_path: Path) -> None:
    async def scene() -> None:
        async with calling(tmp_path, well, state=b"hello") as (target, _):
            assert target.refusal is Reason.MODEL_UNAVAILABLE
            assert target.unready == "what listens on its socket is no Replica"

    play(scene())


def test_one_that_dies_again_and_again_is_not_waited_for(tmp_path: Path) -> None:
    async def scene() -> None:
        path = tmp_path / "0.sock"

        async def lose(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        server = await asyncio.start_unix_server(lose, sock=listen_at(path))
        target = OipTarget(Model(runtime="onnx", artifact="m", replicas=1), VERSION, [path], Clock())
        async with asyncio.timeout(20):
            await target.start()
        assert target.refusal is Reason.MODEL_UNAVAILABLE
        assert "ended 3 times in a row before it was ready" in target.unready
        await target.drain()
        server.close()

    play(scene())

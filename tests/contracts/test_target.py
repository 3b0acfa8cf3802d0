"""What the gateway may rely on, however a Version is called."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from servery.gateway.serving import Owned
from servery.host.channel import listen_at
from servery.host.clock import Clock
from servery.host.http import HttpServer
from servery.replica.app import ReplicaApp
from servery.replica.life import Life
from servery.replica.running import Running
from servery.targets.in_process import InProcess
from servery.targets.oip import OipTarget
from servery.terms.change import Version
from servery.terms.manifest import Batch, Model, Price
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Array, Call, Called, Parameters
from servery.terms.tensors import DATATYPES, Signature, TensorSpec
from servery.wire.tensors import DTYPES

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)), TensorSpec("n", "INT64", (-1,))), "test"
)
SECOND_NS = 10**9


class Controlled:
    """A Runtime: y is x and n counts calls; a row of -1 is refused, -2 raises, and -3 waits until `go` is set."""

    def __init__(self, signature: Signature = SIGNATURE) -> None:
        self.signature = signature
        self.go = threading.Event()
        self.running = threading.Event()
        self.calls = 0

    def run(self, fetch: Sequence[str], feeds: dict[str, Array], _: Parameters = ()) -> dict[str, Array]:
        self.calls += 1
        if self.signature is not SIGNATURE:
            return {name: feeds[name.replace("out", "in")] for name in fetch}
        x = feeds["x"]
        if -1 in x:
            raise Refusal(Reason.INVALID_REQUEST, "a row is -1")
        if -2 in x:
            raise ValueError("a row is -2")
        if -3 in x:
            self.running.set()
            assert self.go.wait(20)
        made = {"y": x, "n": np.full(len(x), self.calls, np.int64)}
        return {name: made[name] for name in fetch}

    def warm(self, clock_ns: Callable[[], int]) -> tuple[float, float]:
        return 10.0**6, 0.0


Make = Callable[[Callable[[], Controlled], Model, Version], contextlib.AbstractAsyncContextManager[Owned]]


@contextlib.asynccontextmanager
async def here(load: Callable[[], Controlled], model: Model, version: Version) -> AsyncGenerator[Owned]:
    target = InProcess(model, version, load, Clock())
    yield target
    await target.drain()


def there(folder: Path) -> Make:
    @contextlib.asynccontextmanager
    async def make(load: Callable[[], Controlled], model: Model, version: Version) -> AsyncGenerator[Owned]:
        """A Replica that lives in our own event loop."""
        clock = Clock()
        loaded = InProcess(model, version, load, clock)
        running = Running(loaded, "its-run", 60.0, Life(loaded, 1.0, lambda _: None), clock)
        path = folder / "replica.sock"
        app = ReplicaApp(running, version.signature or Signature((), ()))
        server = HttpServer(app, listen_at(path), 1e9, 1.0, 1e9)
        target = OipTarget(model, version, [path], clock)
        await running.start()
        await server.start()
        loading = asyncio.get_running_loop().create_task(loaded.start())
        yield target
        await target.drain()
        await server.drain()
        await running.drain()
        await loading
        await loaded.drain()

    return make


@pytest.fixture(params=["in process", "replica"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return here if request.param == "in process" else there(tmp_path)


def model(**declared: Any) -> Model:
    return Model(runtime="onnx", artifact="m", price=Price(3.6), batch=Batch(max_rows=1), **declared)


def version(signature: Signature | None = SIGNATURE) -> Version:
    return Version("a model/with a slash", "7", "ab" * 32, "m", signature=signature)


def call(*xs: float, within_ns: int = 20 * SECOND_NS, fetch: Sequence[str] = ("y", "n")) -> Call:
    x = np.array(xs, np.float32).reshape(-1, 1)
    return Call(fetch, {"x": x}, len(xs), time.perf_counter_ns() + within_ns)


async def ask(target: Owned, asked: Call) -> Called:
    job = target.submit(asked)
    assert job is not None
    async with asyncio.timeout(20):
        return await job.future


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


async def until(done: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not done():
            await asyncio.sleep(0.005)


def test_before_it_is_ready_and_after(make: Make) -> None:
    async def scene() -> None:
        async with make(Controlled, model(), version()) as target:
            assert target.refusal is Reason.WARMING
            assert target.unready
            assert target.uptimes("ours", time.time_ns()) == []
            await target.start()
            assert (target.refusal, target.unready) == (None, "")
            await target.drain()
            assert target.refusal is Reason.MODEL_UNAVAILABLE
            assert target.unready
            await target.drain()  # again is fine

    play(scene())


def test_what_cannot_be_loaded_says_why(make: Make) -> None:
    def load() -> Controlled:
        raise RuntimeError("there is no such thing")

    async def scene() -> None:
        async with make(load, model(), version()) as target:
            await target.start()
            assert target.refusal is Reason.MODEL_UNAVAILABLE
            assert target.unready == "there is no such thing"
            assert target.uptimes("ours", time.time_ns()) == []

    play(scene())


def test_answers(make: Make) -> None:
    async def scene() -> None:
        async with make(Controlled, model(), version()) as target:
            await target.start()
            began = time.perf_counter_ns()
            called = await ask(target, call(1, 2, 3))
            assert (called.failure, called.estimated) == ("", False)
            assert 0 < called.busy_ns < time.perf_counter_ns() - began
            assert sorted(called.outputs) == ["n", "y"]
            np.testing.assert_array_equal(called.outputs["y"], np.array([[1], [2], [3]], np.float32))
            assert called.outputs["n"].dtype == np.int64
            assert list((await ask(target, call(1, fetch=("n",)))).outputs) == ["n"]
            assert (await ask(target, call())).outputs["y"].shape == (0, 1)
            everything = await asyncio.gather(*[ask(target, call(at)) for at in range(50)])
            assert [float(one.outputs["y"][0, 0]) for one in everything] == list(range(50))

    play(scene())


def test_every_datatype_comes_through(make: Make) -> None:
    arrays = {kind: np.array([[0, 1], [1, 0]]).astype(DTYPES[kind]) for kind in DATATYPES if kind != "BYTES"}
    texts = np.empty((2, 1), object)
    texts[:, 0] = [b"\xff\x00", b""]
    arrays |= {"BYTES": texts, "FP64": np.array([[float("nan"), float("inf")]]), "INT8": np.zeros((0, 3), np.int8)}
    inputs = tuple(TensorSpec(f"in {kind}", kind, (-1,) * array.ndim) for kind, array in arrays.items())
    outputs = tuple(TensorSpec(spec.name.replace("in", "out"), spec.datatype, spec.shape) for spec in inputs)
    signature = Signature(inputs, outputs, "test")

    async def scene() -> None:
        async with make(lambda: Controlled(signature), model(), version(signature)) as target:
            await target.start()
            feeds = {f"in {kind}": array for kind, array in arrays.items()}
            fetch = [spec.name for spec in outputs]
            called = await ask(target, Call(fetch, feeds, 2, time.perf_counter_ns() + 20 * SECOND_NS))
            assert called.failure == ""
            for kind, array in arrays.items():
                given = called.outputs[f"out {kind}"]
                assert given.dtype == array.dtype
                np.testing.assert_array_equal(given, array)

    play(scene())


def test_large_tensors_come_through_and_leave_nothing_open(make: Make) -> None:
    runtime = Controlled()

    async def scene() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        async with make(lambda: runtime, model(), version()) as target:
            await target.start()
            sizes = (100_000, 1, 70_000, 400_000, 3)
            for _ in range(3):
                asked = [call(*range(at, at + size)) for at, size in enumerate(sizes)]
                for one, called in zip(asked, await asyncio.gather(*[ask(target, one) for one in asked]), strict=True):
                    assert called.failure == ""
                    np.testing.assert_array_equal(called.outputs["y"], one.feeds["x"])
                    assert called.outputs["n"].shape == (one.rows,)
            given_up = target.submit(call(*[-3.0] * 100_000))
            await until(runtime.running.is_set)
            target.give_up(given_up)
            after = asyncio.ensure_future(ask(target, call(*[7.0] * 100_000)))
            await asyncio.sleep(0.05)
            runtime.go.set()
            assert set((await after).outputs["y"].ravel().tolist()) == {7.0}
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    play(scene())


def test_failures_keep_their_reason(make: Make) -> None:
    async def scene() -> None:
        async with make(Controlled, model(), version()) as target:
            await target.start()
            refused = await ask(target, call(-1))
            assert (refused.failure, refused.message) == (Reason.INVALID_REQUEST.word, "a row is -1")
            failed = await ask(target, call(-2))
            assert (failed.failure, failed.message) == (Reason.MODEL_FAILED.word, "a row is -2")
            assert failed.busy_ns > 0
            assert (await ask(target, call(4))).failure == ""

    play(scene())


def test_a_full_queue_and_those_who_wait(make: Make) -> None:
    runtime = Controlled()

    async def scene() -> None:
        async with make(lambda: runtime, model(queue=2), version()) as target:
            await target.start()
            first = target.submit(call(-3))
            assert first is not None
            await until(runtime.running.is_set)
            waiting = [target.submit(call(at)) for at in (1, 2)]
            await asyncio.sleep(0.05)
            job = target.submit(call(3))
            if job is not None:
                assert (await job.future).failure == Reason.NO_ROOM.word
            runtime.go.set()
            for one in (first, *waiting):
                assert one is not None
                assert (await one.future).failure == ""

    play(scene())


def test_giving_up(make: Make) -> None:
    runtime = Controlled()

    async def scene() -> None:
        async with make(lambda: runtime, model(), version()) as target:
            await target.start()
            runs, waits, left = target.submit(call(-3)), target.submit(call(1)), target.submit(call(2))
            await until(runtime.running.is_set)
            await asyncio.sleep(0.05)
            given_up = target.give_up(waits)
            assert (given_up.failure, given_up.busy_ns) == (Reason.DEADLINE_EXCEEDED.word, 0)
            given_up = target.give_up(runs)
            assert given_up.failure == Reason.DEADLINE_EXCEEDED.word
            assert given_up.estimated
            assert 0.04e9 < given_up.busy_ns < 20e9
            await asyncio.sleep(0.05)
            runtime.go.set()
            assert left is not None
            counted = await left.future
            assert counted.outputs["n"].tolist() == [2]  # the one that waited never ran

    play(scene())


def test_a_call_that_cannot_make_its_deadline(make: Make) -> None:
    runtime = Controlled()

    async def scene() -> None:
        async with make(lambda: runtime, model(), version()) as target:
            await target.start()
            first = target.submit(call(-3))
            await until(runtime.running.is_set)
            late = target.submit(call(1, within_ns=SECOND_NS // 20))
            await asyncio.sleep(0.1)
            runtime.go.set()
            assert first is not None
            assert late is not None
            assert (await first.future).failure == ""
            assert (await late.future).failure == Reason.DEADLINE_EXCEEDED.word

    play(scene())


def test_uptime_grows_until_its_end(make: Make) -> None:
    async def scene() -> None:
        async with make(Controlled, model(), version()) as target:
            began = time.time_ns()
            await target.start()
            (first,) = target.uptimes("ours", time.time_ns())
            (later,) = target.uptimes("ours", time.time_ns())
            assert (first.model, first.version) == ("a model/with a slash", "abababababab")
            assert began <= first.since_ns <= first.until_ns <= later.until_ns
            assert first.pico_per_hour == 3_600_000_000_000
            await target.drain()
            ended = time.time_ns()
            (last,) = target.uptimes("ours", ended + SECOND_NS)
            assert msgspec.structs.replace(last, until_ns=0) == msgspec.structs.replace(first, until_ns=0)
            assert later.until_ns <= last.until_ns <= ended

    play(scene())


def test_what_was_loaded_is_freed_by_the_drain_and_not_by_the_collector_later() -> None:
    held: list[weakref.ref[Controlled]] = []

    def load() -> Controlled:
        made = Controlled()
        held.append(weakref.ref(made))
        return made

    async def scene() -> None:
        target = InProcess(model(), version(), load, Clock())
        await target.start()
        assert not (await ask(target, call(1.0))).failure
        gc.disable()
        try:
            await target.drain()
            await until(lambda: held[0]() is None)
        finally:
            gc.enable()

    play(scene())

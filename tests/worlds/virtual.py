"""A world on virtual time: an event loop whose clock jumps to the next timer, and Targets that do as they are told."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from servery.host.clock import Clock
from servery.terms.change import Version
from servery.terms.reasons import Reason
from servery.terms.request import Array, Call, Called
from servery.terms.tensors import Signature, TensorSpec

MS = 1_000_000
EPOCH_NS = 1_700_000_000 * 10**9
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 1)),),
    (TensorSpec("y", "FP32", (-1, 1)), TensorSpec("label", "INT64", (-1,)), TensorSpec("p", "FP32", (-1, 2))),
    "world",
)


class Stuck(Exception):
    """Everybody waits and no timer is set: somebody would wait for ever."""


class _Jumping(selectors.SelectSelector):
    """Where the loop would sleep, time jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck
        if timeout > 0:
            self.now_ns += max(math.ceil(timeout * 1e9), 1)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Never sleeps. `pass_time` is work that holds the loop up. What nobody catches is kept in `uncaught`."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self.uncaught: list[str] = []
        self.set_exception_handler(lambda _, told: self.uncaught.append(str(told)))

    def time(self) -> float:
        return self._jumping.now_ns / 1e9

    def pass_time(self, ns: int) -> None:
        self._jumping.now_ns += ns

    @property
    def clock(self) -> Clock:
        return Clock(lambda: EPOCH_NS + self._jumping.now_ns, lambda: self._jumping.now_ns)


class Fate(msgspec.Struct, frozen=True):
    """How one call will go. `wrong` is a way of answering that breaks the model's word."""

    busy_ns: int
    inline: bool
    failure: str = ""
    wrong: str = ""


class WorldJob:
    def __init__(self, future: asyncio.Future[Called], since_ns: int) -> None:
        self.future = future
        self.since_ns = since_ns
        self.given_up = False


class WorldTarget:
    """Answers row x with y = x + 1000 × its number. `handed` is what it told its caller of the time it was busy."""

    def __init__(
        self, number: int, name: str, pico_per_hour: int, loop: VirtualLoop, cast: Callable[[], Fate], queue: int
    ) -> None:
        self.version = Version(name, "1", f"{number:x}" * 64, "", signature=SIGNATURE)
        self.pico_per_hour = pico_per_hour
        self.refusal: Reason | None = None
        self.sure: Callable[[float], float] = lambda x: 1.0
        self.handed: list[int] = []
        self._number = number
        self._loop = loop
        self._cast = cast
        self._queue = queue
        self._running = 0
        self._next: Fate | None = None

    @property
    def unready(self) -> str:
        return "" if self.refusal is None else "not now"

    def inline(self, rows: int) -> bool:
        self._next = self._cast()
        return self._next.inline and self.refusal is None

    def call(self, fetch: Sequence[str], feeds: dict[str, Array], rows: int) -> Called:
        assert self._next is not None
        self._loop.pass_time(self._next.busy_ns)
        return self._hand(self._called(self._next, fetch, feeds, rows))

    def submit(self, call: Call) -> WorldJob | None:
        if self._running >= self._queue or self.refusal is not None:
            return None
        assert self._next is not None
        self._running += 1
        job = WorldJob(self._loop.create_future(), self._loop.clock.steady_ns())
        called = self._called(self._next, call.fetch, call.feeds, call.rows)
        self._loop.call_later(self._next.busy_ns / 1e9, self._end, job, called)
        return job

    def give_up(self, job: Any) -> Called:
        assert not job.given_up
        assert not job.future.done() or job.future.result().busy_ns >= 0
        job.given_up = True
        busy_ns = self._loop.clock.steady_ns() - job.since_ns
        return self._hand(Called({}, busy_ns, Reason.DEADLINE_EXCEEDED.word, estimated=True))

    def _end(self, job: WorldJob, called: Called) -> None:
        self._running -= 1
        if not job.given_up:
            job.future.set_result(self._hand(called))

    def _hand(self, called: Called) -> Called:
        self.handed.append(called.busy_ns)
        return called

    def _called(self, fate: Fate, fetch: Sequence[str], feeds: dict[str, Array], rows: int) -> Called:
        if fate.failure:
            return Called({}, fate.busy_ns, fate.failure, "as told")
        x = feeds["x"]
        assert x.shape == (rows, 1)
        made = {
            "y": x + np.float32(1000 * self._number),
            "label": np.full(rows, self._number, np.int64),
            "p": np.array([(sure, 0.0) for sure in map(self.sure, x[:, 0].tolist())], np.float32).reshape(rows, 2),
        }
        outputs = {name: made[name] for name in fetch}
        match fate.wrong:
            case "":
                pass
            case "a row too many":
                outputs = {name: np.concatenate([array, array[:1]]) for name, array in outputs.items()}
            case missing:
                outputs.pop(missing, None)
        return Called(outputs, fate.busy_ns)

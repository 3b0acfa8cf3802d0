"""A Batcher on virtual time: a thread that is busy as long as it is told, and a model that tells what it was given."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from servery.batching.loop import Lane
from servery.host.clock import Clock
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Array, Call, Parameters
from worlds.virtual import EPOCH_NS, VirtualLoop

T = TypeVar("T")

POISON, MEND, EXTRA = -1.0, -2.0, -3.0  # rows that make the model fail, refuse the feeds, or give a row too many


class VirtualLane(Lane):
    """Does its work at once, and tells of it when the time it took has passed. `now_ns` runs ahead inside the work."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__("virtual")
        self._loop = loop
        self._ahead_ns = 0
        self.busy = False

    @property
    def clock(self) -> Clock:
        def now_ns() -> int:
            return self._loop.clock.steady_ns() + self._ahead_ns

        return Clock(lambda: EPOCH_NS + now_ns(), now_ns)

    def take(self, ns: int) -> None:
        self._ahead_ns += ns

    def post(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        assert not self.busy, "one batch at a time"
        self.busy = True
        given = work()
        took, self._ahead_ns = self._ahead_ns, 0

        def tell() -> None:
            self.busy = False
            then(given)

        self._loop.call_later(took / 1e9, tell)


class Batched(msgspec.Struct, frozen=True):
    """One run of the model, as it saw it."""

    at_ns: int
    busy_ns: int
    rows: int
    marks: tuple[int, ...]  # of the callers, in order
    fetch: frozenset[str]


class MarkedModel:
    """`x` [rows, width]: each row holds its caller's mark, its number, and what it does to the model.

    Gives `y`, the same; `double`, twice that; `total`, one number for the whole batch. A batch takes a·n + b ns.
    """

    def __init__(self, lane: VirtualLane, fixed_ns: int, row_ns: int, scatter: random.Random | None = None) -> None:
        self.ran: list[Batched] = []
        self._lane = lane
        self._fixed_ns, self._row_ns = fixed_ns, row_ns
        self._scatter = scatter

    def took(self, rows: int) -> int:
        return self._fixed_ns + self._row_ns * rows

    def run(self, fetch: Sequence[str], feeds: dict[str, Array], _: Parameters) -> dict[str, Array]:
        x = feeds["x"]
        busy = self.took(len(x))
        if self._scatter is not None:
            busy = round(busy * self._scatter.uniform(0.3, 3))
        marks = tuple(dict.fromkeys(int(mark) for mark in x[:, 0].tolist()))
        self.ran.append(Batched(self._lane.clock.steady_ns(), busy, len(x), marks, frozenset(fetch)))
        self._lane.take(busy)
        does = set(x[:, 2].tolist())
        if POISON in does:
            raise RuntimeError("a poisoned row")
        if MEND in does:
            raise Refusal(Reason.INVALID_REQUEST, "mend it")
        made: dict[str, Array] = {"y": x.copy(), "double": x * 2, "total": x.sum(keepdims=True)[0]}
        if EXTRA in does:
            made = {name: np.concatenate([array, array[:1]]) for name, array in made.items()}
        return {name: made[name] for name in fetch}


def rows_of(mark: int, count: int, width: int = 3, does: float = 0.0) -> Array:
    """The rows of one caller; what they do, the first of them does."""
    x = np.zeros((count, width), np.float32)
    x[:, 0] = mark
    x[:, 1] = np.arange(count)
    if count:
        x[0, 2] = does
    return x


def call(mark: int, rows: int, deadline_ns: int, fetch: Sequence[str] = ("y",), **more: object) -> Call:
    given = {key: more.pop(key) for key in ("width", "does") if key in more}
    x = rows_of(mark, rows, **given)  # pyright: ignore[reportArgumentType]
    return Call(list(fetch), {"x": x}, rows, deadline_ns, **more)  # pyright: ignore[reportArgumentType]

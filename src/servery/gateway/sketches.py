"""What Versions are asked and say, counted for drift off the path of a Request: which waits for nothing but a place in a list.

A sample is counted: the first Requests of each twentieth of a second, one row of each, as rows of one Request may be all alike. So few
at once, and one line at once, as callers wait meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from servery.gateway.trail import Made, Trail
from servery.host.clock import Clock, Dice
from servery.routing.confidence import confidences
from servery.stats.bins import bin_of, bucket_of
from servery.terms.manifest import Manifest
from servery.terms.record import Binned, Sketched
from servery.terms.request import Array

log = logging.getLogger("servery.gateway")

_TURN_S = 0.05
_IDLE_S = 2.5
_AT_ONCE = 6  # Requests of a turn
_LARGE_BYTES = 256 * 1024  # what is larger isn't kept until then, but counted at once
_LONGEST_S = 600.0  # until a line is written
_PARTS = 8  # lines of a window, at least
_GROUPS = 64  # Versions and tenants between two lines
_VALUES = 5_000  # of a Version and tenant between two lines
_MANY = 32  # rows whose confidences are looked at


class Watched(msgspec.Struct, frozen=True):
    """A Model's features: as they are called, the input, and which column of it (-1: one value, or their mean)."""

    features: tuple[tuple[str, str, int], ...]
    line_s: float


class _Group:
    """A Version and a tenant since the last line."""

    __slots__ = ("counts", "values")

    def __init__(self) -> None:
        self.values = 0
        self.counts: dict[tuple[str, bool], dict[int, int]] = {}  # by feature, and whether that is a number

    def add(self, feature: str, value: Any) -> None:
        ordered = isinstance(value, float)
        place = bin_of(value) if ordered else bucket_of(value if isinstance(value, bytes) else str(value).encode())
        counts = self.counts.setdefault((feature, ordered), {})
        counts[place] = counts.get(place, 0) + 1


class Sketches:
    """A Service, owned by one worker's event loop. `append` puts a line into the spool."""

    name = "drift"
    unready = ""

    def __init__(self, append: Callable[[Sketched], None], clock: Clock, dice: Dice) -> None:
        self.watched: Mapping[str, Watched] = {}  # by Model; empty: nothing is noted
        self._append = append
        self._clock = clock
        self._dice = dice
        self._pending: list[tuple[Trail, Mapping[str, Array] | None]] = []
        self._groups: dict[tuple[str, str, str], _Group] = {}
        self._ended: list[tuple[tuple[str, str, str], _Group, int, int]] = []  # to be written, with their times
        self._since_ns = clock.wall_ns()
        self._line_s = _LONGEST_S
        self._task: asyncio.Task[None] | None = None

    def follow(self, manifest: Manifest) -> None:
        """Count what this Manifest wants counted, from now on."""
        self.watched = {
            name: Watched(
                tuple([_feature(one) for one in model.drift.features]), model.drift.window_hours * 3600 / _PARTS
            )
            for name, model in manifest.models.items()
            if model.drift is not None
        }
        self._line_s = min([_LONGEST_S, *[one.line_s for one in self.watched.values()]])

    def note(self, trail: Trail, feeds: Mapping[str, Array] | None) -> None:
        """Count this Request soon, if there is a place for it; `feeds` are its inputs, where they are tensors."""
        pending = self._pending
        if len(pending) >= _AT_ONCE:
            return
        if feeds is not None:
            for array in feeds.values():
                if array.nbytes > _LARGE_BYTES:
                    self._count(trail, feeds)
                    return
        pending.append((trail, feeds))

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="drift")

    async def drain(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            self.turn()
            self.write()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TURN_S if self.watched or self._ended else _IDLE_S)
            self.turn()
            if self._clock.wall_ns() - self._since_ns >= self._line_s * 1e9:
                self._end()
            if self._ended:
                self._write(*self._ended.pop())

    def turn(self) -> None:
        """Count what has been noted."""
        pending, self._pending = self._pending, []
        for trail, feeds in pending:
            try:
                self._count(trail, feeds)
            except Exception:
                log.exception("a request could not be counted for drift, by an error of ours")

    def write(self) -> None:
        """A line for each Version and tenant, now."""
        self._end()
        while self._ended:
            self._write(*self._ended.pop())

    def _end(self) -> None:
        """Begin anew; what was counted so far is written in the turns that follow."""
        now_ns = self._clock.wall_ns()
        self._ended += [(key, group, self._since_ns, now_ns) for key, group in self._groups.items()]
        self._groups, self._since_ns = {}, now_ns

    def _write(self, key: tuple[str, str, str], group: _Group, since_ns: int, until_ns: int) -> None:
        features = tuple([_binned(name, ordered, counts) for (name, ordered), counts in group.counts.items()])
        self._append(Sketched(self._dice.bits(16), since_ns, until_ns, *key, features))

    def _count(self, trail: Trail, feeds: Mapping[str, Array] | None) -> None:
        for made in trail.made:
            watched = self.watched.get(made.tier.model)
            if watched is None or made.called.failure or made.left:
                continue
            key = (made.tier.model, made.tier.version, trail.caller.tenant)
            if key not in self._groups and len(self._groups) >= _GROUPS:
                continue
            group = self._groups.setdefault(key, _Group())
            if group.values >= _VALUES:
                continue
            group.values += 1
            _ask(group, made, feeds, watched)
            _said(group, made)


def _feature(declared: str) -> tuple[str, str, int]:
    """`pixels.3` is a column of `pixels`."""
    name, dot, column = declared.rpartition(".")
    return (declared, name, int(column)) if dot and column.isdigit() else (declared, declared, -1)


def _ask(group: _Group, made: Made, feeds: Mapping[str, Array] | None, watched: Watched) -> None:
    """What one row of it was asked; of text the tokens of the prompt."""
    if feeds is None:
        if made.called.tokens is not None:
            group.add("prompt tokens", float(made.called.tokens.input))
        return
    row = 0 if made.sent is None else made.sent[0]
    for feature, name, column in watched.features:
        array = feeds.get(name)
        if array is None or not len(array):
            continue
        values = array[min(row, len(array) - 1)].ravel() if array.ndim > 1 else array[min(row, len(array) - 1) :][:1]
        if column >= len(values) or not len(values):
            continue
        value = values[max(column, 0)]
        if array.dtype.kind not in "fiub":
            group.add(feature, value if isinstance(value, bytes) else str(value))
        else:
            group.add(feature, float(values.mean()) if column < 0 and len(values) > 1 else float(value))


def _said(group: _Group, made: Made) -> None:
    """What it said of that row: what it predicted, and how sure it was; of text the tokens of the answer."""
    called, tier = made.called, made.tier
    if called.tokens is not None:
        group.add("answer tokens", float(called.tokens.output))
    if tier.prediction and (output := called.outputs.get(tier.prediction)) is not None and output.size:
        value = output.ravel()[0]
        kind = output.dtype.kind
        group.add("prediction", float(value) if kind == "f" else value if isinstance(value, bytes) else str(value))
    declared = getattr(tier, "confidence", None)
    if declared is not None and declared.output in called.outputs and made.rows <= _MANY:
        sure = confidences(called.outputs[declared.output], declared, made.rows)
        if sure:
            group.add("confidence", float(sure[0]))


def _binned(name: str, ordered: bool, counts: Mapping[int, int]) -> Binned:
    bins = sorted(counts)
    return Binned(name, ordered, tuple(bins), tuple([counts[one] for one in bins]))

"""What has run of a Version since the start, in the terms of Triton's statistics extension; all of it adds up."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Spent(msgspec.Struct, frozen=True):
    """So many of something, and the ns that they took together."""

    count: int = 0
    ns: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.count + other.count, self.ns + other.ns)


class VersionStatistics(msgspec.Struct, frozen=True):
    """One Version's: `inferences` counts rows, `executions` runs of the runtime, `batches` runs by their rows."""

    model: str
    number: str
    source: str = ""  # the run of the process that counted it; "": the one that says it
    last_ns: int = 0  # since 1970, when the last one ended; 0: never
    inferences: int = 0
    executions: int = 0
    success: Spent = Spent()  # calls, from when they were queued to their end
    fail: Spent = Spent()
    queue: Spent = Spent()
    compute: Spent = Spent()
    batches: dict[int, Spent] = {}


class State(msgspec.Struct, frozen=True):
    """One Version in the repository's index. `state` is READY, LOADING or UNAVAILABLE."""

    name: str
    version: str
    state: str
    reason: str


def latest(parts: Iterable[VersionStatistics]) -> tuple[VersionStatistics, ...]:
    """Of each process the last that it said of each Version: counts only grow."""
    last: dict[tuple[str, str, str], VersionStatistics] = {}
    for part in parts:
        key = (part.model, part.number, part.source)
        known = last.get(key)
        if known is None or _counted(part) >= _counted(known):
            last[key] = part
    return tuple(last.values())


def _counted(part: VersionStatistics) -> int:
    return part.executions + part.fail.count


def together(parts: Iterable[VersionStatistics]) -> tuple[VersionStatistics, ...]:
    """One line for each Version, of all that several processes counted; each part is counted once."""
    total: dict[tuple[str, str], VersionStatistics] = {}
    for part in parts:
        key = (part.model, part.number)
        total[key] = _sum(total[key], part) if key in total else part
    return tuple(total[key] for key in sorted(total))


def _sum(one: VersionStatistics, other: VersionStatistics) -> VersionStatistics:
    sizes = sorted({*one.batches, *other.batches})
    return VersionStatistics(
        one.model,
        one.number,
        "",
        max(one.last_ns, other.last_ns),
        one.inferences + other.inferences,
        one.executions + other.executions,
        one.success + other.success,
        one.fail + other.fail,
        one.queue + other.queue,
        one.compute + other.compute,
        {size: one.batches.get(size, Spent()) + other.batches.get(size, Spent()) for size in sizes},
    )

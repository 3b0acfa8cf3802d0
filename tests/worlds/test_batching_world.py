"""Thousands of random crowds at one Batcher, on virtual time: whatever they do, each gets its own rows, once, or its own end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from typing import Any

import msgspec
import numpy as np
import pytest

from servery.batching.loop import Batcher, Job
from servery.batching.queue import Limits, key_of
from servery.terms.reasons import Reason
from servery.terms.request import Call, Called
from worlds.batching import EXTRA, MEND, POISON, MarkedModel, VirtualLane, call
from worlds.virtual import MS, VirtualLoop

WORLDS_A_PART = 250
BY_ROW = frozenset({"y", "double"})
DOES = {POISON: Reason.MODEL_FAILED.word, MEND: Reason.INVALID_REQUEST.word}


class Asked(msgspec.Struct):
    """One caller: its call, and what came of it."""

    mark: int
    call: Call
    does: float
    leaves_ns: int  # after so long; 0: stays until its deadline
    ended: list[Called] = []
    job: Job | None = None
    gave_up: bool = False


class World:
    """One model, a crowd of callers, and all that is checked while they come and go."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        draw = self.draw
        self.loop = VirtualLoop()
        self.lane = VirtualLane(self.loop)
        scatter = random.Random(seed) if draw.random() < 0.3 else None
        self.model = MarkedModel(self.lane, draw.randrange(0, 5 * MS), draw.randrange(1, MS), scatter)
        self.limits = Limits(draw.choice((3, 10, 100)), draw.choice((1, 2, 8, 32)), 0, BY_ROW)
        self.batcher = Batcher(self.model.run, self.limits, self.lane.clock, self.lane)
        self.bad = draw.choice((0.0, 0.0, 0.05, 0.3))
        self.asked: list[Asked] = []
        self.plain = draw.random() < 0.7  # all callers want the same
        self.alone = {"a": draw.random() < 0.3, "b": False, "c": draw.random() < 0.3}

    def new(self, mark: int) -> Asked:
        draw, now = self.draw, self.loop.clock.steady_ns()
        tenant = draw.choice("aaabc")
        does = draw.choice((POISON, MEND, EXTRA)) if draw.random() < self.bad else 0.0
        rows = draw.choice((0, 1, 1, 1, 2, 5, 40)) if not does else draw.choice((1, 3))
        wants: dict[str, Any] = {} if self.plain else {
            "width": draw.choice((3, 3, 3, 4)),
            "fetch": draw.choice((("y",), ("y",), ("y", "double"), ("y", "total"))),
            "parameters": draw.choice(((), (), (("k", 1),), (("k", True),))),
        }  # fmt: skip
        asked = Asked(
            mark,
            call(
                mark, rows, now + draw.choice((10**12, 10**12, 30 * MS, 8 * MS)), does=does, tenant=tenant,
                priority=draw.choice((0, 0, 0, 5)), alone=self.alone[tenant], **wants,
            ),
            does,
            draw.randrange(1, 40 * MS) if draw.random() < 0.15 else 0,
            [],
        )  # fmt: skip
        self.asked.append(asked)
        return asked

    async def live(self) -> None:
        async with asyncio.TaskGroup() as callers:
            for mark in range(1, self.draw.randrange(2, 45)):
                if self.draw.random() < 0.4:
                    await asyncio.sleep(self.draw.expovariate(1 / 0.004))
                callers.create_task(self.ask(self.new(mark)))
        await self.batcher.drain()
        assert self.batcher.submit(call(1, 1, 10**15)) is None
        while self.lane.busy:  # a batch whose callers have all left runs to its end
            await asyncio.sleep(0.001)

    async def ask(self, asked: Asked) -> None:
        """As the gateway does: wait for the answer, the deadline, or the caller's leaving."""
        waiting = self.batcher.waiting
        asked.job = self.batcher.submit(asked.call)
        assert self.batcher.waiting <= self.limits.queue + self.limits.max_rows
        assert self.lane.busy or not self.batcher.waiting, "nothing waits while the runtime is idle"
        if asked.job is None:
            assert waiting >= self.limits.queue
            return
        assert waiting < self.limits.queue
        limit_ns = asked.call.deadline_ns - self.loop.clock.steady_ns()
        limit_ns = min(limit_ns, asked.leaves_ns or limit_ns)
        await asyncio.wait((asked.job.future,), timeout=limit_ns / 1e9)
        if asked.job.future.done():
            asked.ended.append(asked.job.future.result())
        else:
            asked.gave_up = True
            waited = self.batcher.waiting
            was_waiting = asked.job.flow is not None
            asked.ended.append(self.batcher.give_up(asked.job))
            assert self.batcher.waiting == waited - was_waiting, "its place is free"
        assert self.lane.busy or not self.batcher.waiting

    def check(self) -> None:
        assert self.loop.uncaught == []
        assert self.batcher.idle
        for asked in self.asked:
            assert len(asked.ended) == (asked.job is not None), "each ends exactly once"
            if asked.ended:
                self.check_end(asked, asked.ended[0])
        self.check_batches()
        self.check_order()
        busy = sum(one.busy_ns for one in self.model.ran)
        booked = sum(called.busy_ns for asked in self.asked for called in asked.ended)
        assert booked <= busy
        if not any(asked.gave_up for asked in self.asked):
            assert booked == busy
        assert self.batcher.counts.busy_ns <= busy

    def check_end(self, asked: Asked, called: Called) -> None:
        if asked.gave_up:
            assert called.failure == Reason.DEADLINE_EXCEEDED.word
        elif asked.does in DOES and called.failure != Reason.DEADLINE_EXCEEDED.word:
            assert called.failure == DOES[asked.does]
        elif asked.does == EXTRA and not called.failure:
            assert len(called.outputs["y"]) == asked.call.rows + 1  # by itself: who asked looks at that
        elif called.failure:
            assert called.failure == Reason.DEADLINE_EXCEEDED.word, "a sound row never fails because of another"
        else:
            x = asked.call.feeds["x"]
            assert set(called.outputs) == set(asked.call.fetch)
            np.testing.assert_array_equal(called.outputs["y"], x)
            if "double" in asked.call.fetch:
                np.testing.assert_array_equal(called.outputs["double"], x * 2)
            if "total" in asked.call.fetch:
                np.testing.assert_array_equal(called.outputs["total"], x.sum(keepdims=True)[0])

    def check_batches(self) -> None:
        """Only what may run together did; a batch that failed ran once more by itself."""
        by_mark = {asked.mark: asked for asked in self.asked}
        for one in self.model.ran:
            calls = [by_mark[mark].call for mark in one.marks]
            if len(calls) > 1:
                assert one.rows == sum(call.rows for call in calls) <= self.limits.max_rows
                assert len({key_of(call, self.limits) for call in calls}) == 1
                assert None not in {key_of(call, self.limits) for call in calls}
                assert len({call.tenant for call in calls}) == 1 or not any(call.alone for call in calls)
                assert len({type(value) for call in calls for _, value in call.parameters}) <= 1
        times = Counter(mark for one in self.model.ran for mark in one.marks)
        for mark, count in times.items():
            assert count <= 2
            if count == 2:
                assert any(mark in one.marks and len(one.marks) > 1 for one in self.model.ran)

    def check_order(self) -> None:
        """First come, first served among equals: one tenant, one priority, one key."""
        by_mark = {asked.mark: asked.call for asked in self.asked}
        seen: set[int] = set()
        order: dict[object, list[int]] = defaultdict(list)
        for one in self.model.ran:
            for mark in one.marks:
                if mark not in seen and by_mark[mark].rows:
                    seen.add(mark)
                    call = by_mark[mark]
                    order[call.tenant, call.priority, key_of(call, self.limits)].append(mark)
        for marks in order.values():
            assert marks == sorted(marks)


@pytest.mark.parametrize("part", range(8))
def test_each_caller_gets_its_own_rows_once(part: int) -> None:
    together = 0
    for seed in range(part * WORLDS_A_PART, (part + 1) * WORLDS_A_PART):
        world = World(seed)
        try:
            with asyncio.Runner(loop_factory=lambda loop=world.loop: loop) as runner:
                runner.run(world.live())
            world.check()
        except BaseException:
            print(f"seed {seed}")
            raise
        together += sum(len(one.marks) > 1 for one in world.model.ran)
    assert together > WORLDS_A_PART, "batches formed"

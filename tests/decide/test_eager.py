"""Running a coroutine at once: it must see what it would see as a task, whenever it waits."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from servery.host.eager import eagerly

Loop = Callable[[], asyncio.AbstractEventLoop]
Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    """Runs a coroutine function to its end, on each kind of loop, in debug mode too."""
    make: Loop = request.param

    def runs(main: Main) -> None:
        for debug in (False, True):
            with asyncio.Runner(loop_factory=make, debug=debug) as runner:
                runner.run(main())
        gc.collect()  # a coroutine or a task that was forgotten would be told of here, as a warning

    return runs


Run = Callable[[Main], None]


def test_one_that_never_waits_needs_no_task(run: Run) -> None:
    async def quick() -> int:
        return 7

    async def main() -> None:
        before = asyncio.all_tasks()
        assert eagerly(quick()) == (7, None)
        assert asyncio.all_tasks() == before

    run(main)


def test_one_that_raises_at_once_raises_to_its_starter(run: Run) -> None:
    async def fails() -> int:
        raise ValueError("at once")

    async def main() -> None:
        with pytest.raises(ValueError, match="at once"):
            eagerly(fails())

    run(main)


def test_one_that_waits_goes_on_in_a_task(run: Run) -> None:
    async def main() -> None:
        steps: list[str] = []
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]

        async def waits() -> int:
            steps.append("began")
            total = 0
            for future in futures:
                total += await future
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return total

        result, task = eagerly(waits())
        assert steps == ["began"]
        assert result is None
        assert task is not None
        for at, future in enumerate(futures):
            await asyncio.sleep(0)
            future.set_result(10**at)
        assert await task == 111

    run(main)


def test_what_it_waits_for_may_be_done_before_the_task_runs(run: Run) -> None:
    async def main() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def waits() -> int:
            return await future + 1

        _, task = eagerly(waits())
        future.set_result(1)
        assert task is not None
        assert await task == 2

    run(main)


def test_tasks_shields_timeouts_and_waits_work_inside(run: Run) -> None:
    async def child(pause_s: float) -> float:
        await asyncio.sleep(pause_s)
        return pause_s

    async def waits() -> list[float]:
        first = asyncio.ensure_future(child(0.001))
        never = asyncio.get_running_loop().create_future()
        await asyncio.wait((first, never), timeout=5, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((never,), timeout=0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await never
        both = await asyncio.gather(child(0.001), asyncio.shield(asyncio.ensure_future(child(0.002))))
        return [first.result(), *both]

    async def main() -> None:
        _, task = eagerly(waits())
        assert task is not None
        assert await task == [0.001, 0.001, 0.002]

    run(main)


def test_it_may_raise_and_catch_after_it_waited(run: Run) -> None:
    async def main() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def waits() -> None:
            try:
                await future
            except KeyError:
                await asyncio.sleep(0)
                raise ValueError("after") from None

        _, task = eagerly(waits())
        assert task is not None
        await asyncio.sleep(0)
        future.set_exception(KeyError("told"))
        with pytest.raises(ValueError, match="after"):
            await task

    run(main)


@pytest.mark.parametrize("turns", [0, 1, 2], ids=["before its first step", "while it waits", "later"])
def test_a_cancelled_one_is_told_and_cleans_up(run: Run, turns: int) -> None:
    async def main() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seen: list[str] = []

        async def waits() -> None:
            try:
                await future
            except asyncio.CancelledError:
                seen.append("cancelled")
                await asyncio.sleep(0)  # cleaning up may wait as well
                seen.append("waited")
                raise
            finally:
                seen.append("finally")

        _, task = eagerly(waits())
        assert task is not None
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled", "waited", "finally"]
        assert task.cancelled()
        assert future.cancelled()

    run(main)


@pytest.mark.parametrize("turns", [0, 1])
def test_one_may_outlive_its_cancellation(run: Run, turns: int) -> None:
    async def main() -> None:
        async def stubborn() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            return "done"

        _, task = eagerly(stubborn())
        assert task is not None
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        assert await task == "done"

    run(main)


def test_many_at_once_end_each_for_itself(run: Run) -> None:
    async def works(number: int) -> int:
        for _ in range(number % 4):
            await asyncio.sleep(0)
        if number % 5 == 0:
            raise ValueError(number)
        return number

    async def main() -> None:
        ends: dict[int, object] = {}
        tasks: dict[int, asyncio.Task[int]] = {}
        for number in range(100):
            try:
                result, task = eagerly(works(number))
            except ValueError as error:
                ends[number] = error.args[0]
                continue
            if task is None:
                ends[number] = result
            else:
                tasks[number] = task
        for number, end in zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True):
            ends[number] = end.args[0] if isinstance(end, ValueError) else end
        assert ends == {number: number for number in range(100)}

    run(main)

"""Run a coroutine at once, as far as it goes without waiting; most requests need no task of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class _Rest(Coroutine[Any, Any, T]):
    """What is left of a coroutine that waits: first says again what it waits for, then goes on with it.

    It is a coroutine itself, so that a task cancelled before its first step throws into the one that waits. An async
    function around it would swallow that: it hasn't begun yet.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], waits_for: asyncio.Future[Any] | None) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self._begun = False

    def send(self, value: Any, /) -> Any:
        if self._begun:
            return self._coroutine.send(value)
        self._begun = True
        return self._waits_for

    def throw(self, *error: Any) -> Any:
        if not self._begun and self._waits_for is not None:
            self._waits_for.cancel()  # as a task does with what it waits for
        self._begun = True
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise TypeError("only a task runs the rest of a coroutine")


def eagerly(coroutine: Coroutine[Any, Any, T]) -> tuple[T, None] | tuple[None, asyncio.Task[T]]:
    """The coroutine's result when it never waited, else the task that runs the rest of it.

    Until it first waits, the coroutine runs outside of any task: it must not use asyncio.timeout or current_task
    there. (Python 3.12 has this as asyncio.eager_task_factory.)
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration as end:
        return end.value, None
    return None, asyncio.get_running_loop().create_task(_Rest(coroutine, waits_for))

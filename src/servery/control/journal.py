"""The journal: each change is written down before it is done, and closed when it has ended, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from servery.control.apply import into, sweep
from servery.control.planning import Standpoint
from servery.control.remembered import draft_of
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.store.state import State, WrongState
from servery.terms.change import Snapshot
from servery.terms.history import Ended, Intent, Journaled, Revision, Underway
from servery.terms.reasons import Reason, Refusal

log = logging.getLogger("servery.controller")

Answer = TypeVar("Answer")

# What is done for callers who wait is done even where it can't be written down.
_UNASKED = ("wake", "place", "rollout")
# What may make a Revision, and leave copies that none needs any more.
_REVISING = ("apply", "load", "rollout")


class Journal:
    """The controller's own. Everything is done off the event loop, by one change at a time.

    Where the state can't be used, what operators ask for is refused; it is tried again each time.
    """

    def __init__(self, folder: DataFolder, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._state: State | None = None
        self._open: Underway | None = None
        self._unwritten: Callable[[State], Journaled] | None = None  # the end of a change, while it couldn't be written

    async def under_way(self) -> Underway | None:
        """The change that an earlier life of the controller didn't bring to its end. None also where nobody knows."""
        try:
            self._open = await asyncio.to_thread(lambda: self._opened().under_way())
        except WrongState as error:
            log.error("%s; what was served goes on, and nothing is changed by operators until it can be used", error)
        return self._open

    async def manifest(self) -> Path | None:
        """Where the manifest lies that was applied last; None where nobody knows."""
        try:
            last = await self.ask(lambda state: state.revisions(1))
        except Refusal:
            return None
        return Path(last[0].file) if last and last[0].file else None

    async def begin(self, intent: Intent, old: Snapshot, new: Snapshot, room: int) -> None:
        """Write down what is about to be done. Refusal."""
        under_way = Underway(intent, self._clock.wall_ns(), old, new, room)
        try:
            await asyncio.to_thread(self._begin, under_way)
        except WrongState as error:
            if intent.act not in _UNASKED:
                raise Refusal(Reason.NO_STATE, f"{error}; nothing was changed") from None
            log.error("%s is not written down: %s", intent.act, error)
            return
        self._open = under_way

    async def step(self, step: str, message: str = "") -> None:
        """How far the change has come. That is only told: where it is, the published Snapshot's epoch says."""
        if (under_way := self._open) is None:
            return
        try:
            await asyncio.to_thread(lambda: self._opened().step(under_way.intent.id, step, message))
        except WrongState as error:
            log.error("the step %s is not written down: %s", step, error)

    async def end(self, ended: Ended, message: str, snapshot: Snapshot) -> Journaled | None:
        """Close the change, of which `snapshot` is served now. None where it couldn't be written down (yet)."""
        if (under_way := self._open) is None:
            return None
        draft = draft_of(under_way, ended, message, snapshot, self._clock.wall_ns())
        keep = snapshot.manifest.server.keep_revisions

        def write(state: State) -> Journaled:
            return state.end(under_way.intent.id, ended, message, snapshot, draft, keep)

        self._open = None
        try:
            done = await asyncio.to_thread(lambda: write(self._opened()))
            if ended is Ended.IN_EFFECT and under_way.intent.act in _REVISING:
                await self._sweep(snapshot)
            return done
        except WrongState as error:
            self._unwritten = write
            log.error("the end of a change (%s by %s) is not written down: %s", under_way.intent.act, draft.who, error)
            return None

    async def standpoint(self, snapshot: Snapshot, took_ns: dict[str, float]) -> Standpoint:
        """What is known of what is served. Refusal."""

        def known(state: State) -> Standpoint:
            last = state.revisions(1)
            return Standpoint(snapshot, last[0].number if last else 0, state.held(), took_ns, into(self._folder))

        return await self.ask(known)

    async def revision(self, number: int) -> tuple[Revision, str, Snapshot]:
        """A Revision that can be returned to. Refusal."""
        found = await self.ask(lambda state: state.revision(number))
        if found is None:
            raise Refusal(
                Reason.NOT_FOUND, f"there is no revision {number}, or not any more: `servery history` lists them"
            )
        return found

    async def _sweep(self, snapshot: Snapshot) -> None:
        """Remove what neither `snapshot`, which is served, nor a Revision that can be returned to has any use for."""

        def clean(state: State) -> int:
            return sweep(self._folder, [snapshot, *state.snapshots()], self._clock.wall_ns() / 1e9)

        try:
            if removed := await self.ask(clean):
                log.info("%d copies that no revision needs any more were removed", removed)
        except (OSError, Refusal) as error:
            log.warning("copies that no revision needs could not be removed: %s", error)

    async def ask(self, question: Callable[[State], Answer]) -> Answer:
        """What the state says. Refusal."""
        try:
            return await asyncio.to_thread(lambda: question(self._opened()))
        except WrongState as error:
            raise Refusal(Reason.NO_STATE, str(error)) from None

    def _opened(self) -> State:
        if self._state is None or not self._state.path.exists():
            self._state = State(self._folder.state, self._folder.heads, create=True)
        return self._state

    def _begin(self, under_way: Underway) -> None:
        state = self._opened()
        if self._unwritten is not None:
            self._unwritten(state)
            self._unwritten = None
        state.begin(under_way)

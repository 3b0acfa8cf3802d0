"""Mirror: ask a Version that nobody is given what others were asked, once they have their answer. Callers never wait for it.

Each call leaves a late line, joined to the Record by its id: the Attempt, and how many of its rows say what the caller was told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from servery.gateway.execute import checked, only
from servery.gateway.mirror_text import mirrored
from servery.gateway.record import attempt_of
from servery.gateway.rooms import Room
from servery.gateway.table import Entry, Job, TierEntry, Use
from servery.gateway.trail import Asked, AskedText, Made, Trail
from servery.gateway.trials import Shadow
from servery.host.clock import Clock, Dice
from servery.terms.reasons import Reason
from servery.terms.record import Late, Role, new_record_id
from servery.terms.request import Array, Call, Called
from servery.terms.rollouts import Alike
from servery.wire.near import rows_alike

log = logging.getLogger("servery.gateway")

# Of one Request a Model has at most one call with one of these.
_FIRST = (Role.SERVE, Role.FALLBACK)


class Keeps(Protocol):
    """Where late lines go."""

    def append(self, line: Late) -> None: ...


class Mirrors:
    """A Service: the calls that are under way. There are never more than their Rooms have place for."""

    name = "mirrored calls"
    unready = ""

    def __init__(self, lines: Keeps, clock: Clock, dice: Dice) -> None:
        self._lines = lines
        self._clock = clock
        self._dice = dice
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """There is nothing to begin."""

    async def drain(self) -> None:
        """What is under way leaves its line: its Target has let it go by now."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, trail: Trail, asked: Asked | AskedText | None, rooms: Sequence[Room], use: Use) -> None:
        """Mirror what this Request, which has ended, asked of a Model that is shadowed; or give back the place that it had. The Table is
        in `use` meanwhile, so that nobody whom it names is closed.
        """
        found: dict[Room, tuple[Made, Shadow]] = {}
        for made in trail.made if asked is not None else ():
            shadow = made.tier.shadow
            if shadow is None or trail.caller.tenant in shadow.closed:
                continue
            if made.role in _FIRST and not made.left:  # what the caller didn't wait for is compared in no arm
                found.setdefault(shadow.room, (made, shadow))
        for room in rooms:
            if asked is None or room not in found:
                room.leave()
                continue
            use.inside += 1
            task = asyncio.get_running_loop().create_task(self._mirror(trail, asked, *found[room], use))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _mirror(self, trail: Trail, asked: Asked | AskedText, made: Made, shadow: Shadow, use: Use) -> None:
        cost = 0
        try:
            late = await self._late(trail, asked, made, shadow)
            cost = late.attempt.pico_usd
            self._lines.append(late)
        except Exception:
            log.exception("record %s: a mirrored call failed by an error of ours", trail.id.hex())
        finally:
            shadow.room.leave(cost)
            use.leave()

    async def _late(self, trail: Trail, asked: Asked | AskedText, made: Made, shadow: Shadow) -> Late:
        """The line of a call, once it has ended."""
        if isinstance(asked, AskedText):
            answered, rows, alike = await mirrored(asked, made.told, shadow.tier, self._clock)
        else:
            answered, rows, alike = await self._rows(asked, made, shadow)
        now_ns, caller = self._clock.wall_ns(), trail.caller
        line_id = new_record_id(caller.seal, now_ns, self._dice.bits(16))
        return Late(line_id, now_ns, caller.tenant, trail.route, trail.id, attempt_of(answered, 0), rows, alike)

    async def _rows(self, asked: Asked, made: Made, shadow: Shadow) -> tuple[Made, int, int]:
        """Of tensors: the Attempt, how many rows of both answers could be compared, and how many of these say the same."""
        request, entry, tier = asked.request, asked.entry, shadow.tier
        told = made.called.outputs
        fetch = [name for name in told or tier.fetch_all if tier.target.version.signature is None or _gives(tier, name)]
        feeds = request.feeds if made.sent is None else only(request.feeds, entry, made.sent)
        began_ns = self._clock.steady_ns()
        deadline_ns = began_ns + request.deadline_ns - request.started_ns
        caller = request.caller
        call = Call(
            fetch, feeds, made.rows, deadline_ns, caller.tenant, caller.priority, caller.alone,
            request.inference.parameters,
        )  # fmt: skip
        called = checked(entry, fetch, made.rows, await self._called(tier, call))
        took_ns = self._clock.steady_ns() - began_ns
        rows = 0 if called.failure or made.called.failure else made.rows
        alike = _alike(entry, told, called.outputs, rows, shadow.alike) if rows else 0
        return Made(Role.SHADOW, tier, made.rows, called, made.sent, took_ns=took_ns), rows, alike

    async def _called(self, tier: TierEntry, call: Call) -> Called:
        job: Job | None = tier.target.submit(call)
        if job is None:
            refusal = tier.target.refusal or Reason.NO_ROOM
            return Called({}, 0, refusal.word, tier.target.unready)
        wait_s = max(call.deadline_ns - self._clock.steady_ns(), 0) / 1e9
        await asyncio.wait((job.future,), timeout=wait_s)
        return job.future.result() if job.future.done() else tier.target.give_up(job)


def _gives(tier: TierEntry, output: str) -> bool:
    signature = tier.target.version.signature
    return signature is not None and signature.output(output) is not None


def _alike(entry: Entry, told: dict[str, Array], answered: dict[str, Array], rows: int, alike: Alike) -> int:
    """How many rows say the same. An output that one of the two doesn't have is compared only where it is named."""
    names = alike.outputs or tuple(name for name in told if name in answered)
    same = np.ones(rows, np.bool_)
    for name in names:
        if name in told and name in answered:
            same &= rows_alike(told[name], answered[name], rows, name in entry.by_row, alike.within)
    return int(same.sum())

"""The Rollouts that are under way: each is observed, judged and moved on every second, and what is served follows.

What a Rollout has come to is written down before it is served, so that a controller that starts again goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from servery.control.arrange import adopted, agreeing
from servery.control.evidence import Evidence, Totals, calls_of
from servery.control.promote import by_hand, moved, shifted
from servery.host.clock import Clock, Dice
from servery.terms.change import Candidate, Change, Snapshot
from servery.terms.history import Intent
from servery.terms.reasons import Reason, Refusal
from servery.terms.rollouts import Looked, Phase, Rollout, RolloutPolicy

log = logging.getLogger("servery.controller")

_LOOK_S = 1.0
_PATIENT_S = 0.5  # so long it is waited for that what was decided is served: another change may be under way
_LOOKS = 500  # a Rollout that has run for long is looked at so often in the time that it has run
_ALIVE_S = 5.0
_JUMP_NS = 2 * 10**9  # what a clock that is set step by step never does between two looks
NS = 10**9
VERBS = ("pause", "resume", "promote", "abort")


class Serves(Protocol):
    """The controller, as far as Rollouts need it. `settled` is what is in effect in all workers."""

    @property
    def settled(self) -> Snapshot: ...
    async def amend(self, amended: Callable[[Snapshot], Snapshot], intent: Callable[[], Intent]) -> Change: ...
    async def withdraw(self, rollouts: frozenset[str]) -> None:
        """Have nobody given the candidates of these, and of no others; at once, whatever else is being changed."""
        ...

    def alive(self) -> None: ...


class Book(Protocol):
    """Where Rollouts are remembered. It is used off the event loop, by one thread at a time. What the state raises."""

    def rollouts(self) -> list[Rollout]: ...
    def over(self, most: int) -> list[Rollout]: ...
    def find(self, rollout: str) -> Rollout | None: ...
    def keep(self, rollout: Rollout, who: str, at_ns: int, looks: Sequence[Looked]) -> None: ...
    def judged(self, rollout: str) -> bytes | None: ...
    def look(self, rollout: str, at_ns: int, looks: Sequence[Looked], judged: bytes) -> None: ...


class Judge(Protocol):
    """What judges one Rollout by its evidence."""

    def learn(self, before: Totals) -> None: ...
    def look(self, evidence: Evidence) -> tuple[Looked, ...]: ...
    def state(self) -> bytes: ...


class Watching(Protocol):
    """What a Rollout is watched with. `observe` gives what reads its evidence off the event loop (None: there is none yet)."""

    def judge(self, policy: RolloutPolicy, state: bytes | None) -> Judge: ...
    def observe(self, rollout: Rollout) -> Callable[[], Evidence | None]: ...
    def before(self, rollout: Rollout) -> Totals | None: ...


class Gate(Protocol):
    """What says whether a candidate is ready for more than it has."""

    def look(self, rollout: Rollout) -> tuple[Looked, ...]: ...
    async def close(self) -> None: ...


class Gates(Protocol):
    """Makes Gates, which look until they are closed."""

    def of(self, candidate: Candidate) -> Gate: ...


class Followed(msgspec.Struct):
    """A Rollout that is under way."""

    rollout: Rollout
    judge: Judge
    look: Callable[[], Evidence | None]
    gate: Gate | None = None
    looks: tuple[Looked, ...] = ()
    looked_ns: int = 0


class Rollouts:
    """A Service."""

    name = "rollouts"
    unready = ""

    def __init__(self, serves: Serves, book: Book, watching: Watching, gates: Gates, clock: Clock, dice: Dice) -> None:
        self._dice = dice
        self._gates = gates
        self._serves = serves
        self._book = book
        self._watching = watching
        self._clock = clock
        self._followed: dict[str, Followed] = {}  # by id
        self._over: dict[str, Rollout] = {}  # until what is served says so too
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._serving: asyncio.Task[None] | None = None
        self._ahead_ns: int | None = None  # how far the wall clock is ahead of the steady one

    async def start(self) -> None:
        for rollout in await asyncio.to_thread(self._book.rollouts):
            judged = await asyncio.to_thread(self._book.judged, rollout.id)
            self._follow(rollout, judged)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="rollouts")

    async def drain(self) -> None:
        tasks = [task for task in (self._task, self._serving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for followed in self._followed.values():
            await _close(followed)

    @property
    def under_way(self) -> tuple[tuple[Rollout, tuple[Looked, ...]], ...]:
        """Each with its last look."""
        return tuple((one.rollout, one.looks) for one in self._followed.values())

    async def over(self, most: int) -> list[Rollout]:
        """Those that are over, the newest first."""
        return await asyncio.to_thread(self._book.over, most)

    async def act(self, model: str, verb: str, who: str, why: str) -> Rollout:
        """Do by hand what only a person may: pause, resume, promote, abort. Refusal.

        An abort is in effect then, though another change may be under way. A promotion waits for that.
        """
        async with self._turn:
            await self._adopt(self._clock.wall_ns())
            followed = next((one for one in self._followed.values() if one.rollout.model == model), None)
            if followed is None:
                raise Refusal(Reason.NOT_FOUND, f"no rollout of the model '{model[:128]}' is under way")
            changed = by_hand(followed.rollout, verb, f"by {who}: {why or verb}", self._clock.wall_ns())
            if changed is None:
                phase = followed.rollout.phase.value
                raise Refusal(Reason.CONFLICT, f"the rollout of '{model}' is {phase}, so it can't {verb}")
            await self._keep(followed, changed, who)
        if verb == "promote":
            await self._serve()
        else:
            await self._have_served()
        return changed

    async def turn(self) -> None:
        """One look at everything, and what follows from it."""
        async with self._turn:
            now_ns = self._clock.wall_ns()
            await self._mind_the_clock(now_ns)
            await self._adopt(now_ns)
            for followed in list(self._followed.values()):
                if now_ns >= followed.looked_ns + _pause_ns(followed.rollout, now_ns):
                    await self._look(followed, now_ns)
            await self._serves.withdraw(self._withdrawn)
        await self._have_served()

    async def _adopt(self, now_ns: int) -> None:
        """Follow the candidates that nobody watches yet. One whose Rollout an earlier life has ended stays so."""
        for rollout in adopted(self._serves.settled, self._known, now_ns):
            before = await asyncio.to_thread(self._book.find, rollout.id)
            if before is not None and before.phase.over:
                self._over[before.id] = before
                continue
            log.info("the rollout %s of %s begins: %s", rollout.id, rollout.model, rollout.candidate)
            await asyncio.to_thread(self._book.keep, rollout, "", now_ns, ())
            followed = self._follow(rollout, None)
            if (totals := await asyncio.to_thread(self._watching.before, rollout)) is not None:
                followed.judge.learn(totals)

    @property
    def _withdrawn(self) -> frozenset[str]:
        """The Rollouts that were ended, and whose candidates a Snapshot may still have."""
        return frozenset(one.id for one in self._over.values() if one.phase is not Phase.PROMOTED)

    async def _mind_the_clock(self, now_ns: int) -> None:
        """Steps last as long as they are declared, though the wall clock jumps; where it jumped while nobody looked can't be told."""
        ahead_ns = now_ns - self._clock.steady_ns()
        jump_ns = 0 if self._ahead_ns is None else ahead_ns - self._ahead_ns
        self._ahead_ns = ahead_ns
        if abs(jump_ns) < _JUMP_NS:
            return
        log.warning("the clock has jumped by %.0f s; rollouts go on as if it had not", jump_ns / NS)
        for followed in self._followed.values():
            followed.rollout = shifted(followed.rollout, jump_ns)
            followed.looked_ns = min(followed.looked_ns, now_ns)
            why = f"the clock jumped by {jump_ns / NS:.0f} s"
            told = msgspec.structs.replace(followed.rollout, why=followed.rollout.why or why)
            await asyncio.to_thread(self._book.keep, told, "", now_ns, followed.looks)

    @property
    def _known(self) -> Mapping[str, Rollout]:
        return {**self._over, **{name: one.rollout for name, one in self._followed.items()}}

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        said = 0.0
        while True:
            try:
                await self.turn()
            except Exception:
                log.exception("the rollouts could not be looked after; they are tried again")
            else:
                if self._serves.settled.candidates and loop.time() - said >= _ALIVE_S:
                    said = loop.time()
                    self._serves.alive()
            await asyncio.sleep(_LOOK_S)

    def _follow(self, rollout: Rollout, judged: bytes | None) -> Followed:
        judge = self._watching.judge(rollout.policy, judged)
        followed = self._followed[rollout.id] = Followed(rollout, judge, self._watching.observe(rollout))
        return followed

    async def _look(self, followed: Followed, now_ns: int) -> None:
        rollout = followed.rollout
        exposed = self._serves.settled.candidates.get(rollout.model)
        if exposed is None or exposed.rollout != rollout.id:  # another manifest was applied
            gone = msgspec.structs.replace(
                rollout, phase=Phase.ABORTED, since_ns=now_ns, why="it is no longer declared"
            )
            await self._keep(followed, gone, "")
            return
        followed.looked_ns = now_ns
        if followed.gate is None:
            followed.gate = self._gates.of(exposed)
        gates = followed.gate.look(rollout)
        evidence: Evidence | None = {}
        if rollout.share:  # before that nobody is given the candidate
            evidence = await asyncio.to_thread(followed.look)
            if evidence is None:
                return
            evidence = {draw: seen for draw, seen in evidence.items() if draw.share(rollout.policy) > 0}
        looks = followed.judge.look(evidence) if rollout.share else ()
        if (*gates, *looks) != followed.looks:
            followed.looks = (*gates, *looks)
            await asyncio.to_thread(self._book.look, rollout.id, now_ns, followed.looks, followed.judge.state())
        changed = moved(rollout, looks, calls_of(evidence), now_ns, gates)
        if changed != rollout:
            await self._keep(followed, changed, "")

    async def _keep(self, followed: Followed, changed: Rollout, who: str) -> None:
        await asyncio.to_thread(self._book.keep, changed, who, self._clock.wall_ns(), followed.looks)
        log.info("the rollout %s of %s is %s: %s", changed.id, changed.model, changed.phase.value, changed.why)
        followed.rollout = changed
        if changed.phase.over:
            self._over[changed.id] = self._followed.pop(changed.id).rollout
            await self._serves.withdraw(self._withdrawn)
            await _close(followed)

    async def _have_served(self) -> None:
        """Have served what the Rollouts say, beside what goes on here where that takes longer. What it fails with is raised here, or
        in the next turn.
        """
        until = asyncio.get_running_loop().time() + _PATIENT_S
        if self._serving is not None:  # it may have asked already what they say
            await self._served(self._serving, until)
        if self._serving is None:
            self._serving = asyncio.get_running_loop().create_task(self._serve(), name="rollouts served")
            await self._served(self._serving, until)

    async def _served(self, serving: asyncio.Task[None], until: float) -> None:
        """Wait for it until then (the loop's time)."""
        await asyncio.wait((serving,), timeout=max(until - asyncio.get_running_loop().time(), 0))
        if serving.done() and self._serving is serving:
            self._serving = None
            serving.result()

    async def _serve(self) -> None:
        """Have served what the Rollouts say by the time when that is done."""
        change = await self._serves.amend(lambda snapshot: agreeing(snapshot, self._known), self._intent)
        if change.message:
            log.error("what the rollouts want can't be served: %s", change.message)
        elif self._over:
            exposed = {one.rollout for one in self._serves.settled.candidates.values()}
            self._over = {name: one for name, one in self._over.items() if name in exposed}

    def _intent(self) -> Intent:
        told = [f"{one.model} {one.phase.value}" for one in self._known.values()]
        return Intent(self._dice.bits(16).hex(), "rollout", "servery", ", ".join(told))


async def _close(followed: Followed) -> None:
    if followed.gate is not None:
        await followed.gate.close()


def _pause_ns(rollout: Rollout, now_ns: int) -> int:
    return (now_ns - rollout.began_ns) // _LOOKS

"""Watching for drift: each window of each Model is looked at once, and an alarm is told once, however often that has to be tried."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from servery.control.drift import Window, alarm_of, look, window_of
from servery.control.places import did_you_mean
from servery.control.published import write_whole
from servery.control.telling import Untold, post, run
from servery.host.clock import Clock
from servery.store.ledger import Ledger, NoLedger, WrongLedger
from servery.store.state import WrongState
from servery.terms.audit import Draft
from servery.terms.change import Snapshot
from servery.terms.drift import Alarm, DriftLook, DriftPolicy
from servery.terms.manifest import Manifest
from servery.terms.reasons import Refusal
from servery.terms.rollouts import Rollout

log = logging.getLogger("servery.controller")

NS = 10**9
_TURN_S = 1.0
_LATE_S = 5.0  # until what was counted is in the ledger
_TRIES = 10
_FIRST_WAIT_S = 1.0  # then 4, 16, … and at most an hour
_LONGEST_WAIT_S = 3600.0
_WAITING = 100  # things to tell, at most
_BEHIND = 29  # windows that are looked at later, where the controller was away
_PARTS = 8

HOLD, WEBHOOK, COMMAND = "hold", "webhook", "command"


def looks_of(ledger: Path, manifest: Manifest, model: str, back: int, now_ns: int) -> tuple[DriftLook, ...]:
    """The window so many before the last whole one, of each Model that is watched, or of one. LookupError where there is none, and what
    the ledger raises.
    """
    watched = {name: one.drift for name, one in manifest.models.items() if one.drift is not None}
    if model and model not in watched:
        guess = did_you_mean(model, list(watched))
        fix = f"did you mean {guess!r}?" if guess else f"there is {', '.join(watched) or 'none'}"
        raise LookupError(f"no model {model[:128]!r} is watched; {fix}")
    chosen = {model: watched[model]} if model else watched
    return tuple([seen_in(ledger, name, policy, due(policy, now_ns) - back) for name, policy in chosen.items()])


class Holds(Protocol):
    """Who holds a Rollout."""

    async def act(self, model: str, verb: str, who: str, why: str) -> Rollout: ...


class Owed(msgspec.Struct, frozen=True):
    """One thing that is to be done about an alarm, and how often that has failed."""

    alarm: Alarm
    how: str
    to: tuple[str, ...] = ()
    failed: int = 0
    not_before_ns: int = 0


class Standing(msgspec.Struct, frozen=True):
    """What outlives the controller: until when (ns since 1970) each Model was looked at, and what is still to be done."""

    looked: dict[str, int] = {}
    owed: tuple[Owed, ...] = ()


def owed_for(alarm: Alarm, policy: DriftPolicy) -> tuple[Owed, ...]:
    """All that the Manifest wants done about an alarm."""
    wanted = policy.on_alarm
    done: list[Owed] = []
    if wanted.hold_rollouts:
        done.append(Owed(alarm, HOLD))
    if wanted.webhook:
        done.append(Owed(alarm, WEBHOOK, (wanted.webhook,)))
    if wanted.command:
        done.append(Owed(alarm, COMMAND, wanted.command))
    return tuple(done)


def again(owed: Owed, now_ns: int) -> Owed | None:
    """When to try once more; None where it has been tried often enough."""
    failed = owed.failed + 1
    if failed >= _TRIES:
        return None
    wait_s = min(_FIRST_WAIT_S * 4 ** (failed - 1), _LONGEST_WAIT_S)
    return msgspec.structs.replace(owed, failed=failed, not_before_ns=now_ns + round(wait_s * NS))


def due(policy: DriftPolicy, now_ns: int) -> int:
    """The last window of which all lines should be in the ledger by now."""
    late_ns = min(policy.window_ns // _PARTS, 600 * NS) + round(_LATE_S * NS)
    return (now_ns - late_ns) // policy.window_ns - 1


def unseen(policy: DriftPolicy, looked_ns: int | None, now_ns: int) -> range:
    """The windows that are due and end after `looked_ns`: of a Model that was never looked at the last one, of others a month's at most."""
    last = due(policy, now_ns)
    first = last if looked_ns is None else max(looked_ns // policy.window_ns, last - _BEHIND)
    return range(first, last + 1)


def seen_in(ledger: Path, model: str, policy: DriftPolicy, number: int) -> DriftLook:
    """A look at one window, from what the ledger has. What the ledger raises."""
    opened = Ledger(ledger)
    try:
        window = window_of(model, policy, number, opened.first_sketched(model))
        late_ns = policy.window_ns // _PARTS  # a line is written at its end, when most of it was counted
        now = list(opened.sketches(model, window.since_ns, window.until_ns + late_ns))
        window = window.of({line.version for line in now})
        lines = [opened.sketches(model, since, until) for since, until in _spread(window, late_ns)]
        since_ns = window.spans[0][0]
        judged = opened.judged(model, policy.feedback, since_ns) if policy.feedback and now else []
        return look(window, itertools.chain(*lines, now), judged)
    finally:
        opened.close()


def _spread(window: Window, late_ns: int) -> list[tuple[int, int]]:
    """The spans before the window in which lines about its references were written, without overlaps."""
    spread: list[tuple[int, int]] = []
    for since, until in window.spans[:-1]:
        spread.append((max(since, spread[-1][1]) if spread else since, min(until + late_ns, window.since_ns)))
    return spread


class Alarms:
    """A Service. `served` is what is in effect; `record` leaves an entry in the audit, off the event loop."""

    name = "drift"
    unready = ""

    def __init__(
        self,
        served: Callable[[], tuple[Snapshot, Path]],
        holds: Holds,
        files: tuple[Path, Path],
        record: Callable[[Draft], object],
        clock: Clock,
    ) -> None:
        self._served = served
        self._holds = holds
        self._ledger, self._file = files
        self._record = record
        self._clock = clock
        self._standing = Standing()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            self._standing = msgspec.json.decode(await asyncio.to_thread(self._file.read_bytes), type=Standing)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s can't be read, so what was told of drift may be told again: %s", self._file, error)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="drift")

    async def drain(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.turn()
            except (WrongLedger, WrongState, SQLAlchemyError, OSError) as error:
                log.warning("drift could not be looked at, and is tried again: %s", error)
            except Exception:
                log.exception("drift could not be looked at, by an error of ours; it is tried again")
            await asyncio.sleep(_TURN_S)

    async def turn(self) -> None:
        """Look at what is due, and do what is owed. What the ledger and the audit raise."""
        now_ns = self._clock.wall_ns()
        snapshot, manifest = self._served()
        for name, model in snapshot.manifest.models.items():
            if model.drift is not None:
                for window in unseen(model.drift, self._standing.looked.get(name), now_ns):
                    await self._look(name, model.drift, window, now_ns)
        for owed in self._standing.owed:
            if now_ns >= owed.not_before_ns:
                await self._settle(owed, manifest.parent)

    async def _look(self, name: str, policy: DriftPolicy, window: int, now_ns: int) -> None:
        try:
            seen = await asyncio.to_thread(seen_in, self._ledger, name, policy, window)
        except NoLedger:
            return
        alarm = alarm_of(seen)
        owed = self._standing.owed
        if alarm is not None:
            log.warning("%s", alarm.said)
            evidence = msgspec.json.encode(seen).decode()
            await asyncio.to_thread(
                self._record, Draft(now_ns, "servery", alarm.said, "drift", name, "alarm", evidence)
            )
            owed = (*owed, *owed_for(alarm, policy))[-_WAITING:]
        await self._keep(Standing({**self._standing.looked, name: seen.until_ns}, owed))

    async def _settle(self, owed: Owed, folder: Path) -> None:
        """Do one thing, or have it tried again later."""
        content, rest, outcome = msgspec.json.encode(owed.alarm), None, "done"
        try:
            if owed.how == WEBHOOK:
                await post(owed.to[0], content)
            elif owed.how == COMMAND:
                await run(owed.to, content, folder)
            else:
                outcome = await self._hold(owed.alarm)
        except Untold as error:
            rest, outcome = again(owed, self._clock.wall_ns()), "failed"
            log.warning("the alarm about %s could not be told by its %s: %s", owed.alarm.model, owed.how, error)
        left = tuple([one for one in self._standing.owed if one is not owed])
        await self._keep(msgspec.structs.replace(self._standing, owed=left if rest is None else (*left, rest)))
        if rest is None:
            draft = Draft(
                self._clock.wall_ns(), "servery", owed.alarm.said, f"drift {owed.how}", owed.alarm.model, outcome
            )
            await asyncio.to_thread(self._record, draft)

    async def _hold(self, alarm: Alarm) -> str:
        """What came of it."""
        try:
            await self._holds.act(alarm.model, "hold", "servery", alarm.said)
        except Refusal as refusal:
            return f"nothing to hold: {refusal.message}"
        return "done"

    async def _keep(self, standing: Standing) -> None:
        self._standing = standing
        await asyncio.to_thread(write_whole, self._file, msgspec.json.encode(standing))

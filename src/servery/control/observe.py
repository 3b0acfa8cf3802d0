"""Observe: what the Attempts of both Versions of a Rollout have been like so far, read from the windows of the ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from servery.control.evidence import Draw, Evidence, Seen, Totals
from servery.host.clock import Clock
from servery.stats.windows import Sums as Priced
from servery.store.facts import Key as FactKey
from servery.store.ledger import Ledger, NoLedger, WrongLedger
from servery.store.windows import Key, Sums
from servery.terms.folds import Told, measured_arm
from servery.terms.reasons import Fault, Reason
from servery.terms.record import Outcome
from servery.terms.rollouts import AGAIN, Arm, Rollout, RolloutPolicy, after

if TYPE_CHECKING:
    from servery.control.absolute import Absolute, Shadowed
    from servery.control.judge import Judge

log = logging.getLogger("servery.controller")

T = TypeVar("T")
NS = 10**9
_BEFORE_S = 3_600
_COMPARED = (Arm.INCUMBENT, Arm.CANDIDATE)

# Why an Attempt had no answer, where that was not the Version's doing. A prompt or tensor that it refused may well be.
_NOT_ITS_DOING = {
    reason.word for reason in Reason if reason.fault is Fault.CALLER and reason is not Reason.INVALID_REQUEST
} | {Reason.DRAINING.word}


class Windows(Protocol):
    """Where windows are read."""

    def windows(self, arms: tuple[str, ...], stamp: int = 0) -> list[tuple[Key, Sums, int]]: ...
    def told(self, arms: tuple[str, ...], stamp: int = 0) -> list[tuple[FactKey, Told, int]]: ...
    def before(self, model: str, version: str, since_s: int) -> list[tuple[Key, Sums]]: ...


class Observer:
    """What one Rollout's windows say. Only those that have changed since the last look are read again."""

    def __init__(self, rollout: str, policy: RolloutPolicy) -> None:
        self._arms: dict[str, tuple[Draw, Arm]] = {}
        self._again: dict[str, tuple[Draw, Arm]] = {}
        for step in range(len(policy.steps)):
            for arm in Arm:
                self._arms[arm.told(rollout, step)] = (Draw(step), arm)
                self._again[arm.told(rollout, step, AGAIN)] = (Draw(step), arm)
                for before in range(step if policy.unit is not None and arm in _COMPARED else 0):
                    self._arms[arm.told(rollout, step, after(before))] = (Draw(step, before), arm)
        measures = any(guard.metric == "output" for guard in policy.guards)
        self._measured = {measured_arm(name): of for name, of in self._arms.items() if measures}
        self._mirrors = policy.kind == "shadow"
        self._ages = {guard.name: guard.within_s for guard in policy.guards if guard.metric == "feedback"}
        self._windows: dict[Key, Sums] = {}
        self._told: dict[FactKey, Told] = {}
        self._stamp = self._told_stamp = 0

    def look(self, ledger: Windows, now_s: float) -> Evidence:
        """All that is known now. What the ledger raises."""
        self._read(ledger)
        totals: dict[Draw, dict[Arm, Totals]] = {}
        again: dict[Draw, dict[Arm, int]] = {}
        for (*_, reason, told, outcome), sums in self._windows.items():
            if told in self._again:
                draw, arm = self._again[told]
                calls = again.setdefault(draw, dict.fromkeys(Arm, 0))
                calls[arm] += sums.n * _counts(outcome, reason)
            else:
                draw, arm = self._arms[told]
                _add(_of(totals, draw)[arm], outcome, reason, sums)
        for (start_s, told_arm, name, within_s), told in self._told.items():
            if told_arm in self._measured:
                draw, arm = self._measured[told_arm]
                _of(totals, draw)[arm].measured.setdefault(name, Told()).merge(told)
            elif self._is_of_age(name, within_s, start_s, now_s):
                draw, arm = self._arms[told_arm]
                _of(totals, draw)[arm].told.setdefault(name, Told()).merge(told)
        nothing = dict.fromkeys(Arm, 0)
        for draw in again:
            _of(totals, draw)
        return {draw: self._seen(arms, again.get(draw, nothing)) for draw, arms in sorted(totals.items())}

    def _seen(self, arms: dict[Arm, Totals], again: dict[Arm, int]) -> Seen:
        candidate = arms[Arm.CANDIDATE]
        if self._mirrors:  # it was drawn for these, whether or not it has answered yet
            candidate.requests = arms[Arm.MIRRORED].requests
        both = (again[Arm.INCUMBENT], again[Arm.CANDIDATE])
        return Seen(arms[Arm.INCUMBENT], candidate, arms[Arm.EXCLUDED].calls, both, arms[Arm.DROPPED].requests)

    def _is_of_age(self, name: str, within_s: int, start_s: int, now_s: float) -> bool:
        """Whether Feedback counts that came within so many seconds (0: later than any age) after a minute's Requests."""
        age = self._ages.get(name, 0)
        return not age or (0 < within_s <= age and start_s + 60 + age <= now_s)

    def _read(self, ledger: Windows) -> None:
        """What has changed."""
        arms = (*self._arms, *self._again)
        for key, sums, stamp in ledger.windows(arms, self._stamp):
            self._windows[key] = sums
            self._stamp = max(self._stamp, stamp)
        for fact, told, stamp in ledger.told((*self._arms, *self._measured), self._told_stamp):
            self._told[fact] = told
            self._told_stamp = max(self._told_stamp, stamp)


def _of(totals: dict[Draw, dict[Arm, Totals]], draw: Draw) -> dict[Arm, Totals]:
    if draw not in totals:
        totals[draw] = {one: Totals() for one in Arm}
    return totals[draw]


def _counts(outcome: str, reason: str) -> bool:
    """What nobody waited for, or wasn't the Version's doing, tells nothing of it."""
    return outcome != Outcome.ABANDONED.value and reason not in _NOT_ITS_DOING


def _add(totals: Totals, outcome: str, reason: str, sums: Sums) -> None:
    """A window's. That it was assigned counts also where its call tells nothing."""
    totals.requests += sums.n
    if not _counts(outcome, reason):
        return
    totals.calls += sums.n
    totals.prices.merge(sums.prices)
    exact = Priced(sums.n, sums.pico_usd, sums.pico_usd_squared)
    totals.priced = totals.priced.plus(exact) if totals.priced is not None and sums.rows == sums.n else None
    if outcome == Outcome.SERVED.value:
        totals.times.merge(sums.times)
    else:
        totals.errors += sums.n


def known_before(rollout: Rollout, ledger: Windows) -> Totals:
    """What the incumbent was like in the hour before the Rollout began."""
    totals = Totals()
    since_s = rollout.began_ns // NS - _BEFORE_S
    for (*_, reason, _, outcome), sums in ledger.before(rollout.model, rollout.incumbent, since_s):
        _add(totals, outcome, reason, sums)
    return totals


class Watch:
    """What a controller watches its Rollouts with: the ledger's windows, and a Judge. Used off the event loop."""

    def __init__(self, ledger: Path, clock: Clock) -> None:
        self._path = ledger
        self._clock = clock
        self._ledger: Ledger | None = None

    def judge(self, policy: RolloutPolicy, state: bytes | None) -> Judge | Absolute | Shadowed:
        """One that goes on from `state`."""
        from servery.control.absolute import Absolute, Shadowed  # noqa: PLC0415 numpy, where it is needed
        from servery.control.judge import Judge  # noqa: PLC0415

        if policy.kind == "shadow":
            return Shadowed(policy, state)
        return Absolute(policy) if policy.kind == "blue-green" else Judge(policy, state)

    def observe(self, rollout: Rollout) -> Callable[[], Evidence | None]:
        """What reads a Rollout's evidence; None while there is no ledger, or it can't be read."""
        observer = Observer(rollout.id, rollout.policy)
        return lambda: self._read(rollout, lambda ledger: observer.look(ledger, self._clock.wall_ns() / NS))

    def before(self, rollout: Rollout) -> Totals | None:
        """What the incumbent was like before; None where nobody can tell."""
        return self._read(rollout, lambda ledger: known_before(rollout, ledger))

    def _read(self, rollout: Rollout, read: Callable[[Ledger], T]) -> T | None:
        try:
            if self._ledger is None:
                self._ledger = Ledger(self._path)
            return read(self._ledger)
        except NoLedger:
            return None
        except (WrongLedger, SQLAlchemyError) as error:
            log.warning("the windows of the rollout %s can't be read now: %s", rollout.id, error)
            if self._ledger is not None:
                self._ledger.close()
                self._ledger = None
            return None

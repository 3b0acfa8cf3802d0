"""Observe: what the Attempts of both Versions of a Rollout have been like so far, read from the windows of the ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from servery.control.evidence import Evidence, Seen, Totals
from servery.store.facts import Key as FactKey
from servery.store.ledger import Ledger, WrongLedger
from servery.store.windows import Key, Sums
from servery.terms.folds import Told
from servery.terms.reasons import Fault, Reason
from servery.terms.record import Outcome, Role
from servery.terms.rollouts import Arm, Rollout, RolloutPolicy

if TYPE_CHECKING:
    from servery.control.judge import Judge

log = logging.getLogger("servery.controller")

# Of one Request a Model has at most one call with one of these.
_FIRST = (Role.SERVE.value, Role.FALLBACK.value)

T = TypeVar("T")
NS = 10**9
_BEFORE_S = 3_600

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

    def __init__(self, rollout: str, steps: int) -> None:
        self._arms = {arm.told(rollout, step): (step, arm) for step in range(steps) for arm in Arm}
        self._windows: dict[Key, Sums] = {}
        self._told: dict[FactKey, Told] = {}
        self._stamp = self._told_stamp = 0

    def look(self, ledger: Windows) -> Evidence:
        """All that is known now. What the ledger raises."""
        for key, sums, stamp in ledger.windows(tuple(self._arms), self._stamp):
            self._windows[key] = sums
            self._stamp = max(self._stamp, stamp)
        for fact, told, stamp in ledger.told(tuple(self._arms), self._told_stamp):
            self._told[fact] = told
            self._told_stamp = max(self._told_stamp, stamp)
        totals: dict[int, dict[Arm, Totals]] = {}
        for (*_, role, reason, told, outcome), sums in self._windows.items():
            step, arm = self._arms[told]
            of_step = totals.setdefault(step, {one: Totals() for one in Arm})
            _add(of_step[arm], role, outcome, reason, sums)
        for (_, told_arm, name), told in self._told.items():
            step, arm = self._arms[told_arm]
            if step in totals:
                totals[step][arm].told.setdefault(name, Told()).merge(told)
        return {
            step: Seen(arms[Arm.INCUMBENT], arms[Arm.CANDIDATE], arms[Arm.EXCLUDED].calls)
            for step, arms in sorted(totals.items())
        }


def _add(totals: Totals, role: str, outcome: str, reason: str, sums: Sums) -> None:
    """A window's. What nobody waited for tells nothing, but that it was assigned."""
    if role in _FIRST:
        totals.requests += sums.n
    if outcome == Outcome.ABANDONED.value or reason in _NOT_ITS_DOING:
        return
    totals.calls += sums.n
    totals.prices.merge(sums.prices)
    if outcome == Outcome.SERVED.value:
        totals.times.merge(sums.times)
    else:
        totals.errors += sums.n


def known_before(rollout: Rollout, ledger: Windows) -> Totals:
    """What the incumbent was like in the hour before the Rollout began."""
    totals = Totals()
    since_s = rollout.began_ns // NS - _BEFORE_S
    for (*_, role, reason, _, outcome), sums in ledger.before(rollout.model, rollout.incumbent, since_s):
        _add(totals, role, outcome, reason, sums)
    return totals


class Watch:
    """What a controller watches its Rollouts with: the ledger's windows, and a Judge. Used off the event loop."""

    def __init__(self, ledger: Path) -> None:
        self._path = ledger
        self._ledger: Ledger | None = None

    def judge(self, policy: RolloutPolicy, state: bytes | None) -> Judge:
        """One that goes on from `state`."""
        from servery.control.judge import Judge  # noqa: PLC0415 numpy, where it is needed

        return Judge(policy, state)

    def observe(self, rollout: Rollout) -> Callable[[], Evidence | None]:
        """What reads a Rollout's evidence; None while there is no ledger, or it can't be read."""
        observer = Observer(rollout.id, len(rollout.policy.steps))
        return lambda: self._read(rollout, observer.look)

    def before(self, rollout: Rollout) -> Totals | None:
        """What the incumbent was like before; None where nobody can tell."""
        return self._read(rollout, lambda ledger: known_before(rollout, ledger))

    def _read(self, rollout: Rollout, read: Callable[[Ledger], T]) -> T | None:
        try:
            if self._ledger is None:
                self._ledger = Ledger(self._path)
            return read(self._ledger)
        except (WrongLedger, SQLAlchemyError) as error:
            log.warning("the windows of the rollout %s can't be read now: %s", rollout.id, error)
            if self._ledger is not None:
                self._ledger.close()
                self._ledger = None
            return None

"""What a Table holds of Rollouts: for each name, what it is for a Request of each arm, and how the arm is drawn.

A Snapshot that exposes candidates holds for a while only: a worker that hears nothing of the controller serves the incumbents
again, so that nobody is given a Version that nobody watches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol, TypeVar

import msgspec

from servery.routing.assignment import Trial, assign, trial_of
from servery.terms.change import Snapshot
from servery.terms.record import Assigned
from servery.terms.request import Scalar
from servery.terms.rollouts import Arm

# Rollouts that one name takes part in; each more would triple its variants. The controller begins no more.
MOST_TRIALS = 3
HOLDS_NS = 30 * 10**9


class Lease:
    """Until when candidates may be served (steady ns), renewed by each word of the controller. Owned by the worker."""

    __slots__ = ("_now_ns", "until_ns")

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self.until_ns = 0

    def renew(self) -> None:
        """The controller was heard now."""
        self.until_ns = self._now_ns() + HOLDS_NS


class Exposed(msgspec.Struct, frozen=True):
    """A name some of whose Models are being rolled out: what it is by the arm of each Trial."""

    trials: tuple[Trial, ...]
    variants: dict[tuple[Arm, ...], Any]
    plain: Any  # what it is while nobody watches
    lease: Lease


class Tiered(Protocol):
    """An Entry, for tensors or for text."""

    @property
    def tiers(self) -> tuple[Any, ...]: ...


E = TypeVar("E", bound=Tiered)


class Said(msgspec.Struct, frozen=True, gc=False):
    """Where a unit may be named: a header of the request, or a parameter of it."""

    header: Callable[[str], str | None]
    parameter: Callable[[str], Scalar | None]


def with_trials(
    snapshot: Snapshot, compiled: Callable[[frozenset[str]], Mapping[str, E]], lease: Lease
) -> dict[str, E]:
    """Every name with its variants. `compiled` gives all names as they are where the candidates of these Models are served."""
    served = compiled(frozenset())
    if not snapshot.candidates:
        return dict(served)
    of = cache(compiled)
    return {name: _exposed(name, entry, snapshot, of, lease) for name, entry in served.items()}


def _exposed(
    name: str, entry: E, snapshot: Snapshot, compiled: Callable[[frozenset[str]], Mapping[str, E]], lease: Lease
) -> E:
    used = dict.fromkeys(tier.model for tier in entry.tiers if tier.model in snapshot.candidates)
    models = list(used)[:MOST_TRIALS]
    if not models:
        return entry
    candidates = [snapshot.candidates[model] for model in models]
    trials = tuple(trial_of(one) for one in candidates)
    variants: dict[tuple[Arm, ...], E] = {}
    for arms in itertools.product(Arm, repeat=len(models)):
        chosen = frozenset(model for model, arm in zip(models, arms, strict=True) if arm is Arm.CANDIDATE)
        told = {
            model: arm.told(trial.rollout, trial.step) for model, trial, arm in zip(models, trials, arms, strict=True)
        }
        variants[arms] = _told(compiled(chosen)[name], told)
    return _replace(entry, exposed=Exposed(trials, variants, entry, lease))


def _told(entry: E, arms: Mapping[str, str]) -> E:
    """With tiers that say in the Record which arm they answered for."""
    tiers = tuple(msgspec.structs.replace(tier, arm=arms.get(tier.model, "")) for tier in entry.tiers)
    return _replace(entry, tiers=tiers)


def _replace(entry: E, **changed: Any) -> E:
    made: Any = entry
    return msgspec.structs.replace(made, **changed)


def assigned(exposed: Exposed, record_id: bytes, said: Said, now_ns: int) -> tuple[Any, tuple[Assigned, ...]]:
    """The variant for this Request, and the arms that it was given."""
    if now_ns >= exposed.lease.until_ns:
        return exposed.plain, ()
    given = [assign(trial, unit_of(trial, record_id, said)) for trial in exposed.trials]
    return exposed.variants[tuple([arm for arm, _ in given])], tuple([one for _, one in given])


class Asking(Protocol):
    """Where a unit is named: a header, or a parameter; neither: each Request is one."""

    @property
    def header(self) -> str: ...
    @property
    def parameter(self) -> str: ...


def unit_of(asking: Asking, record_id: bytes, said: Said) -> bytes | None:
    """The unit of a Request; None: it doesn't say it."""
    if asking.header:
        value: Scalar | None = said.header(asking.header)
    elif asking.parameter:
        value = said.parameter(asking.parameter)
    else:
        return record_id
    return None if value is None or value == "" else str(value).encode("utf-8", "replace")

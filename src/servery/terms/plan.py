"""The Plan: the ordered steps from what is served to what is declared, and what each means for callers and for money."""

from __future__ import annotations

import enum

import msgspec

from servery.terms.history import Held


class Act(enum.Enum):
    """What a Step does to a part of what is served."""

    ADD = "add"
    LOAD = "load"  # again, what was unloaded by hand
    REPLACE = "replace"  # by other Versions
    CHANGE = "change"
    RESTART = "restart"  # can't be done while Servery runs
    REMOVE = "remove"


class Difference(msgspec.Struct, frozen=True):
    """A value that is another one afterwards, as it would be written in the manifest; "" where nothing is written."""

    where: str  # dotted path; tiers, keys and the like by their names
    before: str
    after: str


class Step(msgspec.Struct, frozen=True):
    """One part that changes. `callers` and `money` are sentences: what they notice, what it costs."""

    act: Act
    where: str  # dotted path, for instance "models.churn"
    differences: tuple[Difference, ...] = ()
    callers: tuple[str, ...] = ()
    money: tuple[str, ...] = ()
    how: str = "at once"


class Apart(msgspec.Struct, frozen=True):
    """Where what is declared and what is served differ, though nobody asks for a change."""

    where: str
    why: str


class Plan(msgspec.Struct, frozen=True):
    """What `apply` would do now. `mark` names it: given back to `apply`, that does this or nothing."""

    mark: str
    epoch: int  # that is served
    revision: int
    before: str  # the digest of the manifest that is served; "": nothing is
    after: str  # of the one that is declared
    steps: tuple[Step, ...]
    held: tuple[Held, ...] = ()  # that are declared all the same
    apart: tuple[Apart, ...] = ()
    usd_per_hour: tuple[float, float] = (0.0, 0.0)  # of all copies that are loaded, before and after

    @property
    def possible(self) -> bool:
        """Whether it can be done while Servery runs, and nothing is held."""
        return not self.held and all(step.act is not Act.RESTART for step in self.steps)

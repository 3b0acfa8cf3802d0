"""Where a worker keeps the Bulletin, and how its facts get into the Table: prepared, so that a request looks nothing up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from servery.gateway.table import Entry, Table
from servery.gateway.texts import TextEntry
from servery.gateway.watch import Watch
from servery.routing.pace import Pace
from servery.terms.bulletin import GOOD_FOR_NS, AnyFact, Bulletin

E = TypeVar("E", Entry, TextEntry)


class Board:
    """The last Bulletin. Single owner; `now_ns` is steady."""

    def __init__(self, good_for_ns: int = GOOD_FOR_NS) -> None:
        self._good_for_ns = good_for_ns
        self._bulletin = Bulletin()
        self._heard_ns = 0

    @property
    def epoch(self) -> int:
        """Of the Bulletin; 0: there was none."""
        return self._bulletin.epoch

    def hear(self, bulletin: Bulletin, now_ns: int) -> None:
        """Go by this Bulletin, unless it is older than the one that is there."""
        if bulletin.epoch >= self._bulletin.epoch:
            self._bulletin, self._heard_ns = bulletin, now_ns

    def facts(self, now_ns: int) -> tuple[AnyFact, ...]:
        """Those that are good still."""
        return tuple([fact for fact in self._bulletin.facts if self._left_ns(fact, now_ns) > 0])

    def next_ns(self, now_ns: int) -> int | None:
        """How long all of those stay good; None where there are none."""
        left = [self._left_ns(fact, now_ns) for fact in self.facts(now_ns)]
        return min(left) if left else None

    def _left_ns(self, fact: AnyFact, now_ns: int) -> int:
        return self._good_for_ns - fact.age_ns - (now_ns - self._heard_ns)


def alike(facts: Sequence[AnyFact], others: Sequence[AnyFact]) -> bool:
    """Whether both say the same, whenever they were told."""
    return [replace(fact, age_ns=0) for fact in facts] == [replace(fact, age_ns=0) for fact in others]


def posted(table: Table, watches: Mapping[str, Watch], facts: Sequence[AnyFact]) -> Table:
    """The Table with these facts in it. `watches` are those of the Routes whose thresholds follow their traffic."""
    if not watches:
        return table
    stand = {name: watch.pace.declared for name, watch in watches.items()}
    for fact in facts:
        if fact.route in watches and watches[fact.route].pace.of == fact.of:
            stand[fact.route] = fact.values
    return replace(
        table,
        entries={name: _watched(name, entry, watches, stand) for name, entry in table.entries.items()},
        texts={name: _watched(name, entry, watches, stand) for name, entry in table.texts.items()},
    )


def _watched(name: str, entry: E, watches: Mapping[str, Watch], stand: Mapping[str, tuple[float, ...]]) -> E:
    if name not in watches:
        return entry
    if (exposed := entry.exposed) is not None:  # every arm goes by the same thresholds
        variants = {arms: _watched(name, one, watches, stand) for arms, one in exposed.variants.items()}
        plain = _watched(name, exposed.plain, watches, stand)
        entry = replace(entry, exposed=replace(exposed, variants=variants, plain=plain))
    pace = watches[name].pace
    accept = {dial.tier: at for dial, at in zip(pace.dials, stand[name], strict=True) if not dial.enters}
    steps = [replace(step, accept=accept.get(at, step.accept)) for at, step in enumerate(entry.plan.steps)]
    tiers = [replace(tier, accept=accept.get(at)) for at, tier in enumerate(entry.tiers)]
    changed = replace(entry, watch=watches[name], plan=replace(entry.plan, steps=tuple(steps)), tiers=tuple(tiers))
    if isinstance(changed, TextEntry) and changed.scored is not None:
        return replace(changed, scored=replace(changed.scored, thresholds=_entering(pace, stand[name])))
    return changed


def _entering(pace: Pace, stand: Sequence[float]) -> tuple[float, ...]:
    return tuple([at for dial, at in zip(pace.dials, stand, strict=True) if dial.enters])

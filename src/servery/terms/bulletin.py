"""The Bulletin: what the controller knows of live facts that change without a new Snapshot; and what workers tell it for that."""

from __future__ import annotations

import msgspec

# So long a fact is good when the controller says nothing any more. Thresholds are then where they are declared.
GOOD_FOR_NS = 300 * 10**9


class Fact(msgspec.Struct, frozen=True, tag=True):
    """Something that is so now. `epoch`: that of the Bulletin in which it was new; `age_ns`: how long ago the controller last
    knew it to be so. A fact that is older than it is good for is as if it had never been told.
    """

    epoch: int
    age_ns: int = 0


class Thresholds(Fact, frozen=True):
    """Where the thresholds of a Route stand, in the order of the dials of its Pace, whose digest is `of`."""

    route: str = ""
    of: str = ""
    values: tuple[float, ...] = ()


AnyFact = Thresholds


class Bulletin(msgspec.Struct, frozen=True):
    """All live facts, whole: what isn't in it is not so. A Bulletin of a lower epoch than the last is refused."""

    epoch: int = 0
    facts: tuple[AnyFact, ...] = ()


class Kept(msgspec.Struct, frozen=True):
    """A Bulletin in a file, and when it was so (ns since 1970)."""

    at_ns: int
    bulletin: Bulletin


class Sight(msgspec.Struct, frozen=True):
    """What a worker saw of a Route since the last time: counts by their place in the Layout of the Pace `of`."""

    route: str
    of: str
    counts: dict[int, float]

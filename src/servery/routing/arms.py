"""Which arm of an Experiment a unit has. Pure, and the same in each worker and after each restart."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import msgspec

from servery.routing.assignment import place_of
from servery.terms.experiments import BEFORE, EXCLUDED, OTHER, Design, Experiment, Stage
from servery.terms.record import Assigned
from servery.terms.rollouts import Unit


class Draw(msgspec.Struct, frozen=True):
    """An Experiment as requests meet it. `header` (in small letters) or `parameter` name the unit; neither: each request is one.

    `edges` are where the place of a unit passes from one arm to the next.
    """

    experiment: str
    names: tuple[str, ...]
    shares: tuple[float, ...]
    edges: tuple[float, ...]
    header: str = ""
    parameter: str = ""
    before: bool = False  # everybody has the control yet
    segment: str = ""  # the header (in small letters) that names it; "": there are none
    segments: frozenset[str] = frozenset()

    @property
    def named(self) -> bool:
        """Whether requests belong to units that come again."""
        return bool(self.header or self.parameter)


def draw_of(experiment: Experiment) -> Draw:
    """How units are shared out in it."""
    design = experiment.design
    unit = design.unit or Unit()
    shares = tuple(arm.share for arm in design.arms)
    edges = tuple(accumulate(shares))[:-1]
    names = tuple(arm.name for arm in design.arms)
    before = experiment.stage is Stage.BEFORE
    return Draw(experiment.id, names, shares, edges, unit.header.lower(), unit.parameter, before, *_segments(design))


def _segments(design: Design) -> tuple[str, frozenset[str]]:
    of = design.segments
    return ("", frozenset()) if of is None else (of.header.lower(), frozenset(of.values))


def segment_of(of: Draw, said: str | None) -> str:
    """The Segment of a request that says this in its header."""
    if not of.segment:
        return ""
    return said if said is not None and said in of.segments else OTHER


def draw(of: Draw, digest: bytes | None) -> tuple[int, Assigned]:
    """The arm of the unit with this `digest_of`, by its number; the control for one that nobody knows, which then isn't compared."""
    if digest is None:
        return 0, Assigned(of.experiment, EXCLUDED, 1.0, "")
    name = digest[8:].hex()
    if of.before:
        return 0, Assigned(of.experiment, BEFORE, 1.0, name, of.named)
    at = bisect_right(of.edges, place_of(digest))
    return at, Assigned(of.experiment, of.names[at], of.shares[at], name, of.named)

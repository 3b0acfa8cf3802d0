"""What a Table holds of Experiments: for each Route that one runs on, what it is in each arm; prepared, so that a request only
hashes its unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from servery.gateway.trials import Said, unit_of
from servery.routing.arms import Draw, draw, draw_of, segment_of
from servery.terms.change import Snapshot
from servery.terms.experiments import Arm, route_of
from servery.terms.record import Assigned


class Arms(msgspec.Struct, frozen=True):
    """A Route on which an Experiment runs: its entries by arm, the control first."""

    draw: Draw
    variants: tuple[Any, ...]

    def assigned(self, record_id: bytes, said: Said) -> tuple[Any, tuple[Assigned, ...]]:
        """The variant for this Request, and the arm that it was given."""
        at, one = draw(self.draw, unit_of(self.draw, record_id, said))
        if self.draw.segment:
            one = msgspec.structs.replace(one, segment=segment_of(self.draw, said.header(self.draw.segment)))
        return self.variants[at], (one,)


class Public(Protocol):
    """An Entry, for tensors or for text."""

    @property
    def arms(self) -> Arms | None: ...


E = TypeVar("E", bound=Public)


def with_arms(
    snapshot: Snapshot, entries: Mapping[str, E], compiled: Callable[[Snapshot], Mapping[str, E]]
) -> dict[str, E]:
    """All names, with the arms of those that an Experiment runs on. `compiled` gives all names of a Snapshot."""
    made = dict(entries)
    for experiment in snapshot.experiments.values():
        route = experiment.design.route
        if route not in made:  # it answers in text, and these are for tensors; or the other way round
            continue
        plain: Any = made[route]
        others = [compiled(in_arm(snapshot, route, arm))[route] for arm in experiment.design.arms[1:]]
        arms = Arms(draw_of(experiment), (plain, *others))
        made[route] = msgspec.structs.replace(plain, arms=arms)
    return made


def in_arm(snapshot: Snapshot, route: str, arm: Arm) -> Snapshot:
    """The Snapshot as if all callers of the Route had this arm."""
    manifest = snapshot.manifest
    routes = {**manifest.routes, route: route_of(manifest.routes[route], arm)}
    return msgspec.structs.replace(snapshot, manifest=msgspec.structs.replace(manifest, routes=routes))

"""What a Table holds of Experiments: for each Route that one runs on, what it is in each arm; prepared, so that a request only
hashes its unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from servery.gateway.trials import Given, Said, unit_of
from servery.routing.arms import Draw, draw, draw_of, segment_of
from servery.routing.assignment import ARM_HEADER, carried, digest_of, token_of
from servery.terms.change import Snapshot
from servery.terms.experiments import Arm, route_of


class Arms(msgspec.Struct, frozen=True):
    """A Route on which an Experiment runs: its entries by arm, the control first. `secret` is that of what carries an arm."""

    draw: Draw
    variants: tuple[Any, ...]
    secret: bytes

    def assigned(self, record_id: bytes, said: Said) -> Given:
        """The variant for this Request, the arm that it was given, and what carries it on. Refusal where it carries one that isn't ours."""
        digest = self._digest(record_id, said)
        at, one = draw(self.draw, digest)
        if self.draw.segment:
            one = msgspec.structs.replace(one, segment=segment_of(self.draw, said.header(self.draw.segment)))
        token = token_of(self.secret, self.draw.experiment, digest) if self.draw.named and digest is not None else ""
        return Given(self.variants[at], (one,), tokens=token)

    def _digest(self, record_id: bytes, said: Said) -> bytes | None:
        """Of the unit. One that isn't named may be carried. Refusal."""
        unit = unit_of(self.draw, record_id, said)
        if unit is not None:
            return digest_of(self.draw.experiment, unit)
        tokens = said.header(ARM_HEADER)
        return None if tokens is None else carried(self.secret, tokens).get(self.draw.experiment)


class Public(Protocol):
    """An Entry, for tensors or for text."""

    @property
    def arms(self) -> Arms | None: ...


E = TypeVar("E", bound=Public)


def with_arms(
    snapshot: Snapshot, entries: Mapping[str, E], compiled: Callable[[Snapshot], Mapping[str, E]], secret: bytes
) -> dict[str, E]:
    """All names, with the arms of those that an Experiment runs on. `compiled` gives all names of a Snapshot."""
    made = dict(entries)
    for experiment in snapshot.experiments.values():
        route = experiment.design.route
        if route not in made:  # it answers in text, and these are for tensors; or the other way round
            continue
        plain: Any = made[route]
        others = [compiled(in_arm(snapshot, route, arm))[route] for arm in experiment.design.arms[1:]]
        arms = Arms(draw_of(experiment), (plain, *others), secret)
        made[route] = msgspec.structs.replace(plain, arms=arms)
    return made


def in_arm(snapshot: Snapshot, route: str, arm: Arm) -> Snapshot:
    """The Snapshot as if all callers of the Route had this arm."""
    manifest = snapshot.manifest
    routes = {**manifest.routes, route: route_of(manifest.routes[route], arm)}
    return msgspec.structs.replace(snapshot, manifest=msgspec.structs.replace(manifest, routes=routes))

"""Evidence: what the Attempts of both Versions of a Rollout have been like so far, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from servery.stats.sketch import Sketch
from servery.stats.windows import Sums
from servery.terms.folds import Told
from servery.terms.rollouts import RolloutPolicy


class Totals(msgspec.Struct):
    """One arm's Attempts: of each Request the first one, and where units come again that of their first Request.

    `requests` are those that met the Model, however their calls ended. `times` is the distribution of the ns of those that were
    answered, `prices` that of all calls' pico-dollars a row, `priced` their exact sums (None: unknown, as calls had several rows);
    `told` is their Feedback, by name.
    """

    requests: int = 0
    calls: int = 0
    errors: int = 0
    times: Sketch = msgspec.field(default_factory=Sketch)
    prices: Sketch = msgspec.field(default_factory=Sketch)
    priced: Sums | None = Sums()
    told: dict[str, Told] = msgspec.field(default_factory=dict[str, Told])
    measured: dict[str, Told] = msgspec.field(default_factory=dict[str, Told])  # outputs of the model, by name


class Draw(NamedTuple):
    """How arms were drawn: in which step, and of whom: of those that came for the first time (-1), or of those that had the
    incumbent in an earlier step.
    """

    step: int
    after: int = -1

    def share(self, policy: RolloutPolicy) -> float:
        """The chance with which each got the candidate."""
        share = policy.steps[self.step].share
        if self.after < 0:
            return share
        before = policy.steps[self.after].share
        return (share - before) / (1 - before)


class Seen(msgspec.Struct, frozen=True):
    """Both arms as they were drawn."""

    incumbent: Totals
    candidate: Totals
    excluded: int = 0  # calls whose unit nobody knew
    again: tuple[int, int] = (0, 0)  # calls of each arm that are no observations of their own
    dropped: int = 0  # calls that would have been mirrored, if there had been room


Evidence = Mapping[Draw, Seen]  # since the Rollout began


def calls_of(evidence: Evidence) -> int:
    """The candidate's calls so far."""
    return sum(seen.candidate.calls + seen.again[1] for seen in evidence.values())

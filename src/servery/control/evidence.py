"""Evidence: what the Attempts of both Versions of a Rollout have been like so far, as values. Pure."""

from __future__ import annotations

import msgspec

from servery.stats.sketch import Sketch
from servery.terms.folds import Told


class Totals(msgspec.Struct):
    """One arm's Attempts. `requests` are those that met the Model, however their calls ended. `times` is the distribution of the ns of those that were answered, `prices` that of all calls'
    pico-dollars a row; `told` is their Feedback, by name.
    """

    requests: int = 0
    calls: int = 0
    errors: int = 0
    times: Sketch = msgspec.field(default_factory=Sketch)
    prices: Sketch = msgspec.field(default_factory=Sketch)
    told: dict[str, Told] = msgspec.field(default_factory=dict[str, Told])


class Seen(msgspec.Struct, frozen=True):
    """Both arms in one step of a Rollout."""

    incumbent: Totals
    candidate: Totals
    excluded: int = 0  # calls whose unit nobody knew


Evidence = dict[int, Seen]  # by step, since the Rollout began


def calls_of(evidence: Evidence) -> int:
    """The candidate's calls so far."""
    return sum(seen.candidate.calls for seen in evidence.values())

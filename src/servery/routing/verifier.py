"""How likely an answer in text is right, foretold from it and its prompt alone: a check that a cascade accepts answers by.

Learned from answers that were judged, and calibrated: of the answers with a chance of 0.8 about eight in ten are right, as
long as those that come are like those that it learned from. `learning.verify` makes Verifiers.
"""

from __future__ import annotations

import msgspec

from servery.routing.answers import features_of
from servery.routing.checks import Check
from servery.routing.learned import Bins, Features, Learned, sigmoid
from servery.terms.text import Look, Prompt, Said


class Verifier(msgspec.Struct, frozen=True):
    """A trained one. `mix`: the weights of the linear look and of the trees. `scale`: what their logit is multiplied with,
    and what is added, to make it that of a chance (Platt 1999).
    """

    bins: Bins
    right: Learned
    mix: tuple[float, float]
    scale: tuple[float, float]

    def chance(self, prompt: str, answer: str) -> float:
        """How likely the answer is right, 0 to 1."""
        return self.chance_of(features_of(prompt, answer))

    def chance_of(self, features: Features) -> float:
        """The same, for an answer that was looked at already."""
        logit = self.right.logit(features, self.bins.above(features.counts), self.mix)
        return sigmoid(self.scale[0] * logit + self.scale[1])


def check_by(verifier: Verifier) -> Check:
    """The check that asks this Verifier. An answer that says nothing in text, such as a call of a tool, is never sure."""

    def score(prompt: Prompt, said: Said) -> float:
        return verifier.chance(prompt.text, said.text) if said.text else 0.0

    return Check(Look.TEXT, score)

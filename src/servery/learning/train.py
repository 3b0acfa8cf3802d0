"""Train a Scorer from prompts that a cheap and a strong model have answered. Needs the extra `train`.

What is fitted, and how it is mixed, is decided by how well it chooses for prompts that it wasn't trained on (`fitting`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from servery.learning.estimated import Asked, estimated
from servery.learning.fitting import PARTS, Question, Recipe, Rows, Texts, Tick, chosen, fit, parts, unseen
from servery.learning.judged import Judged, ordered, recovered
from servery.routing.complexity import Scorer
from servery.routing.learned import Features, Floats

_RECIPE = Recipe(
    strengths=(0.1, 0.3, 1.0),
    mixes=((0.7, 0.3), (0.5, 0.5), (0.7, 0.7), (1.0, 0.7), (1.0, 0.3)),
    bin_scale=0.1,
    leaf_rows=40,
)


class Prompts(msgspec.Struct, frozen=True):
    """n prompts as they are looked at, how both models answered them (0 or 1), and the group of each, if there are any.

    With `asked` only one of them was, mostly: what the other would have answered isn't known.
    """

    features: Sequence[Features]
    judged: Judged
    groups: tuple[str, ...] = ()
    asked: Asked | None = None

    @property
    def texts(self) -> Texts:
        return Texts(self.features, self.groups)

    @property
    def questions(self) -> tuple[Question, Question]:
        """Whether the cheap model answers rightly, and the strong one."""
        cheap, strong = (None, None) if self.asked is None else (self.asked.cheap, self.asked.strong)
        return Question(self.judged.cheap, cheap), Question(self.judged.strong, strong)

    def at(self, rows: Rows) -> Prompts:
        """Some of them."""
        texts, (cheap, strong) = self.texts.at(rows), (question.at(rows) for question in self.questions)
        asked = None if cheap.weights is None or strong.weights is None else Asked(cheap.weights, strong.weights)
        return Prompts(texts.features, Judged(cheap.answers, strong.answers), texts.groups, asked)

    def judged_by(self, chances: Floats) -> Judged:
        """How both models answered; where only one was asked, estimated by what was foretold, shape (2, n)."""
        return self.judged if self.asked is None else estimated(self.judged, self.asked, chances)


def steps(folds: int, learns: bool = True) -> int:
    """How often `foretold` with so many folds calls its tick, and `train` after it, if one `learns`."""
    return (folds + learns) * (PARTS + 1)


def foretold(prompts: Prompts, folds: int, seed: int, tick: Tick) -> Floats:
    """How likely both models answer each prompt rightly, by a Scorer that never saw it: shape (2, n), not yet to scale."""
    chances = np.zeros((2, len(prompts.features)))
    for learn, judge in parts(prompts.texts, folds, seed):
        scorer = train(prompts.at(learn), seed, tick)
        chances[:, judge] = np.array([scorer.chances_of(features) for features in prompts.at(judge).features]).T
    return chances


def crossed(prompts: Prompts, folds: int, seed: int, tick: Tick) -> Floats:
    """The gain that is foretold for each prompt by a Scorer that never saw it, shape (n,), not yet to scale."""
    cheap, strong = foretold(prompts, folds, seed, tick)
    return strong - cheap


def train(prompts: Prompts, seed: int, tick: Tick) -> Scorer:
    """A Scorer from these prompts, the same for the same seed; its gains are not yet to scale."""
    both = prompts.questions
    found = unseen(prompts.texts, both, _RECIPE, seed, tick)
    linear, trees = np.mean(_RECIPE.mixes, axis=0)
    judged = prompts.judged_by(_chances(linear * found.linear.mean(axis=1) + trees * found.trees))
    choice, _ = chosen(found, _RECIPE, lambda logits: _worth(logits, judged))
    bins, (cheap, strong) = fit(prompts.texts, both, _RECIPE, _RECIPE.strengths[choice.at], seed, tick)
    return Scorer(bins, cheap, strong, choice.mix, (1.0, 0.0))


def _worth(logits: Floats, judged: Judged) -> float:
    """What choosing by these logits, shape (2, n), adds to the mean quality, averaged over all shares of strong calls: the
    APGR times the gap, so that a gap that was estimated to be none at all does no harm.
    """
    cheap, strong = _chances(logits)
    share, added = recovered(ordered(strong - cheap), judged)
    return float(np.trapezoid(added, share))


def _chances(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def scale_of(foretold: Floats, judged: Judged) -> tuple[float, float]:
    """What gains that aren't to scale are multiplied with, and what is added, so that they are right on the mean.

    A line by least squares through what was foretold of prompts that weren't learned from, and what they gained.
    """
    slope = float(np.cov(foretold, judged.gain)[0, 1] / max(float(np.var(foretold, ddof=1)), 1e-12))
    slope = max(slope, 1e-3)  # or the order would be turned around
    return slope, float(judged.gain.mean() - slope * foretold.mean())

"""Train a Scorer from prompts that a cheap and a strong model have answered. Needs the extra `train`.

What is fitted, and how it is mixed, is decided by how well it chooses for prompts that it wasn't trained on (`fitting`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from servery.learning.fitting import PARTS, Recipe, Rows, Texts, Tick, chosen, fit, parts, unseen
from servery.learning.judged import Judged, measure, ordered
from servery.routing.complexity import Scorer
from servery.routing.learned import Features, Floats

_RECIPE = Recipe(
    strengths=(0.1, 0.3, 1.0),
    mixes=((0.7, 0.3), (0.5, 0.5), (0.7, 0.7), (1.0, 0.7), (1.0, 0.3)),
    bin_scale=0.1,
    leaf_rows=40,
)


class Prompts(msgspec.Struct, frozen=True):
    """n prompts as they are looked at, how both models answered them (0 or 1), and the group of each, if there are any."""

    features: Sequence[Features]
    judged: Judged
    groups: tuple[str, ...] = ()

    @property
    def texts(self) -> Texts:
        return Texts(self.features, self.groups)

    def at(self, rows: Rows) -> Prompts:
        """Some of them."""
        texts = self.texts.at(rows)
        return Prompts(texts.features, Judged(self.judged.cheap[rows], self.judged.strong[rows]), texts.groups)


def steps(folds: int) -> int:
    """How often `train` and, before it, `crossed` with so many folds call their tick."""
    return (folds + 1) * (PARTS + 1)


def crossed(prompts: Prompts, folds: int, seed: int, tick: Tick) -> Floats:
    """The gain that is foretold for each prompt by a Scorer that never saw it, shape (n,), not yet to scale."""
    gain = np.zeros(len(prompts.features))
    for learn, judge in parts(prompts.texts, folds, seed):
        scorer = train(prompts.at(learn), seed, tick)
        gain[judge] = [scorer.gain_of(features) for features in prompts.at(judge).features]
    return gain


def train(prompts: Prompts, seed: int, tick: Tick) -> Scorer:
    """A Scorer from these prompts, the same for the same seed; its gains are not yet to scale."""
    both = (prompts.judged.cheap, prompts.judged.strong)
    found = unseen(prompts.texts, both, _RECIPE, seed, tick)
    choice, _ = chosen(found, _RECIPE, lambda logits: _worth(logits, prompts.judged))
    bins, (cheap, strong) = fit(prompts.texts, both, _RECIPE, _RECIPE.strengths[choice.at], seed, tick)
    return Scorer(bins, cheap, strong, choice.mix, (1.0, 0.0))


def _worth(logits: Floats, judged: Judged) -> float:
    """The APGR of choosing by these logits, shape (2, n)."""
    cheap, strong = 1 / (1 + np.exp(-logits))
    return measure(ordered(strong - cheap), judged).apgr


def scale_of(foretold: Floats, judged: Judged) -> tuple[float, float]:
    """What gains that aren't to scale are multiplied with, and what is added, so that they are right on the mean.

    A line by least squares through what was foretold of prompts that weren't learned from, and what they gained.
    """
    slope = float(np.cov(foretold, judged.gain)[0, 1] / max(float(np.var(foretold, ddof=1)), 1e-12))
    slope = max(slope, 1e-3)  # or the order would be turned around
    return slope, float(judged.gain.mean() - slope * foretold.mean())

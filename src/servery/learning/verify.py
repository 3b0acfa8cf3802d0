"""Train a Verifier from answers that were judged. Needs the extra `train`.

What is fitted, and how it is mixed, is decided by how well it orders answers that it wasn't trained on (`fitting`). On those
the chances are calibrated too: Platt, J. (1999), Probabilistic outputs for support vector machines, in Advances in Large
Margin Classifiers, 61–74.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from servery.learning.calibrated import auc
from servery.learning.fitting import PARTS, Question, Recipe, Rows, Texts, Tick, chosen, fit, parts, unseen
from servery.routing.learned import Features, Floats
from servery.routing.verifier import Verifier

_RECIPE = Recipe(
    strengths=(0.3, 1.0, 3.0),
    mixes=((1.0, 0.0), (1.0, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7)),
    bin_scale=0.3,
    leaf_rows=20,
)


class Answers(msgspec.Struct, frozen=True):
    """n answers as they are looked at, whether each is right (0 or 1), and the group of each, if there are any."""

    features: Sequence[Features]
    right: Floats
    groups: tuple[str, ...] = ()

    @property
    def texts(self) -> Texts:
        return Texts(self.features, self.groups)

    def at(self, rows: Rows) -> Answers:
        """Some of them."""
        texts = self.texts.at(rows)
        return Answers(texts.features, self.right[rows], texts.groups)


def steps(folds: int) -> int:
    """How often `train` and, before it, `crossed` with so many folds call their tick."""
    return (folds + 1) * (PARTS + 1)


def crossed(answers: Answers, folds: int, seed: int, tick: Tick) -> Floats:
    """The chance that each answer is right, by a Verifier that never saw it, shape (n,)."""
    chance = np.zeros(len(answers.features))
    for learn, judge in parts(answers.texts, folds, seed):
        verifier = train(answers.at(learn), seed, tick)
        chance[judge] = [verifier.chance_of(features) for features in answers.at(judge).features]
    return chance


def train(answers: Answers, seed: int, tick: Tick) -> Verifier:
    """A Verifier from these answers, the same for the same seed, calibrated on parts of them that were left out in turn."""
    right = answers.right
    found = unseen(answers.texts, (Question(right),), _RECIPE, seed, tick)
    choice, logits = chosen(found, _RECIPE, lambda one: auc(one[0], right))
    bins, (learned,) = fit(answers.texts, (Question(right),), _RECIPE, _RECIPE.strengths[choice.at], seed, tick)
    return Verifier(bins, learned, choice.mix, _platt(logits[0], right))


def _platt(logits: Floats, right: Floats) -> tuple[float, float]:
    """What logits are multiplied with, and what is added, to be those of chances. Each answer is taken to be a little less
    certain than it was judged, as Platt does, so that few of them can't make it sure of itself.
    """
    models: Any = importlib.import_module("sklearn.linear_model")
    hits = float(right.sum())
    misses = len(right) - hits
    target = np.where(right > 0, (hits + 1) / (hits + 2), 1 / (misses + 2))
    twice, either = np.tile(logits, 2)[:, np.newaxis], np.repeat((1.0, 0.0), len(logits))
    fitted = models.LogisticRegression(C=1e6).fit(twice, either, sample_weight=np.concatenate((target, 1 - target)))
    return max(float(fitted.coef_[0, 0]), 1e-3), float(fitted.intercept_[0])  # or the order would be turned around

"""Train a Scorer from prompts that a cheap and a strong model have answered. Needs the extra `train`.

Each model gets an L2-regularised logistic regression over hashed n-grams (tf-idf) and binned counts, and boosted trees
over the counts. How strong the regularisation is, and how both are mixed, is decided by how well they choose for prompts
that they weren't trained on: parts of the examples are left out in turn. Where groups are named (subjects, customers), whole
groups are left out, so that what is learned is what carries over to a group that was never seen.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.learning.examples import Unusable
from servery.learning.judged import Judged, measure, ordered
from servery.routing.complexity import BITS, Features, Floats, Learned, Linear, Scorer, Sparse, Trees

Tick = Callable[[], None]
Rows = NDArray[np.int64]

STRENGTHS = (0.1, 0.3, 1.0)  # inverse: less of it is more regularisation
MIXES = ((0.7, 0.3), (0.5, 0.5), (0.7, 0.7), (1.0, 0.7), (1.0, 0.3))  # of the logits: linear, trees
PARTS = 4
_BINS = 12
_BIN_SCALE = 0.1  # beside n-grams of length 1: how freely the bins' weights may grow
_TREES, _DEPTH, _RATE, _LEAF_ROWS = 80, 3, 0.05, 40


class Prompts(msgspec.Struct, frozen=True):
    """n prompts as they are looked at, how both models answered them (0 or 1), and the group of each, if there are any."""

    features: Sequence[Features]
    judged: Judged
    groups: tuple[str, ...] = ()

    def at(self, rows: Rows) -> Prompts:
        """Some of them."""
        judged = Judged(self.judged.cheap[rows], self.judged.strong[rows])
        chosen: list[int] = rows.tolist()
        groups = tuple(self.groups[row] for row in chosen) if self.groups else ()
        return Prompts([self.features[row] for row in chosen], judged, groups)


def steps(folds: int) -> int:
    """How often `train` and, before it, `crossed` with so many folds call their tick."""
    return (folds + 1) * (PARTS + 1)


def parts(prompts: Prompts, count: int, seed: int) -> list[tuple[Rows, Rows]]:
    """(rows to learn from, rows to judge by), so often, or less often where there are fewer groups.

    A group is never in both. Unusable where there is but one.
    """
    rng = np.random.default_rng(seed)
    if prompts.groups:
        names, member = np.unique(np.array(prompts.groups), return_inverse=True)
        if len(names) < 2:
            raise Unusable(
                "too few groups, so that all but one are left out: name a column with more of them as --group"
            )
        count = min(count, len(names))
        sizes = np.bincount(member)
        place = np.zeros(len(names), np.int64)
        filled = np.zeros(count, np.int64)
        for name in sorted(rng.permutation(len(names)), key=lambda name: -sizes[name]):
            place[name] = int(np.argmin(filled))
            filled[place[name]] += sizes[name]
        of_row = place[member]
    else:
        of_row = np.arange(len(prompts.features)) % count
        rng.shuffle(of_row)
    return [(np.flatnonzero(of_row != part), np.flatnonzero(of_row == part)) for part in range(count)]


def crossed(prompts: Prompts, folds: int, seed: int, tick: Tick) -> Floats:
    """The gain that is foretold for each prompt by a Scorer that never saw it, shape (n,), not yet to scale."""
    gain = np.zeros(len(prompts.features))
    for learn, judge in parts(prompts, folds, seed):
        scorer = train(prompts.at(learn), seed, tick)
        gain[judge] = [scorer.gain_of(features) for features in prompts.at(judge).features]
    return gain


def train(prompts: Prompts, seed: int, tick: Tick) -> Scorer:
    """A Scorer from these prompts, the same for the same seed; its gains are not yet to scale."""
    both = (prompts.judged.cheap, prompts.judged.strong)
    linear, trees = _unseen(prompts, seed, tick)
    found = [
        (_worth(mix[0] * linear[:, at] + mix[1] * trees, prompts.judged), strength, mix)
        for at, strength in enumerate(STRENGTHS)
        for mix in MIXES
    ]
    _, strength, mix = max(found, key=lambda one: one[0])
    everything = np.arange(len(prompts.features))
    space = _space(prompts, everything)
    matrix, counts = space.matrix(prompts, everything), _counts(prompts)
    cheap, strong = (
        Learned(
            space.weights(_fit_linear(matrix, right, strength)), _read_trees(_fit_trees(counts, right, seed), right)
        )
        for right in both
    )
    tick()
    return Scorer(space.edge_counts, space.edges, cheap, strong, mix, (1.0, 0.0))


def _unseen(prompts: Prompts, seed: int, tick: Tick) -> tuple[Floats, Floats]:
    """The logits of prompts left out of the fit, by model: linear (2, STRENGTHS, n), and trees (2, n)."""
    rows, counts = len(prompts.features), _counts(prompts)
    linear, trees = np.zeros((2, len(STRENGTHS), rows)), np.zeros((2, rows))
    for learn, judge in parts(prompts, PARTS, seed):
        space = _space(prompts, learn)
        known, unknown = space.matrix(prompts, learn), space.matrix(prompts, judge)
        for which, right in enumerate((prompts.judged.cheap, prompts.judged.strong)):
            if right[learn].min() == right[learn].max():
                raise Unusable(
                    "in some part of the prompts one of the models is always right, or always wrong, so that nothing can "
                    "be learned there: give more prompts, or fewer --folds"
                )
            for at, strength in enumerate(STRENGTHS):
                linear[which, at, judge] = _fit_linear(known, right[learn], strength).decision_function(unknown)
            trees[which, judge] = _fit_trees(counts[learn], right[learn], seed).decision_function(counts[judge])
        tick()
    return linear, trees


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


class _Space(msgspec.Struct, frozen=True):
    """How features become a row of numbers: n-grams that were seen, by how rare they are, and the bins of counts."""

    seen: tuple[Rows, Rows]
    rarity: tuple[Floats, Floats]
    edge_counts: Rows
    edges: Floats

    def matrix(self, prompts: Prompts, rows: Rows) -> Any:
        sparse: Any = importlib.import_module("scipy.sparse")
        found = prompts.at(rows).features
        looks = ([one.words for one in found], [one.grams for one in found])
        terms = [
            _sparse(look)[:, seen] @ sparse.diags(rarity)
            for look, seen, rarity in zip(looks, self.seen, self.rarity, strict=True)
        ]
        counts = np.array([one.counts for one in found])
        bins = (counts[:, self.edge_counts] > self.edges) * _BIN_SCALE
        return sparse.hstack([*terms, sparse.csr_matrix(bins)]).tocsr()

    def weights(self, fitted: Any) -> Linear:
        coefficients: Floats = fitted.coef_[0]
        ends = np.cumsum([len(seen) for seen in self.seen])
        *terms, bins = np.split(coefficients, ends)
        words, grams = (np.zeros(2**BITS, np.float32) for _ in terms)
        for weights, of_terms, seen, rarity in zip((words, grams), terms, self.seen, self.rarity, strict=True):
            weights[seen] = of_terms * rarity
        return Linear(words, grams, bins * _BIN_SCALE, float(fitted.intercept_[0]))


def _space(prompts: Prompts, rows: Rows) -> _Space:
    found = prompts.at(rows).features
    counts = np.array([one.counts for one in found])
    edge_counts: list[int] = []
    edges: list[float] = []
    for at in range(counts.shape[1]):
        inner = np.unique(np.quantile(counts[:, at], np.linspace(0, 1, _BINS + 1)[1:-1]))
        edge_counts += [at] * len(inner)
        edges += inner.tolist()
    (words, rare_words), (grams, rare_grams) = (
        _rarity([one.words for one in found]),
        _rarity([one.grams for one in found]),
    )
    return _Space((words, grams), (rare_words, rare_grams), np.array(edge_counts, np.int64), np.array(edges))


def _rarity(vectors: Sequence[Sparse]) -> tuple[Rows, Floats]:
    """The terms that were seen, and what each counts: the logarithm of how rare it is, scaled so that a prompt's vector
    has the length 1 on the mean.
    """
    times = np.bincount(np.concatenate([vector.indices for vector in vectors]), minlength=2**BITS)
    rarity = np.log((1 + len(vectors)) / (1 + times)) + 1
    squares = [float(((vector.values * rarity[vector.indices]) ** 2).sum()) for vector in vectors]
    seen = np.flatnonzero(times)
    return seen, rarity[seen] / max(np.sqrt(np.mean(squares)), 1e-12)


def _sparse(vectors: Sequence[Sparse]) -> Any:
    sparse: Any = importlib.import_module("scipy.sparse")
    ends = np.cumsum([0, *(len(vector.indices) for vector in vectors)])
    indices = np.concatenate([vector.indices for vector in vectors])
    values = np.concatenate([vector.values for vector in vectors])
    return sparse.csr_matrix((values, indices, ends), shape=(len(vectors), 2**BITS))


def _counts(prompts: Prompts) -> Floats:
    return np.array([one.counts for one in prompts.features])


def _fit_linear(matrix: Any, right: Floats, strength: float) -> Any:
    models: Any = importlib.import_module("sklearn.linear_model")
    return models.LogisticRegression(C=strength, solver="liblinear", random_state=0).fit(matrix, right)


def _fit_trees(counts: Floats, right: Floats, seed: int) -> Any:
    models: Any = importlib.import_module("sklearn.ensemble")
    return models.GradientBoostingClassifier(
        n_estimators=_TREES, max_depth=_DEPTH, learning_rate=_RATE, min_samples_leaf=_LEAF_ROWS, random_state=seed
    ).fit(counts, right)


def _read_trees(fitted: Any, right: Floats) -> Trees:
    """The trees of scikit-learn as arrays."""
    found = [one.tree_ for one in fitted.estimators_[:, 0]]
    nodes: int = max(tree.node_count for tree in found)
    shape = (len(found), nodes)
    feature, threshold, value = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
    left, right_child = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for at, tree in enumerate(found):
        count: int = tree.node_count
        leaf: NDArray[np.bool_] = tree.children_left < 0
        itself = np.arange(count)
        feature[at, :count] = np.where(leaf, 0, tree.feature)
        threshold[at, :count] = tree.threshold
        left[at, :count] = np.where(leaf, itself, tree.children_left)
        right_child[at, :count] = np.where(leaf, itself, tree.children_right)
        value[at, :count] = tree.value[:, 0, 0] * fitted.learning_rate
    share = float(right.mean())
    depth = max(tree.max_depth for tree in found)
    return Trees(feature, threshold, left, right_child, value, int(depth), float(np.log(share / (1 - share))))

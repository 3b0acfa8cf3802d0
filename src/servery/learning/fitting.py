"""Fit what trained scorers are made of, to texts whose answer is known. Needs the extra `train`.

An L2-regularised logistic regression over hashed n-grams (tf-idf) and binned counts, and boosted trees over the counts. How
strong the regularisation is, and how both are mixed, is for the caller to decide by what `unseen` says: parts of the texts
are left out in turn. Where groups are named (subjects, customers), whole groups are left out, so that what is learned is what
carries over to a group that was never seen.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from servery.learning.examples import Unusable
from servery.routing.learned import BITS, Bins, Features, Floats, Learned, Linear, Sparse, Trees

Tick = Callable[[], None]
Rows = NDArray[np.int64]

PARTS = 4
_BINS = 12
_TREES, _DEPTH, _RATE = 80, 3, 0.05
_FEW = 2_000  # texts, below which liblinear's dual finds the same weights ten times faster


class Recipe(msgspec.Struct, frozen=True):
    """How it is fitted. `strengths` to choose from are inverse: less of it is more regularisation; `mixes` weigh the logits
    of the linear look and of the trees; `bin_scale`: how freely the bins' weights may grow beside n-grams of length 1;
    `leaf_rows`: the fewest texts in a leaf.
    """

    strengths: tuple[float, ...]
    mixes: tuple[tuple[float, float], ...]
    bin_scale: float
    leaf_rows: int


class Texts(msgspec.Struct, frozen=True):
    """n texts as they are looked at, and the group of each, if there are any."""

    features: Sequence[Features]
    groups: tuple[str, ...] = ()

    def at(self, rows: Rows) -> Texts:
        """Some of them."""
        chosen: list[int] = rows.tolist()
        groups = tuple(self.groups[row] for row in chosen) if self.groups else ()
        return Texts([self.features[row] for row in chosen], groups)

    @property
    def counts(self) -> Floats:
        """Shape (n, c)."""
        return np.array([one.counts for one in self.features])


class Question(msgspec.Struct, frozen=True):
    """The answers to a question, 0 or 1 for each of n texts, and how much each counts; a weight of 0: it isn't known.

    Without `weights` all are known, and count alike.
    """

    answers: Floats
    weights: Floats | None = None

    def at(self, rows: Rows) -> Question:
        """For some of the texts."""
        return Question(self.answers[rows], None if self.weights is None else self.weights[rows])

    @property
    def known(self) -> Rows:
        """The texts whose answer is known."""
        return np.arange(len(self.answers)) if self.weights is None else np.flatnonzero(self.weights)


class Unseen(msgspec.Struct, frozen=True):
    """Logits of q questions for each text, by what never saw it: `linear` (q, strengths, n), and `trees` (q, n)."""

    linear: Floats
    trees: Floats


class Choice(msgspec.Struct, frozen=True):
    """One of a Recipe's strengths, by its place, and one of its mixes."""

    at: int
    mix: tuple[float, float]


def parts(texts: Texts, count: int, seed: int) -> list[tuple[Rows, Rows]]:
    """(rows to learn from, rows to judge by), so often, or less often where there are fewer groups.

    A group is never in both. Unusable where there is but one.
    """
    rng = np.random.default_rng(seed)
    if texts.groups:
        names, member = np.unique(np.array(texts.groups), return_inverse=True)
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
        of_row = np.arange(len(texts.features)) % count
        rng.shuffle(of_row)
    return [(np.flatnonzero(of_row != part), np.flatnonzero(of_row == part)) for part in range(count)]


def unseen(texts: Texts, questions: Sequence[Question], recipe: Recipe, seed: int, tick: Tick) -> Unseen:
    """The logits of texts left out of the fit."""
    rows, counts = len(texts.features), texts.counts
    linear, trees = np.zeros((len(questions), len(recipe.strengths), rows)), np.zeros((len(questions), rows))
    for learn, judge in parts(texts, PARTS, seed):
        known = texts.at(learn)
        space = _space(known, recipe.bin_scale)
        matrix, others = space.matrix(known), space.matrix(texts.at(judge))
        for which, question in enumerate(questions):
            told = question.at(learn)
            if len(set(told.answers[told.known])) < 2:
                raise Unusable(
                    "in some part of the examples all answers are right, or all wrong, so that nothing can be learned "
                    "there: give more of them, or fewer --folds"
                )
            for at, strength in enumerate(recipe.strengths):
                linear[which, at, judge] = _fit_linear(matrix, told, strength).decision_function(others)
            fitted = _fit_trees(counts[learn], told, recipe.leaf_rows, seed)
            trees[which, judge] = fitted.decision_function(counts[judge])
        tick()
    return Unseen(linear, trees)


def chosen(found: Unseen, recipe: Recipe, worth: Callable[[Floats], float]) -> tuple[Choice, Floats]:
    """The Choice whose logits, shape (q, n), are worth most; and these."""
    tried = [
        (Choice(at, mix), mix[0] * found.linear[:, at] + mix[1] * found.trees)
        for at in range(len(recipe.strengths))
        for mix in recipe.mixes
    ]
    return max(tried, key=lambda one: worth(one[1]))


def fit(
    texts: Texts, questions: Sequence[Question], recipe: Recipe, strength: float, seed: int, tick: Tick
) -> tuple[Bins, list[Learned]]:
    """What all texts teach about each question, and the bins over their counts."""
    space = _space(texts, recipe.bin_scale)
    matrix, counts = space.matrix(texts), texts.counts
    learned = [
        Learned(
            space.weights(_fit_linear(matrix, question, strength)),
            _read_trees(_fit_trees(counts, question, recipe.leaf_rows, seed), question),
        )
        for question in questions
    ]
    tick()
    return space.bins, learned


class _Space(msgspec.Struct, frozen=True):
    """How features become a row of numbers: n-grams that were seen, by how rare they are, and the bins of counts."""

    seen: tuple[Rows, Rows]
    rarity: tuple[Floats, Floats]
    bins: Bins
    bin_scale: float

    def matrix(self, texts: Texts) -> Any:
        sparse: Any = importlib.import_module("scipy.sparse")
        looks = ([one.words for one in texts.features], [one.grams for one in texts.features])
        terms = [
            _sparse(look)[:, seen] @ sparse.diags(rarity)
            for look, seen, rarity in zip(looks, self.seen, self.rarity, strict=True)
        ]
        bins = (texts.counts[:, self.bins.counts] > self.bins.edges) * self.bin_scale
        return sparse.hstack([*terms, sparse.csr_matrix(bins)]).tocsr()

    def weights(self, fitted: Any) -> Linear:
        coefficients: Floats = fitted.coef_[0]
        ends = np.cumsum([len(seen) for seen in self.seen])
        *terms, bins = np.split(coefficients, ends)
        words, grams = (np.zeros(2**BITS, np.float32) for _ in terms)
        for weights, of_terms, seen, rarity in zip((words, grams), terms, self.seen, self.rarity, strict=True):
            weights[seen] = of_terms * rarity
        return Linear(words, grams, bins * self.bin_scale, float(fitted.intercept_[0]))


def _space(texts: Texts, bin_scale: float) -> _Space:
    counts = texts.counts
    edge_counts: list[int] = []
    edges: list[float] = []
    for at in range(counts.shape[1]):
        inner = np.unique(np.quantile(counts[:, at], np.linspace(0, 1, _BINS + 1)[1:-1]))
        edge_counts += [at] * len(inner)
        edges += inner.tolist()
    (words, rare_words), (grams, rare_grams) = (
        _rarity([one.words for one in texts.features]),
        _rarity([one.grams for one in texts.features]),
    )
    bins = Bins(np.array(edge_counts, np.int64), np.array(edges))
    return _Space((words, grams), (rare_words, rare_grams), bins, bin_scale)


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


def _fit_linear(matrix: Any, question: Question, strength: float) -> Any:
    models: Any = importlib.import_module("sklearn.linear_model")
    right, weights, known = _told(question)
    few = len(right) < _FEW
    return models.LogisticRegression(
        C=strength, solver="liblinear", dual=few, max_iter=1000 if few else 100, random_state=0
    ).fit(matrix if weights is None else matrix[known], right, weights)


def _fit_trees(counts: Floats, question: Question, leaf_rows: int, seed: int) -> Any:
    models: Any = importlib.import_module("sklearn.ensemble")
    right, weights, known = _told(question)
    return models.GradientBoostingClassifier(
        n_estimators=_TREES, max_depth=_DEPTH, learning_rate=_RATE, min_samples_leaf=leaf_rows, random_state=seed
    ).fit(counts if weights is None else counts[known], right, weights)


def _told(question: Question) -> tuple[Floats, Floats | None, Rows]:
    """The answers that are known, their weights (on the mean 1, so that a regularisation means the same), and which they are."""
    known = question.known
    if question.weights is None:
        return question.answers, None, known
    weights = question.weights[known]
    return question.answers[known], weights / weights.mean(), known


def _read_trees(fitted: Any, question: Question) -> Trees:
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
    right, weights, _ = _told(question)
    share = float(np.average(right, weights=weights))
    depth = max(tree.max_depth for tree in found)
    return Trees(feature, threshold, left, right_child, value, int(depth), float(np.log(share / (1 - share))))

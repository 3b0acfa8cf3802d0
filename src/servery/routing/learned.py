"""What trained scorers of text are made of: what is looked at, and what was learned of it. Pure.

Two looks at a text: a linear one at hashed n-grams of words and bytes and at binned counts, and a boosted ensemble of small
trees at the counts. What both say is a logit; a scorer mixes them (stacking; Wolpert 1992, Neural Networks 5). What is
counted is the scorer's own: `complexity` counts what is in a prompt, `verifier` what is in an answer.
"""

from __future__ import annotations

import math
import re
import zlib

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]
Indices = NDArray[np.int64]

BITS = 18

_WORD = re.compile(r"\w+")
# Odd constants that spread the products of small numbers over 64 bits.
_MIX = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F], np.uint64
)
_LAST = np.uint64(0xE7037ED1A0B428DB)
_FOLD, _SHIFT = np.uint64(29), np.uint64(64 - BITS)


class Sparse(msgspec.Struct, frozen=True):
    """A vector of 2**BITS numbers of length 1, of which these differ from zero. Both arrays have one shape, (n,)."""

    indices: Indices
    values: Floats


class Features(msgspec.Struct, frozen=True):
    """What is looked at of a text; `counts` has one shape, (c,), for all texts of a scorer."""

    words: Sparse
    grams: Sparse
    counts: Floats


class Bins(msgspec.Struct, frozen=True):
    """`edges` (b,) bound the bins, of the count that `counts` (b,) names."""

    counts: Indices
    edges: Floats

    def above(self, counts: Floats) -> NDArray[np.bool_]:
        """Which edges these counts are above, shape (b,)."""
        return counts[self.counts] > self.edges


class Trees(msgspec.Struct, frozen=True):
    """An ensemble of t trees with up to n nodes each: arrays of shape (t, n). A leaf's children are itself."""

    feature: Indices
    threshold: Floats
    left: Indices
    right: Indices
    value: Floats
    depth: int
    base: float

    def logit(self, counts: Floats) -> float:
        """What the trees say, as a logit."""
        rows = np.arange(len(self.feature))
        at = np.zeros(len(rows), np.int64)
        for _ in range(self.depth):
            less = counts[self.feature[rows, at]] <= self.threshold[rows, at]
            at = np.where(less, self.left[rows, at], self.right[rows, at])
        return self.base + float(self.value[rows, at].sum())


class Linear(msgspec.Struct, frozen=True):
    """Weights of the n-grams (2**BITS each), and of the counts' bins (b,)."""

    words: Weights
    grams: Weights
    bins: Floats
    bias: float

    def logit(self, features: Features, bins: NDArray[np.bool_]) -> float:
        """What the linear model says, as a logit."""
        words, grams = features.words, features.grams
        said = self.words[words.indices] @ words.values + self.grams[grams.indices] @ grams.values
        return self.bias + float(said) + float(self.bins[bins].sum())


class Learned(msgspec.Struct, frozen=True):
    """What was learned of one question that is answered by yes or no: both looks."""

    linear: Linear
    trees: Trees

    def logit(self, features: Features, bins: NDArray[np.bool_], mix: tuple[float, float]) -> float:
        """What both say, weighed by `mix`: the linear look, and the trees."""
        return mix[0] * self.linear.logit(features, bins) + mix[1] * self.trees.logit(features.counts)


def sigmoid(logit: float) -> float:
    """A logit's probability; it doesn't overflow."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def words_of(lower: str) -> list[str]:
    """The words of a text in lower case."""
    return _WORD.findall(lower)


def hashed_words(words: list[str]) -> Sparse:
    """Words and pairs of neighbours."""
    hashes = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], np.uint64)
    return _sparse([_hashed(hashes * _MIX[0]), _hashed(hashes[:-1] * _MIX[1] + hashes[1:] * _MIX[2])])


def hashed_grams(lower: str, shortest: int, longest: int) -> Sparse:
    """Runs of so many bytes, at most len(_MIX); white space counts as one blank."""
    text = np.frombuffer(f" {' '.join(lower.split())} ".encode("utf-8", "replace"), np.uint8).astype(np.uint64)
    found: list[NDArray[np.int32]] = []
    run = text * _MIX[0]
    for length in range(2, min(longest, len(text)) + 1):
        run = run[:-1] + text[length - 1 :] * _MIX[length - 1]
        if length >= shortest:
            found.append(_hashed(run + np.uint64(length)))
    return _sparse(found)


def _hashed(mixed: NDArray[np.uint64]) -> NDArray[np.int32]:
    return (((mixed ^ (mixed >> _FOLD)) * _LAST) >> _SHIFT).astype(np.int32)


def _sparse(found: list[NDArray[np.int32]]) -> Sparse:
    """Terms that are there often count by their logarithm, and the vector has the length 1."""
    terms = np.concatenate(found or [np.empty(0, np.int32)])
    terms.sort()
    first = np.ones(len(terms), bool)
    np.not_equal(terms[1:], terms[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    values = 1 + np.log(np.diff(starts, append=len(terms)))
    return Sparse(terms[starts].astype(np.int64), values / max(math.sqrt(float(values @ values)), 1e-12))

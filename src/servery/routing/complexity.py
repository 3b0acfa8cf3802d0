"""How much better a strong model would answer a prompt than a cheap one, foretold from the prompt's text alone.

Two looks at the text, for each model: a linear one at hashed n-grams of words and bytes and at binned counts, and a
boosted ensemble of small trees at the counts. What they say is mixed, and set to the scale of what was seen to be
gained, on prompts that neither had been trained on (stacking; Wolpert 1992, Neural Networks 5). A score takes some
0.2 ms and no call of a model. `learning.train` makes Scorers.
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
MOST_CHARS = 16_384  # of a prompt; what follows is not looked at, so that a score takes a bounded time
SHORTEST, LONGEST = 3, 5  # n-grams of bytes
COUNTS = (
    "characters", "words", "lines", "first line", "longest other line", "shortest other line", "mean other line",
    "spread of other lines", "letters a word", "distinct words", "share of digits", "numbers", "share of capitals",
    "capitalised words", "commas", "full stops", "question marks", "brackets", "signs of mathematics", "quotes",
    "negations", "asks for a fact", "asks for a reason", "a gap to fill", "long words", "bytes beyond ASCII",
)  # fmt: skip

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")
_CAPITALISED = re.compile(r"[A-Z][a-z]+")
_NEGATIONS = frozenset(("not", "except", "no", "never", "false", "incorrect"))
_FACTS = frozenset(("which", "what", "who", "where", "when"))
_REASONS = frozenset(("why", "how", "explain", "prove"))
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
    """What is looked at of a prompt; `counts` has the shape (len(COUNTS),)."""

    words: Sparse
    grams: Sparse
    counts: Floats


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
    """What is known of one model: both looks at whether it answers rightly."""

    linear: Linear
    trees: Trees


class Scorer(msgspec.Struct, frozen=True):
    """A trained router. `edges` (b,) bound the bins, of the count that `edge_counts` (b,) names.

    `mix`: the weights of the linear look and of the trees. `scale`: what a difference of chances is multiplied with,
    and what is added, to make it a gain.
    """

    edge_counts: Indices
    edges: Floats
    cheap: Learned
    strong: Learned
    mix: tuple[float, float]
    scale: tuple[float, float]

    def gain(self, prompt: str) -> float:
        """The difference in quality to expect between the strong model's answer and the cheap one's, -1 to 1."""
        return self.gain_of(features_of(prompt))

    def gain_of(self, features: Features) -> float:
        """The same, for a prompt that was looked at already."""
        bins = features.counts[self.edge_counts] > self.edges
        cheap, strong = (
            self.mix[0] * learned.linear.logit(features, bins) + self.mix[1] * learned.trees.logit(features.counts)
            for learned in (self.cheap, self.strong)
        )
        return max(-1.0, min(1.0, self.scale[0] * (sigmoid(strong) - sigmoid(cheap)) + self.scale[1]))


def sigmoid(logit: float) -> float:
    """A logit's probability; it doesn't overflow."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def features_of(prompt: str) -> Features:
    """What is looked at of a prompt's first MOST_CHARS characters; any text will do, also none."""
    prompt = prompt[:MOST_CHARS]
    lower = prompt.lower()
    words = _WORD.findall(lower)
    return Features(_words(words), _grams(lower), _counts(prompt, words))


def _words(words: list[str]) -> Sparse:
    """Words and pairs of neighbours."""
    hashes = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], np.uint64)
    return _sparse([_hashed(hashes * _MIX[0]), _hashed(hashes[:-1] * _MIX[1] + hashes[1:] * _MIX[2])])


def _grams(lower: str) -> Sparse:
    """Runs of SHORTEST to LONGEST bytes; white space counts as one blank."""
    text = np.frombuffer(f" {' '.join(lower.split())} ".encode("utf-8", "replace"), np.uint8).astype(np.uint64)
    found: list[Indices] = []
    run = text * _MIX[0]
    for length in range(2, min(LONGEST, len(text)) + 1):
        run = run[:-1] + text[length - 1 :] * _MIX[length - 1]
        if length >= SHORTEST:
            found.append(_hashed(run + np.uint64(length)))
    return _sparse(found)


def _hashed(mixed: NDArray[np.uint64]) -> Indices:
    return (((mixed ^ (mixed >> _FOLD)) * _LAST) >> _SHIFT).astype(np.int64)


def _sparse(found: list[Indices]) -> Sparse:
    """Terms that are there often count by their logarithm, and the vector has the length 1."""
    indices, times = np.unique(np.concatenate(found or [np.empty(0, np.int64)]), return_counts=True)
    values = 1 + np.log(times)
    return Sparse(indices, values / max(math.sqrt(float(values @ values)), 1e-12))


def _counts(prompt: str, words: list[str]) -> Floats:
    """The COUNTS of a prompt; long tails by their logarithm."""
    raw = prompt.encode("utf-8", "replace")
    seen = np.bincount(np.frombuffer(raw, np.uint8), minlength=256)
    lines = [len(line) for line in prompt.split("\n") if line.strip()]
    rest = lines[1:] or [0]
    mean = sum(rest) / len(rest)
    spread = math.sqrt(sum((length - mean) ** 2 for length in rest) / len(rest))
    known, all_words, size = set(words), max(len(words), 1), max(len(raw), 1)
    lengths = [len(word) for word in words]
    log = math.log1p
    return np.array(
        [
            log(len(prompt)), log(len(words)), log(len(lines)), log(lines[0] if lines else 0), log(max(rest)),
            log(min(rest)), log(mean), log(spread), sum(lengths) / all_words, len(known) / all_words,
            seen[48:58].sum() / size, log(len(_NUMBER.findall(prompt))), seen[65:91].sum() / size,
            log(len(_CAPITALISED.findall(prompt))), log(seen[44]), log(seen[46]), log(seen[63]), log(seen[40]),
            log(sum(int(seen[sign]) for sign in b"+-*/=^<>%$\\")), log(seen[34] + seen[39]),
            not known.isdisjoint(_NEGATIONS), not known.isdisjoint(_FACTS), not known.isdisjoint(_REASONS),
            bool(seen[95]), sum(length > 8 for length in lengths) / all_words, log(seen[128:].sum()),
        ],
        np.float32,  # as the trees were trained
    ).astype(np.float64)  # fmt: skip

"""How much better a strong model would answer a prompt than a cheap one, foretold from the prompt's text alone.

What is learned of each model is whether it answers rightly. The difference is set to the scale of what was seen to be
gained, on prompts that neither had been trained on. A score takes some 0.2 ms and no call of a model. `learning.train`
makes Scorers.
"""

from __future__ import annotations

import math
import re

import msgspec
import numpy as np

from servery.routing.learned import Bins, Features, Floats, Learned, hashed_grams, hashed_words, sigmoid, words_of

MOST_CHARS = 16_384  # of a prompt; what follows is not looked at, so that a score takes a bounded time
COUNTS = (
    "characters", "words", "lines", "first line", "longest other line", "shortest other line", "mean other line",
    "spread of other lines", "letters a word", "distinct words", "share of digits", "numbers", "share of capitals",
    "capitalised words", "commas", "full stops", "question marks", "brackets", "signs of mathematics", "quotes",
    "negations", "asks for a fact", "asks for a reason", "a gap to fill", "long words", "bytes beyond ASCII",
)  # fmt: skip

_GRAMS = (3, 5)  # bytes
_NUMBER = re.compile(r"\d+")
_CAPITALISED = re.compile(r"[A-Z][a-z]+")
_NEGATIONS = frozenset(("not", "except", "no", "never", "false", "incorrect"))
_FACTS = frozenset(("which", "what", "who", "where", "when"))
_REASONS = frozenset(("why", "how", "explain", "prove"))


class Scorer(msgspec.Struct, frozen=True):
    """A trained router. `mix`: the weights of the linear look and of the trees. `scale`: what a difference of chances is
    multiplied with, and what is added, to make it a gain.
    """

    bins: Bins
    cheap: Learned
    strong: Learned
    mix: tuple[float, float]
    scale: tuple[float, float]

    def gain(self, prompt: str) -> float:
        """The difference in quality to expect between the strong model's answer and the cheap one's, -1 to 1."""
        return self.gain_of(features_of(prompt))

    def gain_of(self, features: Features) -> float:
        """The same, for a prompt that was looked at already."""
        cheap, strong = self.chances_of(features)
        return max(-1.0, min(1.0, self.scale[0] * (strong - cheap) + self.scale[1]))

    def chances_of(self, features: Features) -> tuple[float, float]:
        """How likely the cheap model, and the strong one, answers rightly; not to scale."""
        bins = self.bins.above(features.counts)
        return sigmoid(self.cheap.logit(features, bins, self.mix)), sigmoid(self.strong.logit(features, bins, self.mix))


def features_of(prompt: str) -> Features:
    """What is looked at of a prompt's first MOST_CHARS characters; any text will do, also none."""
    prompt = prompt[:MOST_CHARS]
    lower = prompt.lower()
    words = words_of(lower)
    return Features(hashed_words(words), hashed_grams(lower, *_GRAMS), _counts(prompt, words))


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

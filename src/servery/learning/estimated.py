"""What both models would have answered, where only one of them was asked: estimates that are right on the mean.

A prompt whose model was drawn says something of that model only, and of prompts like it as many times as one divided by the
probability of the draw. What is foretold for it fills in for the rest, and is put right by what was seen (the doubly robust
estimate: Robins, Rotnitzky & Zhao 1994; for policies Dudík, Langford & Li 2011, arXiv 1103.4601). It is unbiased whatever was
foretold, as long as the probabilities are right and what was foretold of a prompt was learned from others; the better that is, the
less it scatters. Single estimates may lie far outside of 0 and 1: only sums of them mean something.
"""

from __future__ import annotations

import msgspec
import numpy as np

from servery.learning.examples import Unusable
from servery.learning.judged import Floats, Judged
from servery.stats.intervals import Interval


class Asked(msgspec.Struct, frozen=True):
    """How much each of n prompts says of a model: one divided by the probability with which it was asked, 0 where it wasn't."""

    cheap: Floats
    strong: Floats


def estimated(judged: Judged, asked: Asked, chances: Floats) -> Judged:
    """Estimates of both answers; `chances`, shape (2, n), were foretold by what hadn't seen the prompt."""
    cheap, strong = chances
    return Judged(cheap + asked.cheap * (judged.cheap - cheap), strong + asked.strong * (judged.strong - strong))


def worth_of(weights: Floats) -> float:
    """As many prompts that count alike would say as much (Kish's effective sample size)."""
    return float(weights.sum() ** 2 / max(float((weights**2).sum()), 1e-12))


def mean_of(values: Floats) -> tuple[float, Interval]:
    """The mean of estimates, and its 95 % interval by the normal approximation."""
    mean, half = float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return mean, Interval(mean - half, mean + half)


def check_gap(judged: Judged) -> None:
    """Whether the strong model is shown to be better. Unusable says how far from it."""
    gap, between = mean_of(judged.gain)
    if between.low > 0:
        return
    told = f"the strong model is ahead by {100 * gap:.1f} points ({100 * between.low:.1f} to {100 * between.high:.1f}, 95 %)"
    if between.high <= 0:
        raise Unusable(f"{told}: it is worse; send everything to the cheap one, or exchange --cheap and --strong")
    if gap <= 0:
        raise Unusable(f"{told}: no gap between the two is to be seen; more judged Records may show one")
    times = ((between.high - gap) / gap) ** 2
    raise Unusable(
        f"{told}: there may be no gap; about {np.ceil(times * judged.rows):,.0f} such Records would show one of that size"
    )

"""From which confidence on an answer stands, so that there is what is wanted; and what that gives."""

from __future__ import annotations

import msgspec
import numpy as np

from servery.learning.answers import JudgedAnswers
from servery.learning.choosing import Choice, threshold_for, threshold_for_share
from servery.learning.examples import Unusable
from servery.learning.judged import Floats
from servery.stats.intervals import Interval, wilson

DIGITS = 4  # of a confidence, as it is written into a manifest


class Wanted(msgspec.Struct, frozen=True):
    """What is wanted; one of them is given: the share of prompts that go on to the next tier, the part of the gap to recover,
    or how many of the answers that stand are to be right.
    """

    share: float | None = None
    recover: float | None = None
    right: float | None = None


class Accepted(msgspec.Struct, frozen=True):
    """What a confidence gives: `share` of the prompts go on; of the answers that stand `right` are (95 %: `right_95`).

    `all_right`: of all prompts, with what the strong model answers; None where that isn't known.
    """

    confidence: float
    share: float
    right: float
    right_95: Interval | None
    all_right: float | None


def confidence_for(chance: Floats, answers: JudgedAnswers, wanted: Wanted) -> float:
    """Answers with this chance or more stand, 0 to 1. Unusable where nothing gives what is wanted."""
    if wanted.right is not None:
        return _right_enough(chance, answers.right, wanted.right)
    judged = answers.judged
    if judged is None and wanted.share is None:
        raise Unusable("what the strong model answers rightly isn't known: name its column as --strong")
    if judged is None:
        return _rounded(-threshold_for_share(-chance, wanted.share or 0.0))
    return _rounded(-threshold_for(-chance, judged, Choice(wanted.share, wanted.recover)))


def _right_enough(chance: Floats, right: Floats, wanted: float) -> float:
    """The lowest confidence whose answers are right so often."""
    order = np.argsort(-chance, kind="stable")
    falling = chance[order]
    shares = np.cumsum(right[order]) / np.arange(1, len(right) + 1)
    ends = np.append(falling[1:] < falling[:-1], True)  # answers with one chance stand together
    enough = np.flatnonzero(ends & (shares >= wanted))
    if not len(enough):
        raise Unusable(f"there is no confidence from which on {100 * wanted:g} % of the answers are right")
    last = int(enough[-1])
    return 0.0 if last + 1 == len(falling) else _rounded(float(falling[last] + falling[last + 1]) / 2)


def _rounded(confidence: float) -> float:
    return round(min(1.0, max(0.0, confidence)), DIGITS)


def accepted(chance: Floats, answers: JudgedAnswers, confidence: float) -> Accepted:
    """What this confidence gives on these answers."""
    stands = chance >= confidence
    hits, count = int(answers.right[stands].sum()), int(stands.sum())
    everything = None if answers.strong is None else float(np.where(stands, answers.right, answers.strong).mean())
    right = hits / count if count else float("nan")
    return Accepted(confidence, 1 - count / len(chance), right, wilson(hits, count), everything)

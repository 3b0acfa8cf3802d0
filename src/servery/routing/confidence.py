"""How sure a Model is of each row, from the output that declares it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from servery.terms.manifest import Confidence
from servery.terms.request import Array


def confidences(output: Array, declared: Confidence, rows: int) -> Sequence[float] | None:
    """One number per row of an output of shape [rows, classes], [rows] or [rows, 1]; None where it has no such shape.

    `max` is the largest value of a row and `margin` the largest less the second largest, after a softmax where
    the output holds logits. A NaN is never sure: it compares false with every threshold.
    """
    if output.ndim not in (1, 2) or output.shape[0] != rows:
        return None
    scores = output if output.ndim == 2 else output[:, np.newaxis]
    if scores.shape[1] < (1 if declared.source == "max" else 2):
        return None
    if rows == 0:
        return []
    if declared.source == "max" and not declared.softmax:
        if rows == 1:
            values = scores[0].tolist()
            if not math.isnan(sum(values)):  # Python's max may pass over a NaN, numpy's doesn't
                return [max(values)]
        return scores.max(axis=1).tolist()
    with np.errstate(all="ignore"):  # infinities end as NaN, which is never sure
        if declared.softmax:
            shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = shifted / shifted.sum(axis=1, keepdims=True)
        if declared.source == "max":
            return scores.max(axis=1).tolist()
        top = np.partition(scores, -2, axis=1)[:, -2:]
        return np.subtract(top[:, 1], top[:, 0]).tolist()

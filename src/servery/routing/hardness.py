"""How hard a prompt looks, from 0 to 1, without anything learned: its length, on a logarithmic scale.

Counting numbers, code, questions and words that ask for reasons made it worse on both sets of labelled prompts that it was
tried on (MMLU and GSM8K), so it counts nothing else.
"""

from __future__ import annotations

import math

_DOUBLINGS = 16  # of four characters, until a prompt is as hard as can be: 262,140


def hardness(prompt: str) -> float:
    """0.25 for 60 characters, 0.5 for 1,020, 0.75 for 16,380; 1 from 262,140 on."""
    return min(math.log2(1 + len(prompt) / 4) / _DOUBLINGS, 1.0)

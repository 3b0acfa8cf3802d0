"""What is looked at of an answer to a prompt, so that it can be told how likely it is right. Pure, and in bounded time.

Counts of the answer by itself (length, repetition, doubts, whether it ends), of its arithmetic computed again, and of how
its numbers and words relate to the prompt's; beside them hashed n-grams of the answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec
import numpy as np

from servery.routing.arithmetic import Equation, figures, numbers
from servery.routing.learned import Features, hashed_grams, hashed_words, words_of

MOST_CHARS = 8_192  # of an answer, and of its prompt MOST_OF_PROMPT: the last ones, for what matters most ends both
MOST_OF_PROMPT = 4_096
COUNTS = (
    "characters", "words", "lines", "last line", "distinct words", "repeated lines", "brackets", "doubts", "refuses", "ends",
    "breaks off", "share of words in the prompt", "prompt's characters", "prompt's words", "length beside the prompt's",
    "numbers", "prompt's numbers", "prompt's numbers unused", "share of them used", "equations beyond them",
    "equations", "wrong", "share of wrong", "inexact", "fractional results", "negative results", "largest result",
    "results in the prompt", "unfounded operands", "share of unfounded operands",
    "has a final number", "it is marked", "it is a result", "it is the last result", "it is whole", "it is in the prompt",
    "it is said before", "its size",
)  # fmt: skip

_GRAMS = (4, 4)  # bytes
_NUMBER = re.compile(r"\d+(?:,\d\d\d)*(?:\.\d+)?")
_MARKS = ("####", "\\boxed{", "answer is", "answer:")
_MARK_CHARS = 80  # behind a mark, in which the number has to stand
_ENDS = frozenset(".!?)}]>\"'`*")
_DOUBTS = frozenset(
    (
        "however", "but", "assume", "assuming", "unclear", "mistake", "error", "actually", "approximately", "about", "maybe",
        "perhaps", "possibly", "possible", "impossible", "hypothetical", "note", "rounded", "round", "unless", "seems", "since",
        "likely", "incorrect", "confusion", "enough", "information", "wait", "probably", "might", "closest",
    )
)  # fmt: skip
_REFUSALS = frozenset(("sorry", "cannot", "unable", "unfortunately", "apologize", "apologies"))
_NAMED = {
    "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0, "six": 6.0, "seven": 7.0, "eight": 8.0, "nine": 9.0, "ten": 10.0,
    "eleven": 11.0, "twelve": 12.0, "fifteen": 15.0, "twenty": 20.0, "thirty": 30.0, "forty": 40.0, "fifty": 50.0, "hundred": 100.0,
    "thousand": 1000.0, "half": 2.0, "third": 3.0, "thirds": 3.0, "quarter": 4.0, "quarters": 4.0, "fourth": 4.0, "fifth": 5.0,
    "twice": 2.0, "double": 2.0, "doubled": 2.0, "thrice": 3.0, "triple": 3.0, "tripled": 3.0, "dozen": 12.0, "couple": 2.0,
    "pair": 2.0, "pairs": 2.0, "both": 2.0,
}  # fmt: skip
# Numbers that need no reason: small ones, and those of clocks, calendars and percents.
_KNOWN = frozenset(
    (0.0, 0.01, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 12.0, 24.0, 30.0, 52.0, 60.0, 100.0, 365.0, 1000.0)
)
_DIGITS = 9  # behind the point, of what was computed: it may be off by the last bits


def features_of(prompt: str, answer: str) -> Features:
    """What is looked at; any texts will do, also none."""
    answer, prompt = answer[-MOST_CHARS:], prompt[-MOST_OF_PROMPT:]
    lower = answer.lower()
    words, asked = words_of(lower), words_of(prompt.lower())
    given = set(numbers(prompt))
    of_text = _of_text(answer, words, len(prompt), asked)
    of_numbers = _of_numbers(answer, lower, given, {_NAMED[word] for word in asked if word in _NAMED})
    # The trees were trained on numbers of 32 bits.
    counts = np.array((*of_text, *of_numbers), np.float32).astype(np.float64)
    return Features(hashed_words(words), hashed_grams(lower, *_GRAMS), counts)


def _of_text(answer: str, words: Sequence[str], prompt_chars: int, asked: Sequence[str]) -> tuple[float, ...]:
    lines = [line for line in answer.split("\n") if line and not line.isspace()]
    known, end, log = set(words), answer.rstrip()[-1:], math.log1p
    return (
        log(len(answer)),
        log(len(words)),
        log(len(lines)),
        log(len(lines[-1]) if lines else 0),
        len(known) / max(len(words), 1),
        log(len(lines) - len(set(lines))),
        log(answer.count("(")),
        log(sum([word in _DOUBTS for word in words])),
        not known.isdisjoint(_REFUSALS),
        end in _ENDS or end.isdecimal(),
        answer.count("<<") != answer.count(">>") or answer.count("```") % 2 == 1,
        len(known.intersection(asked)) / max(len(known), 1),
        log(prompt_chars),
        log(len(asked)),
        log(len(answer) / max(prompt_chars, 1)),
    )


def _of_numbers(answer: str, lower: str, given: set[float], named: set[float]) -> tuple[float, ...]:
    """What is computed, from what, and what it comes to.

    `lower` is the answer in lower case; `given` are the prompt's numbers, `named` those that it writes in words.
    """
    found = figures(answer)
    said, results = found.numbers, [one.stated for one in found.equations]
    wrong, inexact = 0, 0
    for one in found.equations:
        if not one.exact:
            inexact += 1
            wrong += not one.holds
    unfounded, operands = _unfounded(found.equations, given | named)
    used, count, log = len(given.intersection(said)), len(results), math.log1p
    return (
        log(len(said)),
        log(len(given)),
        log(len(given) - used),
        used / max(len(given), 1),
        max(-8, min(8, count - len(given))),
        log(count),
        log(wrong),
        wrong / max(count, 1),
        log(inexact),
        log(sum([result % 1 != 0 for result in results])),
        log(sum([result < 0 for result in results])),
        log(max(map(abs, results), default=0.0)),
        log(sum([result in given for result in results])),
        log(unfounded),
        unfounded / max(operands, 1),
        *_of_final(_final(lower, said), results, given, said),
    )


def _unfounded(stated: Sequence[Equation], given: set[float]) -> tuple[int, int]:
    """(operands that are neither the prompt's, nor results of equations before, nor known to all; all operands)."""
    founded = given | _KNOWN
    missing = count = 0
    for one in stated:
        for operand in one.operands:
            missing += operand not in founded and round(100 * operand, _DIGITS) not in founded
        count += len(one.operands)
        founded.add(one.stated)
        founded.add(round(one.value, _DIGITS))
    return missing, count


class _Final(msgspec.Struct, frozen=True):
    """The number that an answer ends with."""

    value: float
    marked: bool


def _final(lower: str, said: Sequence[float]) -> _Final | None:
    """The first number behind the last mark of a final answer; else the last one of all."""
    at, mark = max([(lower.rfind(mark), mark) for mark in _MARKS])
    end = at + len(mark)
    if at >= 0 and (found := _NUMBER.search(lower, end, end + _MARK_CHARS)) is not None:
        return _Final(float(found.group().replace(",", "")[:40]), True)
    return _Final(said[-1], False) if said else None


def _of_final(
    final: _Final | None, results: Sequence[float], given: set[float], said: Sequence[float]
) -> tuple[float, ...]:
    if final is None:
        return (0.0,) * 8
    value = final.value
    return (
        1.0,
        final.marked,
        value in results,
        bool(results) and value == results[-1],
        value % 1 == 0,
        value in given,
        said.count(value) > 1,
        math.log1p(value),
    )

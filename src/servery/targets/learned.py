"""What a model's answers have taught: how many characters make a token, and how long an answer takes. Owned by one event
loop.
"""

from __future__ import annotations

import math
from collections import deque

from servery.terms.text import Tokens

_AT_FIRST = 4.0  # characters of English prose in a token of most vocabularies
_WEIGHT = 0.05  # of the newest call, once there are enough; the first ones count alike
_LEAST, _MOST = 0.25, 32.0  # beyond these a vendor's figures are not believed
_OUTPUT_AT_FIRST = 256.0
_KEPT = 256  # durations
_FEW = 20  # fewer say nothing of a tail
_SORT_AFTER = 16  # durations are sorted again when so many are new
# What is older says nothing: a model that isn't asked, because it was slow, may be fast again.
_AGE_NS = 60_000_000_000


class Recent:
    """The last durations of one kind, in ns. Times are steady ns."""

    __slots__ = ("_new", "_seen", "_sorted")

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque(maxlen=_KEPT)  # when, and how long
        self._sorted: list[int] = []
        self._new = 0

    def add(self, took_ns: int, now_ns: int) -> None:
        self._seen.append((now_ns, took_ns))
        self._new += 1

    def quantile(self, share: float, now_ns: int, few: int = _FEW) -> int:
        """The duration that this share of them doesn't exceed; 0 while fewer than `few` are known."""
        seen = self._seen
        while seen and seen[0][0] < now_ns - _AGE_NS:
            seen.popleft()
            self._new += 1
        if len(seen) < few:
            return 0
        if self._new >= _SORT_AFTER or not self._sorted:
            self._sorted = sorted([took_ns for _, took_ns in seen])
            self._new = 0
        return self._sorted[min(math.ceil(share * len(self._sorted)), len(self._sorted)) - 1]


class Learned:
    """One model's. `first` are times to the first word of a stream, `whole` those to the end of an answer."""

    __slots__ = ("_answer", "_calls", "_input", "_output", "first", "whole")

    def __init__(self) -> None:
        self._input, self._output = _Ratio(), _Ratio()
        self._answer = _OUTPUT_AT_FIRST
        self._calls = 0
        self.first = Recent()
        self.whole = Recent()

    def learn(self, prompt_chars: int, answer_chars: int, tokens: Tokens) -> None:
        """A vendor has said what a call took."""
        self._calls += 1
        weight = max(_WEIGHT, 1 / self._calls)
        self._input.learn(prompt_chars, tokens.input, weight)
        self._output.learn(answer_chars, tokens.output - tokens.reasoning, weight)
        self._answer += weight * (tokens.output - self._answer)

    def tokens(self, prompt_chars: int, answer_chars: int) -> Tokens:
        """What a call took whose vendor didn't say: never nothing."""
        return Tokens(max(self._input.tokens(prompt_chars), 1), self._output.tokens(answer_chars))

    def forecast(self, prompt_chars: int, most: int) -> Tokens:
        """What a call may take: as long an answer as usual, or as long as it may be."""
        output = math.ceil(self._answer)
        return Tokens(max(self._input.tokens(prompt_chars), 1), min(output, most) if most else output)


class _Ratio:
    """Characters to a token: that of all texts together, so that a sum of estimates is right, though each text differs."""

    __slots__ = ("_chars", "_tokens")

    def __init__(self) -> None:
        self._chars, self._tokens = _AT_FIRST, 1.0

    def learn(self, chars: int, tokens: int, weight: float) -> None:
        if chars > 0 and tokens > 0:
            believed = min(max(tokens, chars / _MOST), chars / _LEAST)
            self._chars += weight * (chars - self._chars)
            self._tokens += weight * (believed - self._tokens)

    def tokens(self, chars: int) -> int:
        return math.ceil(chars * self._tokens / self._chars)

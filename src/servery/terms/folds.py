"""What is folded of Feedback, as values."""

from __future__ import annotations

import msgspec

from servery.terms.record import same

AGREEMENT = "agreement"  # of what was answered with what nobody was given: the share of a Request's rows


def measured_arm(arm: str) -> str:
    """Where what was measured of an arm's answers is folded: apart from what callers say of them under the same name."""
    return f"{arm}/measured"


class Told(msgspec.Struct):
    """Values of one name: how many, their sum, the sum of their squares, the least and the greatest (a flag is 0 or 1; text
    isn't counted); and how many there are beside predictions, of which `right` say the same.
    """

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = 0.0
    high: float = 0.0
    judged: int = 0
    right: int = 0

    def add(self, value: bool | float | str, prediction: str | None, sign: int = 1) -> None:
        """One more, or with sign -1 one less: it was corrected."""
        if not isinstance(value, str):
            number = float(value)
            self.low, self.high = (min(self.low, number), max(self.high, number)) if self.n else (number, number)
            self.n += sign
            self.total += sign * number
            self.squares += sign * number * number
        if prediction is not None:
            self.judged += sign
            self.right += sign * same(prediction, value)

    def merge(self, other: Told) -> None:
        """Those of another part."""
        if other.n and self.n:
            self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        elif other.n:
            self.low, self.high = other.low, other.high
        self.n += other.n
        self.total += other.total
        self.squares += other.squares
        self.judged += other.judged
        self.right += other.right

"""What sequences are made from: sums of windows by arm; and what they tell: bounds of a harm."""

from __future__ import annotations

import msgspec


class Sums(msgspec.Struct, frozen=True):
    """Of the values of one arm: how many, their sum, the sum of their squares. Values lie from 0 to a declared cap."""

    n: float = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, other: Sums) -> Sums:
        return Sums(self.n + other.n, self.total + other.total, self.squares + other.squares)

    def less(self, other: Sums) -> Sums:
        return Sums(self.n - other.n, self.total - other.total, self.squares - other.squares)

    def fits(self, cap: float) -> bool:
        """Whether these are sums of values at all. What was corrected may take back more than is new: then it comes with what
        comes next.
        """
        slack = 1e-9 * cap * max(self.n, 1)
        within = -slack <= self.total <= cap * self.n + slack
        return self.n >= 0 and within and -slack * cap <= self.squares <= cap * self.total + slack * cap

    def times(self, factor: float) -> Sums:
        """As if each value had been multiplied: for other units, or to hold a candidate against 1.1 × the incumbent."""
        return Sums(self.n, self.total * factor, self.squares * factor * factor)

    def flipped(self, cap: float) -> Sums:
        """As if each value x had been `cap` - x: for a metric that is better when it is higher."""
        return Sums(self.n, self.n * cap - self.total, self.n * cap * cap - 2 * cap * self.total + self.squares)


def hits(count: float, of: float) -> Sums:
    """Of values that are 0 or 1: `count` ones among so many."""
    return Sums(of, count, count)


class Window(msgspec.Struct, frozen=True):
    """What came in since the last look: both arms, and the chance (`share`) with which each was given to the candidate.

    A window has one share: what was assigned with another one, also when it comes late, is another window.
    """

    share: float
    incumbent: Sums
    candidate: Sums


class Bounds(msgspec.Struct, frozen=True):
    """Every value at or below `low`, and every one at or above `high`, is ruled out, each with a risk of its own."""

    low: float
    high: float

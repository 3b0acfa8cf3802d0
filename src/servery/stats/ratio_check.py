"""Whether arms got the shares that they were to get: checked at every look, while the shares change from step to step.

Lindon and Malek (2022), Anytime-valid inference for multinomial count data, NeurIPS 35 (arXiv 2011.03567): the evidence is
a Bayes factor of counts whose shares have a Dirichlet prior around the expected ones, against the expected ones. If those are
true it reaches 1/α with a chance of at most α, at any time. Where the expected shares change, the prior moves with them and
keeps what was seen so far: that an arm gets so many times what it should.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

# Observations that the priors are worth: the first finds an arm that gets nothing, the second a small mismatch.
_WORTH = (100.0, 10_000.0)
_PROOF = 1e9  # where an arm got something that was to get nothing; finite, so that JSON can hold it


class RatioCheck(msgspec.Struct, frozen=True):
    """Counts of what was assigned, against the shares with which it was: one for each unit that was assigned by itself.

    It is a value: `after` returns the next one. `priors` are the Dirichlet parameters now, one set for each prior.
    """

    shares: tuple[float, ...] = ()
    priors: tuple[tuple[float, ...], ...] = ()
    logs: tuple[float, ...] = tuple(0.0 for _ in _WORTH)
    strongest: float = 0.0

    def after(self, shares: Sequence[float], counts: Sequence[int]) -> RatioCheck:
        """With these counts more; `shares` are those with which they were assigned, and add up to 1."""
        if len(shares) != len(counts) or abs(math.fsum(shares) - 1) > 1e-9 or min(shares) < 0:
            raise ValueError(
                f"one share for each arm, adding up to 1, instead of {list(shares)} for {len(counts)} arms"
            )
        moved = self._moved(tuple(shares))
        gained = [_factor(prior, shares, counts) for prior in moved]
        logs = tuple(log + more for log, more in zip(self.logs, gained, strict=True))
        grown = tuple(tuple(a + n for a, n in zip(prior, counts, strict=True)) for prior in moved)
        log = max(logs) + math.log(math.fsum(math.exp(one - max(logs)) for one in logs) / len(logs))
        return RatioCheck(tuple(shares), grown, logs, max(self.strongest, log))

    @property
    def p(self) -> float:
        """Of "the shares are as expected", valid at every look: never rises again."""
        return p_value(self.strongest)

    def _moved(self, shares: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
        if shares == self.shares:
            return self.priors
        if len(shares) != len(self.shares):
            if self.shares:
                raise ValueError(f"{len(self.shares)} arms were compared so far, not {len(shares)}")
            return tuple(tuple(worth * share for share in shares) for worth in _WORTH)
        return tuple(_tilted(prior, self.shares, shares) for prior in self.priors)


def _tilted(prior: tuple[float, ...], before: tuple[float, ...], now: tuple[float, ...]) -> tuple[float, ...]:
    """The same excess of each arm over its share, around other shares, worth as many observations."""
    whole = math.fsum(prior)
    excess = [a / (share * whole) if share else 1.0 for a, share in zip(prior, before, strict=True)]
    wanted = [one * share for one, share in zip(excess, now, strict=True)]
    return tuple(whole * one / math.fsum(wanted) for one in wanted)


def _factor(prior: tuple[float, ...], shares: Sequence[float], counts: Sequence[int]) -> float:
    """Logarithm of the Bayes factor of these counts."""
    if any(count and not share for share, count in zip(shares, counts, strict=True)):
        return _PROOF
    whole, n = math.fsum(prior), sum(counts)
    log = math.lgamma(whole) - math.lgamma(whole + n)
    for a, share, count in zip(prior, shares, counts, strict=True):
        if count:
            log += math.lgamma(a + count) - math.lgamma(a) - count * math.log(share)
    return log


def p_value(log_evidence: float) -> float:
    """Valid at every look, if it is the greatest evidence so far."""
    return min(1.0, math.exp(-log_evidence)) if log_evidence > 0 else 1.0

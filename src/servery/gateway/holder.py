"""Whose limits these are, and how a caller is told that one is reached."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from servery.terms.limits import Limits
from servery.terms.reasons import Reason, Refusal


class Holder(msgspec.Struct, frozen=True):
    """A tenant, a key, a route or a model with limits.

    `account` is theirs alone, `told` what a caller reads. Where one is reached another tier may be asked if `cheaper`; if
    `observed` nobody is refused, and `count` hears of it.
    """

    account: str
    told: str
    cheaper: bool
    observed: bool
    count: Callable[[str], None]

    def would_refuse(self, what: str) -> None:
        """Count what isn't refused because this Holder is only observed."""
        self.count(f"{self.account.replace(chr(9), ' ')}: {what}")


class Over(Refusal):
    """A limit that is reached. `final`: no other tier is asked."""

    def __init__(self, reason: Reason, message: str, retry_after_s: float, final: bool) -> None:
        super().__init__(reason, message, retry_after_s)
        self.final = final


def no_counter() -> Refusal:
    """What a caller is told where the counters can't be reached, and `on_unavailable` is `refuse`."""
    message = "whether this is within its limits can't be told now: the counters can't be reached"
    return Refusal(Reason.NO_COUNTER, message, retry_after_s=1.0)


def of_tenant(name: str, limits: Limits, count: Callable[[str], None]) -> Holder:
    return _holder(name, "this tenant's", limits, count)


def of_key(tenant: str, key: str, limits: Limits, count: Callable[[str], None]) -> Holder:
    return _holder(f"key\t{tenant}\t{key}", "this key's", limits, count)


def of_route(name: str, limits: Limits, count: Callable[[str], None]) -> Holder:
    return _holder(f"route\t{name}", "this route's", limits, count)


def of_model(name: str, limits: Limits, count: Callable[[str], None]) -> Holder:
    """Where a model is over its limits, others are asked."""
    return Holder(f"model\t{name}", "this model's", True, limits.mode == "observe", count)


def _holder(account: str, told: str, limits: Limits, count: Callable[[str], None]) -> Holder:
    return Holder(account, told, limits.when_spent == "cheaper", limits.mode == "observe", count)

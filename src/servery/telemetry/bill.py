"""The bill: hours × price of all that was kept ready. What Requests did not take of it was idle. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from servery.terms.money import busy_price
from servery.terms.record import Uptime


class Idle(msgspec.Struct, frozen=True):
    """One Version's bill, to the pico-dollar: `bill_pico` is `busy_pico` plus `idle_pico`.

    `idle_pico` is negative where calls ran side by side and were busy for more than the hours that passed.
    """

    model: str
    version: str
    ready_ns: int
    bill_pico: int
    busy_pico: int
    idle_pico: int


def idle(
    uptimes: Iterable[Uptime], spent: Mapping[tuple[str, str], int], since_ns: int, until_ns: int
) -> tuple[Idle, ...]:
    """A line for each Version that was ready in [since, until), of which Requests took `spent` by (model, version)."""
    ready: defaultdict[tuple[str, str], int] = defaultdict(int)
    bills: defaultdict[tuple[str, str], int] = defaultdict(int)
    for line in uptimes:
        passed = min(line.until_ns, until_ns) - max(line.since_ns, since_ns)
        if passed > 0:
            ready[line.model, line.version] += passed
            bills[line.model, line.version] += busy_price(passed, line.pico_per_hour)
    return tuple(
        Idle(
            model=key[0],
            version=key[1],
            ready_ns=ready[key],
            bill_pico=bills[key],
            busy_pico=spent.get(key, 0),
            idle_pico=bills[key] - spent.get(key, 0),
        )
        for key in sorted(bills)
    )

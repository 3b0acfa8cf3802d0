"""Money is an integer of pico-dollars (1e-12 USD); floats appear only where it is declared or displayed."""

from __future__ import annotations

PICO_PER_USD = 10**12
NS_PER_HOUR = 3_600 * 10**9


def from_usd(usd: float) -> int:
    """Pico-dollars of a declared amount, to the nearest."""
    return round(usd * PICO_PER_USD)


def to_usd(pico: int | float) -> float:
    """Dollars of an amount, for display."""
    return pico / PICO_PER_USD


def busy_price(busy_ns: int, pico_per_hour: int) -> int:
    """Pico-dollars of `busy_ns` nanoseconds at an hourly price, to the nearest."""
    return (busy_ns * pico_per_hour + NS_PER_HOUR // 2) // NS_PER_HOUR


def share_out(total: int, parts: int) -> list[int]:
    """`total` split over `parts` rows so that the shares differ by at most one and add up exactly."""
    each, more = divmod(total, parts)
    return [each + 1] * more + [each] * (parts - more)

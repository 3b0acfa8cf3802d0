"""What a Target says of itself that has nothing to start, to wait for or to bill by the hour."""

from __future__ import annotations

from servery.quota.extra import Extra
from servery.terms.change import Version
from servery.terms.record import Uptime
from servery.terms.statistics import VersionStatistics
from servery.terms.text import Prompt, TokenPrice, Tokens


class Still:
    """The part of a Service that is the same for all of them."""

    pico_per_hour = 0
    one_row_ns = 0.0
    price = TokenPrice()

    def __init__(self, version: Version) -> None:
        self.version = version
        self.extra = Extra()
        self.name = f"model {version.model}"

    async def start(self) -> None:
        """Nothing is needed."""

    async def drain(self) -> None:
        """Nothing is open."""

    def uptimes(self, run: str, now_ns: int) -> list[Uptime]:
        """It costs nothing by the hour."""
        del run, now_ns
        return []

    def statistics(self) -> tuple[VersionStatistics, ...]:
        """They count rows of tensors, of which it answers none."""
        return ()

    def forecast(self, prompt: Prompt) -> Tokens:
        """It takes none."""
        del prompt
        return Tokens()

    async def count(self, prompt: Prompt) -> int:
        """It takes none."""
        return self.forecast(prompt).input

    def rest_ns(self, now_ns: int) -> int:
        """It never rests."""
        del now_ns
        return 0

    def late_ns(self, share: float, stream: bool) -> int:
        """It is never late."""
        del share, stream
        return 0

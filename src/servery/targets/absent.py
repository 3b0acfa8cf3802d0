"""A Version that is not loaded: it sleeps until somebody asks for it, or was unloaded by an operator."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from servery.quota.extra import Extra
from servery.terms.change import Standing, Version
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Uptime
from servery.terms.request import Array, Call, Called
from servery.terms.statistics import VersionStatistics
from servery.terms.text import Look, Prompt, TokenPrice, Tokens


class Absent:
    """The Target of a Version that costs nothing and answers nothing. `wake` is called when a sleeping one is wanted."""

    pico_per_hour = 0
    one_row_ns = 0.0

    def __init__(self, version: Version, standing: Standing, wake: Callable[[], None]) -> None:
        self.version = version
        self.extra = Extra()
        self.name = f"model {version.model}"
        self._asleep = standing is Standing.ASLEEP
        self._wake = wake

    @property
    def refusal(self) -> Reason:
        return Reason.SLEEPING if self._asleep else Reason.MODEL_UNAVAILABLE

    @property
    def unready(self) -> str:
        if self._asleep:
            return "it was unloaded to make room, and is loaded again when it is asked for: try again in a moment"
        return "it was unloaded; load it to have it answer again"

    async def start(self) -> None:
        """There is nothing to load."""

    async def drain(self) -> None:
        """There is nothing to finish."""

    def uptimes(self, run: str, now_ns: int) -> list[Uptime]:
        """What isn't loaded isn't billed."""
        del run, now_ns
        return []

    def statistics(self) -> tuple[VersionStatistics, ...]:
        """Nothing runs here."""
        return ()

    def inline(self, rows: int) -> bool:
        return rows < 0

    def call(self, fetch: Sequence[str], feeds: dict[str, Array], rows: int) -> Called:
        del fetch, feeds, rows
        return Called({}, 0, self.refusal.word, self.unready)

    def submit(self, call: Call) -> None:
        """Nothing is queued; but a Version that sleeps is woken."""
        del call
        if self._asleep:
            self._wake()

    price = TokenPrice()

    def forecast(self, prompt: Prompt) -> Tokens:
        """Nothing is asked here."""
        del prompt
        return Tokens()

    def rest_ns(self, now_ns: int) -> int:
        """It doesn't rest: it isn't there."""
        del now_ns
        return 0

    def late_ns(self, share: float, stream: bool) -> int:
        """Nothing is known of it."""
        del share, stream
        return 0

    def open(self, prompt: Prompt, look: Look, avoid: Collection[object]) -> NoReturn:
        """As of a language model that was unloaded."""
        del prompt, look, avoid
        raise Refusal(self.refusal, f"'{self.version.model}': {self.unready}")

    def give_up(self, job: object) -> Called:
        raise AssertionError(f"nothing was queued, so {job} can't be given up")

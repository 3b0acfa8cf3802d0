"""A Version that is not loaded: it sleeps until somebody asks for it, or was unloaded by an operator."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from servery.targets.still import Still
from servery.terms.change import Standing, Version
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Array, Call, Called
from servery.terms.text import Look, Prompt


class Absent(Still):
    """The Target of a Version that costs nothing and answers nothing. `wake` is called when a sleeping one is wanted."""

    def __init__(self, version: Version, standing: Standing, wake: Callable[[], None]) -> None:
        super().__init__(version)
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

    def open(self, prompt: Prompt, look: Look, avoid: Collection[object]) -> NoReturn:
        """As of a language model that was unloaded."""
        del prompt, look, avoid
        raise Refusal(self.refusal, f"'{self.version.model}': {self.unready}")

    def give_up(self, job: object) -> Called:
        raise AssertionError(f"nothing was queued, so {job} can't be given up")

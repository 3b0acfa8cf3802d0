"""What a worker sees of a Route whose thresholds follow its traffic: counts, which the controller adds up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servery.routing.next import Tried
from servery.routing.pace import Layout, Pace
from servery.terms.record import Attempt, Candidate, Choice, Outcome, Record

# A global name is found in half the time of a class's attribute, and each request needs six of them.
_REQUESTS, _ROWS, _SQUARES = Layout.REQUESTS, Layout.ROWS, Layout.SQUARES
_FEW = 16  # rows that are sooner counted one by one
_PICO, _PICO_SQUARES, _CROSS, _OTHER_PICO = Layout.PICO, Layout.PICO_SQUARES, Layout.CROSS, Layout.OTHER_PICO


class Watch:
    """One Route's counts, by the Layout of its Pace. Owned by the worker, so they outlive Tables."""

    __slots__ = ("_at", "_counts", "_layout", "pace")

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._layout = Layout(pace)
        self._at = {name: tier for tier, name in enumerate(pace.tiers)}
        self._counts: list[float] = [0] * self._layout.size

    def take(self) -> dict[int, float]:
        """What was counted since the last time, by place; places with nothing are left out."""
        counts = self._counts
        if not counts[Layout.ROWS] and not counts[Layout.PICO]:
            return {}
        self._counts = [0] * len(counts)
        return {at: count for at, count in enumerate(counts) if count}

    def note(self, attempts: Sequence[Attempt], tried: Sequence[Tried], choice: Choice | None, led: bool) -> None:
        """Count one Request by its Attempts. `led`: the thresholds alone decided which of them were made."""
        counts, layout = self._counts, self._layout
        rows, spent = 0, 0
        for attempt in attempts:
            rows += attempt.answered
            spent += attempt.pico_usd
        pico = float(spent)  # squares of whole ones would outgrow what a message holds
        if rows:
            counts[_REQUESTS] += 1
        counts[_ROWS] += rows
        counts[_SQUARES] += rows * rows
        counts[_PICO] += pico
        counts[_PICO_SQUARES] += pico * pico
        counts[_CROSS] += pico * rows
        if led and rows:
            if choice is None:
                self._note_rows(rows, attempts, tried)
            else:
                self._note_prompt(choice.candidates, choice.score, attempts, tried)
            return
        counts[_OTHER_PICO] += pico
        for attempt in attempts:
            counts[layout.other + self._at[attempt.tier]] += attempt.answered

    def _note_rows(self, rows: int, attempts: Sequence[Attempt], tried: Sequence[Tried]) -> None:
        """Rows of tensors, all of which begin at the first tier. A call is expected to cost as much as its rows."""
        counts, layout = self._counts, self._layout
        counts[layout.entered] += rows
        counts[layout.entered + 1] += rows
        for attempt in attempts:
            tier = self._at[attempt.tier]
            counts[layout.called + tier] += attempt.pico_usd
            counts[layout.forecast + tier] += attempt.rows
        for one in tried:
            if one.confidences is None or not layout.judges(one.step):
                continue
            if len(one.confidences) > _FEW:
                self._note_many(one.step, one.confidences)
                continue
            for sure in one.confidences:
                at = layout.at_confidence(one.step, sure)
                counts[at] += 1
                counts[at + 1] += 1

    def _note_many(self, tier: int, confidences: Sequence[float]) -> None:
        """The same for many rows at once. NaN reaches no level."""
        first, levels = self._layout.judged(tier)
        sure = np.array(confidences)
        cells = np.searchsorted(levels, np.where(np.isnan(sure), -np.inf, sure), "right")
        for cell, count in enumerate(np.bincount(cells).tolist()):
            if count:
                self._counts[first + 2 * cell] += count
                self._counts[first + 2 * cell + 1] += count

    def _note_prompt(
        self, candidates: Sequence[Candidate], score: float | None, attempts: Sequence[Attempt], tried: Sequence[Tried]
    ) -> None:
        """A prompt, with what each tier was expected to cost."""
        counts, layout = self._counts, self._layout
        entered = layout.at_score(score)
        counts[entered] += 1
        for tier, candidate in enumerate(candidates, entered + 1):
            counts[tier] += candidate.pico_usd
        for tier in {self._at[attempt.tier] for attempt in attempts}:
            counts[layout.forecast + tier] += candidates[tier].pico_usd
        for attempt in attempts:
            counts[layout.called + self._at[attempt.tier]] += attempt.pico_usd
        for one in tried:
            if one.confidences is not None and layout.judges(one.step):
                at = layout.at_confidence(one.step, one.confidences[0])
                counts[at] += 1
                counts[at + 1] += candidates[one.step + 1].pico_usd


# What of a Request is watched: by whom, what was tried, and whether all tiers were open to it.
Watched = tuple[Watch, Sequence[Tried], bool]


def watch(watched: Watched, record: Record) -> None:
    """Count a Request that has ended. The thresholds alone led it if nothing failed, and no draw chose its first tier."""
    by, tried, led = watched
    attempts = record.attempts
    choice = attempts[0].choice if attempts else None
    led = led and record.outcome is Outcome.SERVED and not record.degraded and (choice is None or not choice.explored)
    for one in tried:
        led = led and one.failure is None
    by.note(attempts, tried, choice, led)

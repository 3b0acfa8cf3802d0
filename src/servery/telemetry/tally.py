"""Records counted one by one: the sums that a report is made of. Pure."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable
from typing import Literal

from servery.terms.record import Attempt, Outcome, Record, Summary, answering, same

By = Literal["tier", "model", "version", "tenant"]
Key = tuple[str, str]  # (route, tier), or ("", the name of the model, version or tenant)

LABEL = "label"  # the name of Feedback that says what a prediction should have been
CORRECT = "correct"  # of Feedback that says whether an answer was right, where there is no prediction to compare
WHOLE = -1  # the row of Feedback that is about the whole Record


class Labels:
    """What Feedback says of one Record, by row."""

    __slots__ = ("correct", "true")

    def __init__(self) -> None:
        self.true: dict[int, bool | float | str] = {}
        self.correct: dict[int, bool] = {}

    def verdict(self, row: int, prediction: str | None, alone: bool) -> bool | None:
        """Whether a row's answer was right; None where nothing says so. `alone`: it is the Record's only row."""
        label = self.true.get(row, self.true.get(WHOLE) if alone else None)
        if prediction is not None and label is not None:
            return same(prediction, label)
        return self.correct.get(row, self.correct.get(WHOLE) if alone else None)


class Sums:
    """What has been counted for one line of a report."""

    __slots__ = ("correct", "durations_ns", "labelled", "outcomes", "pico_usd", "requests", "rows")

    def __init__(self) -> None:
        self.requests = 0
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.rows = 0  # answered
        self.pico_usd = 0
        self.durations_ns = array("q")  # of served Requests
        self.labelled = 0
        self.correct = 0

    def count(self, outcome: Outcome, requests: int = 1) -> None:
        self.requests += requests
        self.outcomes[outcome] += requests


class Tally:
    """Counts Requests where they were answered, and dollars where they were spent."""

    def __init__(self, by: By) -> None:
        self.lines: defaultdict[Key, Sums] = defaultdict(Sums)
        self.routes: defaultdict[str, Sums] = defaultdict(Sums)
        self.tiers: defaultdict[Key, int] = defaultdict(int)  # rows answered by (route, tier)
        self.spent: defaultdict[tuple[str, str], int] = defaultdict(int)  # pico-dollars by (model, version)
        self.summarised = 0  # Requests that are known by counts and money only
        self._by = by
        self._place = _PLACES[by]

    def add(self, record: Record, labels: Labels | None) -> None:
        """Count one Record, with what Feedback named `label` says of its rows."""
        attempts, tenant, name = record.attempts, record.tenant, record.route
        index = answering(attempts)
        line = self.lines[self._place(tenant, name, attempts[index] if attempts else None)]
        route = self.routes[name]
        line.count(record.outcome)
        route.count(record.outcome)
        if record.outcome is Outcome.SERVED:
            line.durations_ns.append(record.duration_ns)
            route.durations_ns.append(record.duration_ns)
        route.pico_usd += record.pico_usd
        rest = record.pico_usd
        for attempt in attempts:
            part = self.lines[self._place(tenant, name, attempt)] if len(attempts) > 1 else line
            part.rows += attempt.answered
            part.pico_usd += attempt.pico_usd
            rest -= attempt.pico_usd
            route.rows += attempt.answered
            self.tiers[name, attempt.tier] += attempt.answered
            self.spent[attempt.model, attempt.version] += attempt.pico_usd
        line.pico_usd += rest
        if labels:
            self._judge(record, labels, index)

    def add_summary(self, line: Summary) -> None:
        """Count what was folded for want of room."""
        attempt = _Place(line.tier, line.model, line.version) if line.model or line.tier else None
        for sums in (self.lines[self._place(line.tenant, line.route, attempt)], self.routes[line.route]):
            sums.count(line.outcome, line.requests)
            sums.rows += line.answered
            sums.pico_usd += line.pico_usd
        self.tiers[line.route, line.tier] += line.answered
        self.spent[line.model, line.version] += line.pico_usd
        self.summarised += line.requests

    def _judge(self, record: Record, labels: Labels, index: int) -> None:
        """Count what was right, row by row, for the Attempt that answered the row."""
        attempts, answered_by, predictions = record.attempts, record.answered_by, record.predictions
        for row in range(record.rows):
            prediction = predictions[row] if row < len(predictions) else None
            right = labels.verdict(row, prediction, record.rows == 1)
            by = answered_by[row] if row < len(answered_by) else index
            if right is None or not 0 <= by < len(attempts):
                continue
            sums = self.lines[self._place(record.tenant, record.route, attempts[by])]
            sums.labelled += 1
            sums.correct += right


class _Place:
    """Where a Summary was counted."""

    __slots__ = ("model", "tier", "version")

    def __init__(self, tier: str, model: str, version: str) -> None:
        self.tier, self.model, self.version = tier, model, version


Spender = Attempt | _Place | None

_PLACES: dict[By, Callable[[str, str, Spender], Key]] = {
    "tier": lambda _, route, attempt: (route, attempt.tier if attempt else ""),
    "model": lambda _, __, attempt: ("", attempt.model if attempt else ""),
    "version": lambda _, __, attempt: ("", f"{attempt.model}@{attempt.version}" if attempt else ""),
    "tenant": lambda tenant, _, __: ("", tenant),
}

"""What a span of Records says: shares, latency, dollars, quality, and which promises held. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from servery.stats.intervals import Interval, wilson
from servery.stats.quantiles import rank
from servery.telemetry.bill import Idle, idle
from servery.telemetry.promises import Promise, promises, usd_per_million
from servery.telemetry.tally import CORRECT, LABEL, By, Key, Labels, Sums, Tally
from servery.terms.record import Feedback, Outcome, Record, Summary, Uptime
from servery.terms.routes import Route

PERCENTILES = (50, 95, 99)


class Question(msgspec.Struct, frozen=True):
    """Which Records, and how they are told apart. Times are ns since 1970; the end is not included."""

    since_ns: int
    until_ns: int
    by: By = "tier"
    route: str | None = None


class Chunk(Protocol):
    """Some Records, with the Feedback on them in the order in which it came."""

    @property
    def records(self) -> Sequence[Record]: ...
    @property
    def feedback(self) -> Sequence[Feedback]: ...


class Line(msgspec.Struct, frozen=True):
    """One tier, model, version or tenant; name "" for Requests that reached no tier.

    Share, latency and accuracy belong to what answered: a tier's share is that of its Route's rows, any other of all
    rows. Dollars belong to what spent them, divided by all inferences of the report, so that they add up. Quantiles with fewer than 10 samples above them are None.
    """

    name: str
    route: str
    requests: int
    served: int
    refused: int
    failed: int
    abandoned: int
    rows: int
    share: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    pico_usd: int
    usd_per_million: float | None
    labelled: int
    correct: int
    accuracy: float | None
    accuracy_95: Interval | None


class Report(msgspec.Struct, frozen=True):
    """`bill_pico` is `busy_pico` plus `idle_pico`, exactly: hours × price of all that was ready."""

    question: Question
    lines: tuple[Line, ...]
    total: Line
    idle: tuple[Idle, ...]
    bill_pico: int
    busy_pico: int
    idle_pico: int
    promises: tuple[Promise, ...]
    summarised: int  # Requests known by counts and money only: the spool was full


def make_report(
    question: Question,
    chunks: Iterable[Chunk],
    summaries: Iterable[Summary],
    uptimes: Iterable[Uptime],
    routes: Mapping[str, Route],
) -> Report:
    """The Report on all that is given; with `question.route` what belongs to other Routes is left out.

    `routes` are those whose promises are looked at. The bill of a Model counts whole, whichever Route used it.
    """
    tally, spent = Tally(question.by), defaultdict[tuple[str, str], int](int)
    for chunk in chunks:
        labels = _labels(chunk.feedback)
        for record in chunk.records:
            if question.route in (None, record.route):
                tally.add(record, labels.get(record.id))
            else:
                for attempt in record.attempts:
                    spent[attempt.model, attempt.version] += attempt.pico_usd
    for summary in summaries:
        if question.route in (None, summary.route):
            tally.add_summary(summary)
        else:
            spent[summary.model, summary.version] += summary.pico_usd
    for key, pico in tally.spent.items():
        spent[key] += pico
    if question.route is not None:
        routes = {name: route for name, route in routes.items() if name == question.route}
        models = {model for model, _ in tally.spent} | {tier.model for route in routes.values() for tier in route.tiers}
        uptimes = [line for line in uptimes if line.model in models]
    rests = idle(uptimes, spent, question.since_ns, question.until_ns)
    rows = sum(sums.rows for sums in tally.lines.values())
    quantiles = {name: _quantiles(sums) for name, sums in tally.routes.items()}
    return Report(
        question=question,
        lines=tuple(
            _line(key, tally.lines[key], rows, tally.routes[key[0]].rows if key[0] else rows)
            for key in _ordered(tally, routes)
        ),
        total=_line(("", "total"), _sum(tally.lines.values()), rows, rows),
        idle=rests,
        bill_pico=sum(rest.bill_pico for rest in rests),
        busy_pico=sum(rest.busy_pico for rest in rests),
        idle_pico=sum(rest.idle_pico for rest in rests),
        promises=promises(tally, routes, quantiles),
        summarised=tally.summarised,
    )


def _labels(feedback: Iterable[Feedback]) -> dict[bytes, Labels]:
    found: defaultdict[bytes, Labels] = defaultdict(Labels)
    for line in feedback:  # the last one counts
        if line.name == LABEL:
            found[line.record_id].true[line.row] = line.value
        elif line.name == CORRECT and line.value in (True, False):  # 1 and 0 too
            found[line.record_id].correct[line.row] = bool(line.value)
    return dict(found)


def _ordered(tally: Tally, routes: Mapping[str, Route]) -> list[Key]:
    """Tiers as the manifest orders them, then what answered most; what reached no tier last."""
    order = {(name, tier.name): index for name, route in routes.items() for index, tier in enumerate(route.tiers)}

    def place(key: Key) -> tuple[str, bool, int, int, str]:
        return (key[0], not key[1], order.get(key, len(order)), -tally.lines[key].rows, key[1])

    return sorted(tally.lines, key=place)


def _sum(parts: Iterable[Sums]) -> Sums:
    total = Sums()
    for part in parts:
        for outcome, requests in part.outcomes.items():
            total.count(outcome, requests)
        total.rows += part.rows
        total.pico_usd += part.pico_usd
        total.durations_ns.extend(part.durations_ns)
        total.labelled += part.labelled
        total.correct += part.correct
    return total


def _quantiles(sums: Sums) -> tuple[float | None, ...]:
    """p50, p95 and p99 in ms."""
    import numpy as np  # noqa: PLC0415 the controller knows reports, and rarely makes one

    ordered = np.sort(np.frombuffer(sums.durations_ns, np.int64)) if sums.durations_ns else np.empty(0, np.int64)
    places = (rank(len(ordered), percent) for percent in PERCENTILES)
    return tuple(None if place is None else int(ordered[place]) / 1e6 for place in places)


def _line(key: Key, sums: Sums, all_rows: int, shared_rows: int) -> Line:
    p50, p95, p99 = _quantiles(sums)
    return Line(
        name=key[1],
        route=key[0],
        requests=sums.requests,
        served=sums.outcomes[Outcome.SERVED],
        refused=sums.outcomes[Outcome.REFUSED],
        failed=sums.outcomes[Outcome.FAILED],
        abandoned=sums.outcomes[Outcome.ABANDONED],
        rows=sums.rows,
        share=sums.rows / shared_rows if shared_rows else None,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        pico_usd=sums.pico_usd,
        usd_per_million=usd_per_million(sums.pico_usd, all_rows),
        labelled=sums.labelled,
        correct=sums.correct,
        accuracy=sums.correct / sums.labelled if sums.labelled else None,
        accuracy_95=wilson(sums.correct, sums.labelled),
    )

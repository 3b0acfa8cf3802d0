"""The report's arithmetic: who answered, who spent, what was right, what was promised, and the bill."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lines import DIGEST, MS, attempt, feedback, record, uptime
from servery.store.ledger import Chunk
from servery.telemetry.report import Question, Report, make_report
from servery.telemetry.spans import parse_span
from servery.telemetry.tally import By
from servery.terms.money import NS_PER_HOUR, busy_price
from servery.terms.record import Feedback, Outcome, Record, Summary, Uptime, same
from servery.terms.routes import Ceiling, Route, Slo, Tier

HOUR = NS_PER_HOUR
DIGITS = Route(
    tiers=(Tier("cheap", "digits-cheap", share=(0.6, 0.8)), Tier("mid", "digits-mid", share=(0.5, 0.6))),
    slo=Slo(p50_ms=1, p99_ms=50),
    ceiling=Ceiling(mean_usd_per_million=0.002),
)


def ask(
    records: list[Record],
    facts: tuple[Feedback, ...] = (),
    uptimes: tuple[Uptime, ...] = (),
    summaries: tuple[Summary, ...] = (),
    by: By = "tier",
    route: str | None = None,
) -> Report:
    question = Question(0, 100 * HOUR, by, route)
    return make_report(question, [Chunk(records, list(facts))], summaries, uptimes, {"digits": DIGITS})


def mixed() -> list[Record]:
    """Ten answered by cheap alone, five passed on to mid, one refused."""
    return [
        *(record(attempt("cheap"), at_ns=1, duration_ns=MS) for _ in range(10)),
        *(record(attempt("cheap", 0), attempt("mid", pico_usd=7_000), at_ns=1, duration_ns=3 * MS) for _ in range(5)),
        record(at_ns=1, outcome=Outcome.REFUSED),
    ]


def test_shares_go_by_what_answered_and_dollars_by_what_spent() -> None:
    report = ask(mixed())
    cheap, mid, none = report.lines
    assert (cheap.name, cheap.requests, cheap.rows, cheap.pico_usd) == ("cheap", 10, 10, 15 * 700)
    assert (mid.name, mid.requests, mid.rows, mid.pico_usd) == ("mid", 5, 5, 5 * 7_000)
    assert (none.name, none.requests, none.refused, none.rows) == ("", 1, 1, 0)
    assert cheap.share == pytest.approx(2 / 3)
    assert report.total.pico_usd == 15 * 700 + 5 * 7_000
    assert report.total.usd_per_million == pytest.approx(sum(line.usd_per_million or 0 for line in report.lines))
    assert cheap.p50_ms is None  # ten samples: five above the median


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("model", ["digits-cheap", "digits-mid", ""]),
        ("version", [f"digits-cheap@{DIGEST}", f"digits-mid@{DIGEST}", ""]),
        ("tenant", ["acme"]),
    ],
)
def test_the_same_records_told_apart_otherwise_have_the_same_total(by: By, names: list[str]) -> None:
    report, tiers = ask(mixed(), by=by), ask(mixed())
    assert [line.name for line in report.lines] == names
    assert report.total == tiers.total


def test_quantiles_are_of_the_tier_that_answered() -> None:
    lines = [record(attempt("cheap"), at_ns=1, duration_ns=i * MS) for i in range(1, 1_001)]
    line = ask(lines).lines[0]
    assert (line.p50_ms, line.p95_ms, line.p99_ms) == (500, 950, 990)


def test_rows_of_one_request_count_where_each_was_answered() -> None:
    split = record(
        attempt("cheap", 2, rows=3), attempt("mid", 1), at_ns=1, rows=3, predictions=("1", "2", "3"),
        answered_by=(0, 1, 0),
    )  # fmt: skip
    facts = (feedback(split, 1.0, row=0), feedback(split, 9.0, row=1), feedback(split, "3", row=2))
    cheap, mid = ask([split], facts).lines
    assert (cheap.rows, cheap.labelled, cheap.correct) == (2, 2, 2)
    assert (mid.rows, mid.labelled, mid.correct) == (1, 1, 0)


def test_the_last_label_counts_and_other_names_do_not() -> None:
    line = record(attempt(), at_ns=1, predictions=("3",))
    facts = (feedback(line, 4.0), feedback(line, 3.0), feedback(line, 5.0, name="score"))
    total = ask([line], facts).total
    assert (total.labelled, total.correct) == (1, 1)
    assert total.accuracy_95 is not None


def test_without_a_prediction_the_callers_own_verdict_counts() -> None:
    """An answer in text is judged by whoever asked: the last `correct` counts, whole or by row, and nothing else does."""
    right, wrong, unclear, silent = (record(attempt(tier), at_ns=1) for tier in ("cheap", "mid", "mid", "mid"))
    batch = record(attempt("cheap", 2, rows=2), at_ns=1, rows=2)
    facts = (
        feedback(right, False, name="correct"), feedback(right, True, name="correct"),
        feedback(wrong, 0.0, name="correct"), feedback(unclear, "perhaps", name="correct"), feedback(unclear, 0.5, name="correct"),
        feedback(silent, True, name="liked"),
        feedback(batch, True, row=1, name="correct"), feedback(batch, True, name="correct"),
    )  # fmt: skip
    cheap, mid = ask([right, wrong, unclear, silent, batch], facts).lines
    assert (cheap.labelled, cheap.correct) == (2, 2)
    assert (mid.labelled, mid.correct) == (1, 0)


def test_a_label_beats_the_callers_own_verdict() -> None:
    line = record(attempt(), at_ns=1, predictions=("3",))
    total = ask([line], (feedback(line, 3.0), feedback(line, False, name="correct"))).total
    assert (total.labelled, total.correct) == (1, 1)


@pytest.mark.parametrize(
    ("prediction", "label", "equal"),
    [
        ("3", 3.0, True), ("3", "3", True), ("3.0", "3", True), ("3", "4", False), ("cat", "cat", True),
        ("cat", " cat ", True), ("cat", "Cat", False), ("1", True, True), ("True", True, True), ("0", False, True),
        ("cat", True, False), ("true", "True", True), ("3", "three", False), ("nan", "nan", True), ("", "", True),
    ],
)  # fmt: skip
def test_numbers_are_the_same_however_they_are_written(prediction: str, label: bool | float | str, equal: bool) -> None:
    assert same(prediction, label) is equal


def test_promises_are_kept_broken_or_not_yet_known() -> None:
    few = {promise.what: promise.held for promise in ask(mixed()).promises}
    assert few == {
        "p50 ms": None, "p99 ms": None, "mean $ per million": False, "share of cheap": True, "share of mid": False,
    }  # fmt: skip
    assert all(promise.held is None for promise in ask([]).promises)
    many = ask([record(attempt("cheap"), at_ns=1, duration_ns=MS) for _ in range(2_000)])
    assert {promise.what: promise.held for promise in many.promises}["p99 ms"] is True
    assert {promise.what: promise.measured for promise in many.promises}["p50 ms"] == 1.0


def test_summaries_are_counted_and_said() -> None:
    line = Summary(b"1", 0, "acme", "digits", "cheap", "digits-cheap", DIGEST, Outcome.SERVED, 7, 9, 8, 1, 5_600)
    report = ask(mixed(), summaries=(line,))
    assert report.summarised == 7
    assert (report.lines[0].requests, report.lines[0].rows) == (17, 18)
    assert report.total.pico_usd == 15 * 700 + 5 * 7_000 + 5_600


def test_a_tiers_share_is_that_of_its_route() -> None:
    report = ask([*mixed(), *(record(attempt("cheap"), at_ns=1, route="other") for _ in range(15))])
    shares = {(line.route, line.name): line.share for line in report.lines}
    assert shares == {
        ("digits", "cheap"): 10 / 15, ("digits", "mid"): 5 / 15, ("digits", ""): 0, ("other", "cheap"): 1,
    }  # fmt: skip


def test_one_route_leaves_the_others_out_but_pays_for_its_models() -> None:
    other = record(attempt("cheap"), at_ns=1, route="other")
    report = ask(
        [*mixed(), other], uptimes=(uptime("digits-cheap", 0, HOUR, 10**6), uptime("x", 0, HOUR, 5)), route="digits"
    )
    assert report.total.requests == 16
    assert [rest.model for rest in report.idle] == ["digits-cheap"]
    assert report.busy_pico == 16 * 700


@given(
    st.lists(st.tuples(st.integers(0, 200 * HOUR), st.integers(0, 50 * HOUR), st.integers(0, 10**14)), max_size=8),
    st.lists(st.integers(0, 10**12), max_size=8),
)
def test_busy_and_idle_add_up_to_hours_times_price(ready: list[tuple[int, int, int]], spent: list[int]) -> None:
    uptimes = tuple(
        uptime("digits-cheap", at, at + long, price, run=str(i)) for i, (at, long, price) in enumerate(ready)
    )
    report = ask([record(attempt("cheap", pico_usd=pico), at_ns=1) for pico in spent], uptimes=uptimes, by="model")
    bill = sum(
        busy_price(min(line.until_ns, 100 * HOUR) - line.since_ns, line.pico_per_hour)
        for line in uptimes
        if min(line.until_ns, 100 * HOUR) > line.since_ns
    )
    assert report.bill_pico == bill == report.busy_pico + report.idle_pico
    if report.idle:
        assert report.busy_pico == report.total.pico_usd == sum(spent)


def test_a_report_is_plain_json() -> None:
    report = ask(mixed(), uptimes=(uptime("digits-cheap", 0, HOUR, 10**6),))
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("30m", 1_800 * 10**9),
        ("1h", HOUR),
        ("1.5h", HOUR * 3 // 2),
        ("2d", 48 * HOUR),
        ("all", 0),
        ("yesterday", None),
        ("1", None),
    ],
)
def test_spans(text: str, ns: int | None) -> None:
    assert parse_span(text) == ns

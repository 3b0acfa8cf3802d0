"""Drift: where nothing changes, false alarms come as rarely as declared; a change is found, and only where it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from servery.control.drift import look, window_of
from servery.stats.bins import bin_of, bucket_of
from servery.terms.drift import DriftLook, DriftPolicy, Judged
from servery.terms.record import Binned, Sketched

DAY_NS = 86_400 * 10**9
DAYS_BETWEEN = 20
POLICY = DriftPolicy(expected_days_between_false_alarms=DAYS_BETWEEN, reference_windows=5, features=("age", "income"))
FIRST, LAST = 100, 115  # days; after the reference there are ten
TENANTS = ("acme", "globex", "initech")
KINDS = np.array([0.5, 0.3, 0.15, 0.05])

Draws = np.random.Generator


def counted(feature: str, values: list[float] | list[str]) -> Binned:
    """As a worker counts them."""
    ordered = isinstance(values[0], float)
    places = [bucket_of(value.encode()) if isinstance(value, str) else bin_of(value) for value in values]
    bins, counts = np.unique(places, return_counts=True)
    return Binned(feature, ordered, tuple(bins.tolist()), tuple(counts.tolist()))


def line(draws: Draws, day: int, tenant: str, n: int, shift: float = 0.0) -> Sketched:
    """A day of a tenant's traffic: two inputs that go together, a class, and a number that falls where the inputs are odd."""
    age = draws.normal(40 + 12 * shift, 12, n)
    income = np.exp(10 + 0.02 * age + draws.normal(0, 0.5, n))
    kinds = [str(kind) for kind in draws.choice(len(KINDS), n, p=KINDS)]
    sure = 1 - np.abs(age - 40) / 200
    features = (
        counted("age", age.tolist()), counted("income", income.tolist()), counted("prediction", kinds),
        counted("confidence", sure.tolist()),
    )  # fmt: skip
    return Sketched(draws.bytes(16), day * DAY_NS, (day + 1) * DAY_NS - 1, "m", "v1", tenant, features)


def judged(draws: Draws, day: int, tenant: str, n: int, right: float = 0.9) -> list[Judged]:
    return [Judged(day * DAY_NS + at, tenant, "v1", bool(draws.random() < right), None) for at in range(n)]


def days(lines: list[Sketched], facts: list[Judged]) -> list[DriftLook]:
    """Every day after the reference is looked at once."""
    seen: list[DriftLook] = []
    for day in range(FIRST + POLICY.reference_windows, LAST):
        window = window_of("m", POLICY, day, {"v1": FIRST * DAY_NS})
        spans = window.spans
        within = [one for one in lines if any(since <= one.since_ns < until for since, until in spans)]
        seen.append(look(window, within, facts))
    return seen


def false_alarms(worlds: int, seed: int) -> tuple[int, int]:
    """Days with an alarm, and days, in worlds in which nothing changes."""
    alarmed = looked = 0
    for world in range(worlds):
        draws = np.random.default_rng((seed, world))
        every = [(day, tenant) for day in range(FIRST, LAST) for tenant in TENANTS]
        lines = [line(draws, day, tenant, 150) for day, tenant in every]
        facts = [fact for day, tenant in every for fact in judged(draws, day, tenant, 60)]
        for seen in days(lines, facts):
            assert len(seen.shifts) == 5 * len(TENANTS)
            assert all(shift.p is not None for shift in seen.shifts)
            alarmed += bool(seen.alarmed)
            looked += 1
    return alarmed, looked


def most(looked: int) -> float:
    """As many alarms as the declared rate gives, and three standard errors."""
    rate = 1 / DAYS_BETWEEN
    return looked * rate + 3 * math.sqrt(looked * rate * (1 - rate))


def test_false_alarms_are_as_rare_as_declared() -> None:
    alarmed, looked = false_alarms(20, 1)
    assert looked == 200
    assert alarmed <= most(looked)


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_false_alarms_are_as_rare_as_declared_in_400_worlds() -> None:
    alarmed, looked = false_alarms(400, 2)
    print(f"{alarmed} of {looked} days alarmed; {looked / DAYS_BETWEEN:g} were declared")
    assert alarmed <= looked / DAYS_BETWEEN + 3 * math.sqrt(looked / DAYS_BETWEEN)


def test_a_change_is_found_where_it_is() -> None:
    """One tenant's inputs move by 0.6 of their spread from day 110 on; another one's answers get worse."""
    draws = np.random.default_rng(3)
    lines: list[Sketched] = []
    facts: list[Judged] = []
    for day in range(FIRST, LAST):
        for tenant in TENANTS:
            moved = 0.6 if (day >= 110 and tenant == "acme") else 0.0
            lines.append(line(draws, day, tenant, 400, moved))
            facts += judged(draws, day, tenant, 100, 0.6 if (day >= 110 and tenant == "globex") else 0.9)
    seen = days(lines, facts)
    before, after = seen[:5], seen[5:]
    assert sum(bool(one.alarmed) for one in before) <= 1
    for one in after:
        alarmed = {(shift.tenant, shift.feature) for shift in one.alarmed}
        assert {("acme", "age"), ("globex", "quality")} <= alarmed
        assert ("acme", "prediction") not in alarmed
        assert not any(tenant == "initech" for tenant, _ in alarmed)


def test_what_it_says_it_would_have_seen_it_sees() -> None:
    """A shift of the told distance is found in about 80 of 100 windows, or more."""
    found = 0
    for world in range(40):
        draws = np.random.default_rng((4, world))
        lines = [line(draws, day, "acme", 300) for day in range(FIRST, FIRST + 5)]
        quiet = look(window_of("m", POLICY, 105, {"v1": FIRST * DAY_NS}), [*lines, line(draws, 105, "acme", 300)], [])
        (age,) = [shift for shift in quiet.shifts if shift.feature == "age"]
        # Two normal distributions that are δ spreads apart differ by 2Φ(δ/2) - 1 at most.
        apart = next(delta / 100 for delta in range(400) if math.erf(delta / 100 / 2 / math.sqrt(2)) >= age.seen)
        moved = look(
            window_of("m", POLICY, 105, {"v1": FIRST * DAY_NS}), [*lines, line(draws, 105, "acme", 300, apart)], []
        )
        found += any(shift.alarm for shift in moved.shifts if shift.feature == "age")
    assert found >= 28  # of 40: 32 are promised, less two standard errors

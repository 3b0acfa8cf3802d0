"""Drift: what is compared with what, what is told where nothing can be, and what is done about an alarm."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from servery.control.alarms import Owed, again, due, owed_for
from servery.control.drift import alarm_of, look, window_of
from servery.control.promote import by_hand, moved
from servery.terms.drift import Alarm, DriftLook, DriftPolicy, Judged, OnAlarm
from servery.terms.record import Binned, Sketched
from servery.terms.rollouts import Looked, Phase, Rollout, RolloutPolicy, RolloutStep, Verdict

HOUR_NS = 3_600 * 10**9
POLICY = DriftPolicy(expected_days_between_false_alarms=1, window_hours=1, reference_windows=2)


def line(hour: float, n: int, bins: Sequence[int] = (1, 2), version: str = "v", tenant: str = "acme") -> Sketched:
    """Counts of an eighth of an hour, half in each bin."""
    features = (Binned("x", True, tuple(bins), (n // len(bins),) * len(bins)),)
    since_ns = round(hour * HOUR_NS)
    return Sketched(b"", since_ns, since_ns + HOUR_NS // 8, "m", version, tenant, features)


def seen(window: int, *lines: Sketched, facts: Sequence[Judged] = ()) -> DriftLook:
    since: dict[str, int] = {}
    for one in lines:
        since[one.version] = min(since.get(one.version, one.since_ns), one.since_ns)
    return look(window_of("m", POLICY, window, since), lines, facts)


def test_the_reference_begins_with_the_first_window_that_could_be_whole() -> None:
    assert window_of("m", POLICY, 20, {"v": round(10.1 * HOUR_NS)}).references == {"v": 10}
    late = window_of("m", POLICY, 20, {"v": round(10.5 * HOUR_NS)})
    assert late.references == {"v": 11}
    assert [since // HOUR_NS for since, _ in late.spans] == [11, 12, 20]


def test_what_came_before_the_reference_does_not_count() -> None:
    found = seen(13, line(10.5, 4_000, (7, 8)), line(11, 200), line(12, 200), line(13, 100))
    (shift,) = found.shifts
    assert (shift.reference, shift.window, shift.distance, shift.alarm) == (400, 100, 0, False)


WAITS = [
    (seen(5), "nothing has been counted yet"),
    (seen(11, line(10, 200), line(11, 100)), "windows still to come, 1"),
    (seen(14, line(10, 200), line(11, 100)), "nothing was asked in this window"),
]


@pytest.mark.parametrize(("found", "why"), WAITS)
def test_it_says_why_nothing_can_be_compared(found: DriftLook, why: str) -> None:
    assert found.shifts == ()
    assert why in found.waits
    assert alarm_of(found) is None


def test_few_values_are_no_good_news() -> None:
    (shift,) = seen(12, line(10, 60), line(11, 60), line(12, 20, (7, 8))).shifts
    assert (shift.p, shift.alarm, shift.seen) == (None, False, 1)
    (shift,) = seen(12, line(10, 40), line(11, 40), line(12, 400, (7, 8))).shifts
    assert shift.p is None


def test_versions_and_tenants_have_their_own_references() -> None:
    """The new version has only begun; the other tenant is as it was."""
    quiet = [line(hour, 200, tenant="globex") for hour in (10, 11, 12)]
    fresh = line(12, 200, (50, 60), version="w")
    found = seen(12, line(10, 200), line(11, 200), line(12, 200, (7, 8)), *quiet, fresh)
    alarmed = {(shift.version, shift.tenant): shift.alarm for shift in found.shifts}
    assert alarmed == {("v", "acme"): True, ("v", "globex"): False}
    told = alarm_of(found)
    assert told is not None
    assert told.said.startswith("drift of m: x of version v for acme (distance 1, p ")


def test_a_feature_that_is_gone_or_new_is_named() -> None:
    other = msgspec.structs.replace(line(12, 200), features=(Binned("y", True, (1,), (200,)),))
    found = {shift.feature: shift for shift in seen(12, line(10, 200), line(11, 200), other).shifts}
    assert (found["x"].window, found["x"].p, found["y"].reference, found["y"].p) == (0, None, 0, None)


@pytest.mark.parametrize(
    ("good", "bad", "prediction"),
    [(True, False, None), (1.0, 0.0, None), ("seven", "three", "seven"), ("fine", "poor", None), (7.0, 8.0, "7")],
)
def test_quality_is_what_feedback_says_when_it_comes(
    good: bool | float | str, bad: bool | float | str, prediction: str | None
) -> None:
    def facts(hour: int, value: bool | float | str) -> list[Judged]:
        return [Judged(hour * HOUR_NS + at, "acme", "v", value, prediction) for at in range(150)]

    asked = [line(hour, 200) for hour in (10, 11, 12)]
    worse = seen(12, *asked, facts=[*facts(10, good), *facts(11, good), *facts(12, bad)])
    assert {shift.feature: shift.alarm for shift in worse.shifts} == {"quality": True, "x": False}
    same = seen(12, *asked, facts=[*facts(10, good), *facts(11, good), *facts(12, good)])
    assert not same.alarmed


def test_a_window_is_looked_at_when_its_lines_are_there() -> None:
    late_ns = HOUR_NS // 8 + 5 * 10**9
    assert due(POLICY, 13 * HOUR_NS + late_ns - 1) == 11
    assert due(POLICY, 13 * HOUR_NS + late_ns) == 12
    daily = DriftPolicy()
    assert due(daily, 48 * HOUR_NS + 606 * 10**9) == 1  # ten minutes are enough for a day


def test_what_is_wanted_is_owed_and_tried_again_with_growing_pauses() -> None:
    alarm = Alarm("m", "drift", DriftLook("m", 0, 1, ()))
    wanted = OnAlarm(hold_rollouts=True, webhook="http://x", command=("notify", "-v"))
    owed = owed_for(alarm, msgspec.structs.replace(POLICY, on_alarm=wanted))
    assert [(one.how, one.to) for one in owed] == [
        ("hold", ()),
        ("webhook", ("http://x",)),
        ("command", ("notify", "-v")),
    ]
    assert owed_for(alarm, POLICY) == ()
    pauses: list[float] = []
    one: Owed | None = owed[1]
    while (one := again(one, 0)) is not None:
        pauses.append(one.not_before_ns / 1e9)
    assert pauses == [1, 4, 16, 64, 256, 1024, 3600, 3600, 3600]


STEP = RolloutStep(0.1, min_requests=10, bake_s=0)
ROLLOUT = Rollout("id", "m", "old", "new", "digest", RolloutPolicy("canary", steps=(STEP,)), 0)


def guard(verdict: Verdict) -> tuple[Looked, ...]:
    return (Looked("errors", verdict, 0, 0, 0.01, 100, 100, "it is worse"),)


def test_a_rollout_that_drift_holds_goes_on_only_by_hand_but_is_rolled_back_still() -> None:
    held = by_hand(ROLLOUT, "hold", "by servery: drift", 5)
    assert held is not None
    assert (held.phase, held.held_by) == (Phase.HELD, "drift")
    assert by_hand(held, "hold", "again", 6) is None
    assert moved(held, guard(Verdict.NO_DIFFERENCE), 1_000, 10**12) == held
    assert moved(held, guard(Verdict.WORSE), 1_000, 10**12).phase is Phase.ROLLED_BACK
    resumed = by_hand(held, "resume", "it is fine", 7)
    assert resumed is not None
    assert (resumed.phase, resumed.held_by) == (Phase.RUNNING, "")
    assert moved(resumed, guard(Verdict.NO_DIFFERENCE), 1_000, 10**12).phase is Phase.PROMOTED
    paused = by_hand(ROLLOUT, "pause", "wait", 5)
    assert paused is not None
    assert by_hand(paused, "hold", "drift", 6) is None

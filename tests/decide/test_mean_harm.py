"""Evidence about a difference of means: never promises more than it may, whatever was seen, and is as sharp as it should be."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.stats.bets import PASSED, WORSE, Bets, Segment, ladder, log_evidence, table
from servery.stats.mean_harm import MeanHarm
from servery.stats.windows import Sums, Window, hits

shares = st.floats(0.005, 0.995)
chances = st.floats(0, 1)
values = st.floats(0, 1)
signs = st.sampled_from((1, -1))


def sums_of(sample: list[float]) -> Sums:
    return Sums(len(sample), math.fsum(sample), math.fsum(x * x for x in sample))


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    return Segment(
        draw(shares),
        draw(values),
        draw(values),
        draw(st.floats(1e-6, 0.3)),
        draw(st.floats(1e-3, 1)),
        draw(st.floats(0, 0.999)),
        0.05,
    )


@st.composite
def windows(draw: st.DrawFn) -> Window:
    counts = [draw(st.integers(0, 300)) for _ in range(2)]
    ones = [draw(st.integers(0, count)) for count in counts]
    share = draw(st.sampled_from((0.0, 0.01, 0.05, 0.5, 0.9, 1.0)))
    return Window(share, hits(ones[0], counts[0]), hits(ones[1], counts[1]))


def one(of_candidate: bool, value: float, share: float) -> Window:
    seen = Sums(1, value, value * value)
    return Window(share, Sums(), seen) if of_candidate else Window(share, seen, Sums())


@settings(deadline=None, max_examples=300)
@given(st.lists(windows(), max_size=6), shares, chances, chances, signs, st.floats(-0.2, 0.5), st.floats(1e-4, 0.3))
def test_no_next_observation_is_expected_to_add_to_false_evidence(
    past: list[Window], share: float, first: float, second: float, sign: int, margin: float, effect: float
) -> None:
    """Exactly, over both arms and both values: the expected evidence after it is at most the evidence before it."""
    harm = MeanHarm(margin, effect)
    for window in past:
        harm = harm.after(window)
    # The arms' true chances of a hit: the harm is on the side where the evidence would be false, or at the margin.
    incumbent, candidate = first, first + sign * min(sign * (second - first), sign * margin)
    candidate = min(max(candidate, 0.0), 1.0)
    if sign * (candidate - incumbent) > sign * margin + 1e-12:
        return  # out of the range of chances
    expected = 0.0
    for of_candidate, chance in ((False, incumbent), (True, candidate)):
        for value in (0.0, 1.0):
            likely = (share if of_candidate else 1 - share) * (chance if value else 1 - chance)
            expected += likely * math.exp(
                harm.after(one(of_candidate, value, share)).evidence(sign) - harm.evidence(sign)
            )
    assert expected <= 1 + 1e-9


@settings(deadline=None)
@given(segments(), st.lists(values, max_size=20), st.lists(values, max_size=20), signs, st.floats(-0.3, 0.3))
def test_sums_tell_at_most_what_the_values_would(
    segment: Segment, incumbent: list[float], candidate: list[float], sign: int, harm: float
) -> None:
    summed = msgspec.structs.replace(segment, incumbent=sums_of(incumbent), candidate=sums_of(candidate))
    (told,) = log_evidence(table([summed]), sign, (harm,), 0.3)
    assert told <= bets_one_by_one(segment, incumbent, candidate, sign, harm) + 1e-6


@settings(deadline=None)
@given(segments(), st.lists(st.sampled_from((0.0, 1.0)), max_size=20), signs, st.floats(-0.3, 0.3), st.data())
def test_of_zeros_and_ones_they_tell_all(
    segment: Segment, sample: list[float], sign: int, harm: float, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(sample)))
    incumbent, candidate = sample[:cut], sample[cut:]
    exact = msgspec.structs.replace(
        segment, upward=1.0, downward=0.0, incumbent=sums_of(incumbent), candidate=sums_of(candidate)
    )
    (told,) = log_evidence(table([exact]), sign, (harm,), 0.3)
    assert told == pytest.approx(bets_one_by_one(segment, incumbent, candidate, sign, harm), abs=1e-6)


def bets_one_by_one(segment: Segment, incumbent: list[float], candidate: list[float], sign: int, harm: float) -> float:
    """By the definition: each bet's stake times its product of 1 + λ·sign·(y - harm)."""
    share, centre = segment.share, segment.worse_centre if sign > 0 else segment.passed_centre
    y = [(x - centre - harm) / share for x in candidate] + [-(x - centre) / (1 - share) for x in incumbent]
    ends = [(x - centre - sign * 0.3) / share for x in (0, 1)] + [(centre - x) / (1 - share) for x in (0, 1)]
    bets = WORSE if sign > 0 else PASSED
    total = 0.0
    for size, part in zip(bets.sizes, bets.parts, strict=True):
        bet = min(size * 0.05 / segment.spread * share * (1 - share), -0.98 / min(sign * end for end in ends))
        total += part * math.prod(1 + bet * sign * one for one in y)
    return math.log(total)


@pytest.mark.parametrize("share", [0.01, 0.02, 0.05, 0.5])
@pytest.mark.parametrize("alpha", [0.05, 0.0005])
@pytest.mark.parametrize("window", [1, 20])
def test_a_candidate_that_always_fails_is_worse_within_a_few_attempts(share: float, alpha: float, window: int) -> None:
    """Nothing is known before: `window` Attempts of the candidate at a time, and the incumbent's, of which one in 1,000 fails."""
    harm, others = MeanHarm(0.005), round(window / share - window)
    for attempts in range(window, 101, window):
        harm = harm.after(Window(share, hits(round(others / 1000), others), hits(window, window)))
        if harm.bounds(alpha, alpha).low >= 0.005:
            assert attempts <= 40
            return
    pytest.fail("not found")


def test_no_data_is_no_news() -> None:
    harm = MeanHarm(0.01)
    assert harm.bounds(0.05, 0.05) == harm.after(Window(0.1, Sums(), Sums())).bounds(0.05, 0.05)
    bounds = harm.bounds(0.05, 0.05)
    assert (bounds.low, bounds.high) == (-1.0, 1.0)
    assert (harm.evidence(1), harm.evidence(-1)) == pytest.approx((0, 0), abs=1e-12)
    quiet = harm
    for _ in range(50):  # the candidate gets nothing
        quiet = quiet.after(Window(0.05, hits(1, 1000), Sums()))
    assert quiet.bounds(0.05, 0.05).high > 0.01
    assert quiet.bounds(0.05, 0.05).low < 0.01


def test_what_was_never_shared_teaches_only_the_centre() -> None:
    before = MeanHarm(0.01).after(Window(0.0, hits(30, 100_000), Sums()))
    assert before.segments == ()
    after = before.after(Window(0.05, hits(0, 100), hits(0, 5)))
    assert after.segments[0].worse_centre == pytest.approx(0.0003, rel=0.05)
    assert MeanHarm(0.01, expected=0.2).after(Window(0.05, hits(0, 1), Sums())).segments[
        0
    ].worse_centre == pytest.approx(0.2)


@settings(deadline=None, max_examples=50)
@given(st.lists(windows(), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_bounds_and_evidence_agree(seen: list[Window], margin: float) -> None:
    harm = MeanHarm(margin)
    for window in seen:
        harm = harm.after(window)
    for alpha in (0.3, 0.01):
        bounds = harm.bounds(alpha, alpha)
        assert (bounds.low >= margin) == (harm.evidence(1) >= math.log(1 / alpha))
        assert (bounds.high <= margin) == (harm.evidence(-1) >= math.log(1 / alpha))
    assert msgspec.json.decode(msgspec.json.encode(harm), type=MeanHarm) == harm


def test_segments_grow_with_the_logarithm_also_when_late_windows_mix() -> None:
    harm = MeanHarm(0.01)
    for look in range(3000):
        share = (0.01, 0.05)[look % 2]  # what belongs to the step before arrives all the time
        harm = harm.after(Window(share, hits(1, 1000), hits(0, 10)))
    assert len(harm.segments) < 60
    kept = [sum(one.candidate.n for one in harm.segments), sum(one.incumbent.n for one in harm.segments)]
    assert kept == [30_000, 3_000_000]


def test_units_and_direction_are_the_metrics_own() -> None:
    """Dollars or cents, quality or its lack: the same evidence."""
    draws = np.random.default_rng(3)
    plain, cents, quality = MeanHarm(0.05), MeanHarm(5.0, cap=100.0), MeanHarm(0.05)
    for _ in range(20):
        both = [draws.beta(2, 5, 40), draws.beta(3, 5, 40)]
        arms = [Sums(40, float(x.sum()), float((x * x).sum())) for x in both]
        lacking = [Sums(40, float((1 - x).sum()), float(((1 - x) ** 2).sum())).flipped(1.0) for x in both]
        plain = plain.after(Window(0.5, *arms))
        cents = cents.after(Window(0.5, *(arm.times(100) for arm in arms)))
        quality = quality.after(Window(0.5, *lacking))
    bounds = plain.bounds(0.05, 0.05)
    assert 0 < bounds.low < 3 / 8 - 2 / 7 < bounds.high
    for other, unit in ((cents, 100), (quality, 1)):
        assert other.bounds(0.05, 0.05).low == pytest.approx(unit * bounds.low)
        assert other.bounds(0.05, 0.05).high == pytest.approx(unit * bounds.high)


@pytest.mark.parametrize("wrong", [Sums(1, 3, 9), Sums(2, 1, 1.5), Sums(1, -1, 1), Sums(1, math.nan, 0)])
def test_values_above_the_cap_are_refused(wrong: Sums) -> None:
    with pytest.raises(ValueError, match="cut values off at the cap"):
        MeanHarm(0.01).after(Window(0.5, wrong, Sums()))


def test_stakes_add_up() -> None:
    for bets in (WORSE, PASSED, ladder(-2, 2, 0, 1)):
        assert sum(bets.parts) == pytest.approx(1)
    assert ladder(-1, 1, 0, 0.5) == Bets((0.5, 1.0, 2.0), (0.25, 0.5, 0.25))

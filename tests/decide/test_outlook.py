"""What thresholds would have given: held against what they do give when the same is asked by them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.gateway.watch import Watch
from servery.routing.next import Kind, Tried
from servery.routing.outlook import Outlook
from servery.routing.pace import Layout, Pace, pace_of
from servery.terms.record import Attempt, Candidate, Choice, Role
from servery.terms.routes import Accept, Ceiling, Policy, Route, Tier
from worlds.pacing import Ask, answer

FIRST = Accept(0.6, (0.2, 0.9), "logprob")
ROUTES = {
    "a score": Route(
        (Tier("a", "a", share=(0, 0.5)), Tier("b", "b"), Tier("c", "c")),
        Policy("complexity", thresholds=(0.3, 0.6), ranges=((0.1, 0.5), (0.5, 0.9))),
    ),
    "a confidence": Route(
        (Tier("a", "a", FIRST, (0, 0.5)), Tier("b", "b")), Policy("cascade"), ceiling=Ceiling(1)
    ),
    "both": Route(
        (Tier("a", "a", FIRST, (0, 0.5)), Tier("b", "b", FIRST), Tier("c", "c")),
        Policy("complexity", thresholds=(0.3, 0.6), ranges=((0.1, 0.5), (0.5, 0.9))),
    ),
}  # fmt: skip


def asks_of(seed: int, count: int) -> list[Ask]:
    draw = np.random.default_rng(seed)
    costs = draw.lognormal(8, 1, (count, 3)).round()
    return [
        Ask(float(score), tuple(sure.tolist()), tuple(cost.tolist()), tuple(cost.tolist()))
        for score, sure, cost in zip(draw.random(count), draw.random((count, 3)), costs, strict=True)
    ]


def counted(
    kind: Kind, pace: Pace, thresholds: Sequence[float], asks: Sequence[Ask]
) -> tuple[Outlook, list[float], float]:
    """What was seen, and what it came to: shares and mean pico-dollars."""
    watch, tiers, spent = Watch(pace), [0] * len(pace.tiers), 0
    for ask in asks:
        tried, tier = answer(kind, pace, thresholds, ask)
        attempts = [
            Attempt(Role.SERVE, pace.tiers[one.step], "", "", 1, int(one.step == tier), 0, int(ask.pico[one.step]))
            for one in tried
        ]
        candidates = tuple(Candidate(name, "", int(cost)) for name, cost in zip(pace.tiers, ask.pico, strict=False))
        score = ask.score if kind is Kind.COMPLEXITY else None
        watch.note(attempts, tried, Choice(1.0, candidates, score, ()), True)
        tiers[tier] += 1
        spent += sum(one.pico_usd for one in attempts)
    seen = np.zeros(Layout(pace).size)
    for at, count in watch.take().items():
        seen[at] += count
    return Outlook(pace, Layout(pace), seen), [count / len(asks) for count in tiers], spent / len(asks)


def places(pace: Pace, thresholds: Sequence[float]) -> list[np.ndarray]:
    found = [dial.levels.index(at) for dial, at in zip(pace.dials, thresholds, strict=True)]
    return [np.asarray(place) for place in found]


@pytest.mark.parametrize("name", ROUTES)
@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_of_the_thresholds_in_effect_it_says_what_came_of_them(name: str, seed: int) -> None:
    pace = pace_of(ROUTES[name], True)
    assert pace is not None
    look, shares, mean = counted(Kind(ROUTES[name].policy.kind), pace, pace.declared, asks_of(seed, 300))
    found = look.at(places(pace, pace.declared))
    assert [float(share) for share in found.shares] == pytest.approx(shares)
    assert float(found.pico) == pytest.approx(mean, rel=1e-6)
    assert look.even == pytest.approx(300)


@pytest.mark.parametrize("name", ["a score", "a confidence"])
@given(st.integers(0, 10_000), st.data())
@settings(max_examples=15, deadline=None)
def test_of_others_it_says_what_would_have_come_of_them(name: str, seed: int, data: st.DataObject) -> None:
    """Exactly, where forecasts are right and no tier but the last is reached by what wasn't sure."""
    pace, kind = pace_of(ROUTES[name], True), Kind(ROUTES[name].policy.kind)
    assert pace is not None
    asks = asks_of(seed, 300)
    look, _, _ = counted(kind, pace, pace.declared, asks)
    others = [data.draw(st.sampled_from(dial.levels)) for dial in pace.dials]
    _, shares, mean = counted(kind, pace, others, asks)
    found = look.at(places(pace, others))
    assert [float(share) for share in found.shares] == pytest.approx(shares)
    assert float(found.pico) == pytest.approx(mean, rel=1e-6)


def test_many_are_looked_at_at_once() -> None:
    pace = pace_of(ROUTES["both"], True)
    assert pace is not None
    look, _, _ = counted(Kind.COMPLEXITY, pace, pace.declared, asks_of(1, 300))
    at = places(pace, pace.declared)
    grid = list(at)
    grid[2], grid[3] = np.arange(5)[:, np.newaxis], np.arange(7)[np.newaxis, :]
    found = look.at(grid)
    assert found.pico.shape == (5, 7)
    for row, column in ((0, 0), (4, 6), (2, 3)):
        at[2], at[3] = np.asarray(row), np.asarray(column)
        one = look.at(at)
        assert float(found.pico[row, column]) == pytest.approx(float(one.pico))
        assert np.broadcast_to(found.shares[2], (5, 7))[row, column] == pytest.approx(float(one.shares[2]))


def test_what_thresholds_dont_lead_counts_and_doesnt_move() -> None:
    pace = pace_of(ROUTES["a confidence"], True)
    assert pace is not None
    watch, cost = Watch(pace), 1_000
    choice = Choice(1.0, (Candidate("a", "", 10), Candidate("b", "", cost)))
    fell_back = [Attempt(Role.SERVE, "a", "", "", 1, 0, 0, 10), Attempt(Role.FALLBACK, "b", "", "", 1, 1, 0, cost)]
    sure = [Attempt(Role.SERVE, "a", "", "", 1, 1, 0, 10)]
    for _ in range(50):
        watch.note(fell_back, [], choice, False)
        watch.note(sure, [Tried(0, None, confidences=(0.7,))], choice, True)
    seen = np.zeros(Layout(pace).size)
    for at, count in watch.take().items():
        seen[at] += count
    look = Outlook(pace, Layout(pace), seen)
    (dial,) = pace.dials
    all_sure = look.at([np.asarray(0)])
    nobody = look.at([np.asarray(len(dial.levels) - 1)])
    assert [float(share) for share in all_sure.shares] == [0.5, 0.5]
    assert float(all_sure.pico) == pytest.approx((10 + 10 + cost) / 2)
    assert [float(share) for share in nobody.shares] == [0.0, 1.0]
    assert float(nobody.pico) == pytest.approx((10 + 10 + cost + cost) / 2)


def test_many_rows_are_counted_as_one_by_one() -> None:
    pace = pace_of(Route((Tier("a", "a", Accept(0.6, (0.2, 0.9)), (0, 0.5)), Tier("b", "b")), Policy("cascade")), False)
    assert pace is not None
    draw = np.random.default_rng(1)
    sure = [float("nan"), *pace.dials[0].levels, *draw.random(500).tolist()]
    one_by_one, at_once = Watch(pace), Watch(pace)
    for part in (sure[at : at + 8] for at in range(0, len(sure), 8)):
        attempt = Attempt(Role.SERVE, "a", "", "", len(part), len(part), 0, 0)
        one_by_one.note([attempt], [Tried(0, None, confidences=part)], None, True)
    attempt = Attempt(Role.SERVE, "a", "", "", len(sure), len(sure), 0, 0)
    at_once.note([attempt], [Tried(0, None, confidences=sure)], None, True)
    first, _ = Layout(pace).judged(0)
    counts = [{at: count for at, count in watch.take().items() if at >= first} for watch in (one_by_one, at_once)]
    assert counts[0] == counts[1]


def test_rows_of_one_request_say_as_much_as_one() -> None:
    pace = pace_of(Route((Tier("a", "a", Accept(0.6, (0.2, 0.9)), (0, 0.5)), Tier("b", "b")), Policy("cascade")), False)
    assert pace is not None
    watch = Watch(pace)
    for _ in range(20):
        attempts = [
            Attempt(Role.SERVE, "a", "", "", 100, 60, 0, 1_000),
            Attempt(Role.SERVE, "b", "", "", 40, 40, 0, 8_000),
        ]
        tried = [Tried(0, None, confidences=(0.7,) * 60 + (0.3,) * 40), Tried(1, tuple(range(40)))]
        watch.note(attempts, tried, None, True)
    seen = np.zeros(Layout(pace).size)
    for at, count in watch.take().items():
        seen[at] += count
    look = Outlook(pace, Layout(pace), seen)
    assert (look.rows, look.requests, look.even) == (2_000, 20, pytest.approx(20))
    assert look.spread == pytest.approx(0, abs=1e-9)
    found = look.at([np.asarray(len(pace.dials[0].levels) - 1)])
    assert float(found.pico) == pytest.approx(10 + 200)  # all rows go on, at 200 a row

"""The value of another policy from recorded traffic: by definition, with intervals that hold, and with its doubts."""

from __future__ import annotations

import numpy as np
import pytest

from servery.stats.offpolicy import Logged, Valued, evaluate, refusal

TIERS = 3
Draws = np.random.Generator


def right(hardness: np.ndarray) -> np.ndarray:
    """The chance that each tier is right about questions of this hardness, by column."""
    return 1 / (1 + np.exp(4 * hardness[:, None] - np.array([1.0, 2.5, 5.0])))


def preferred(score: np.ndarray, easy: float, hard: float, explore: float) -> np.ndarray:
    """The chances of each tier, by a policy with two thresholds that explores now and then."""
    tier = (score > easy).astype(int) + (score > hard)
    return explore / TIERS + (1 - explore) * np.eye(TIERS)[tier]


def logged(draws: Draws, n: int, explore: float = 0.2, model: float = 1.0) -> tuple[Logged, float]:
    """A log of a cheap policy, seen by a dearer one that doesn't explore; and the dearer one's true value on these questions.

    Worth is 1 for a right answer less a tier's price. `model` says how good the predictions are.
    """
    hardness = draws.uniform(0, 1.5, n)
    score = hardness + draws.normal(0, 0.2, n)
    old, new = preferred(score, 0.7, 1.3, explore), preferred(score, 0.3, 0.9, 0.0)
    worth = right(hardness) - np.array([0.0, 0.1, 0.3])
    tier = (draws.random(n)[:, None] > np.cumsum(old, axis=1)).sum(axis=1)
    rows = np.arange(n)
    seen = (draws.random(n) < right(hardness)[rows, tier]) - np.array([0.0, 0.1, 0.3])[tier]
    guess = model * worth + (1 - model) * 0.5
    log = Logged(seen, old[rows, tier], new[rows, tier], guess[rows, tier], (new * guess).sum(axis=1))
    return log, float((new * worth).sum(axis=1).mean())


TRUE = float(np.mean([logged(np.random.default_rng((0, run)), 50_000)[1] for run in range(20)]))


@pytest.mark.parametrize("model", [1.0, 0.0])
def test_intervals_cover_the_true_value(model: float) -> None:
    """Of 500 simulated logs, at 95 %; whether the predictions are true or say nothing."""
    found: list[Valued] = []
    for run in range(500):
        log, _ = logged(np.random.default_rng((1, run)), 1500, model=model)
        found.append(evaluate(log))
    for name in ("ips", "self_normalised", "doubly_robust"):
        held = [getattr(one, name).low <= TRUE <= getattr(one, name).high for one in found]
        assert np.mean(held) >= 0.93, name
    widths = {name: np.mean([getattr(one, name).high - getattr(one, name).low for one in found]) for name in NAMES}
    assert widths["self_normalised"] < widths["ips"]
    if model == 1.0:
        assert widths["doubly_robust"] < widths["self_normalised"]
    gains = [one.gain for one in found]
    gained = TRUE - np.mean([one.recorded.value for one in found])
    assert np.mean([one.low <= gained <= one.high for one in gains]) >= 0.93


NAMES = ("ips", "self_normalised", "doubly_robust")


def test_by_hand() -> None:
    log = Logged(np.array([1.0, 0.0, 2.0]), np.array([0.5, 0.25, 0.25]), np.array([1.0, 0.0, 0.5]))
    told = evaluate(log)
    assert told.recorded.value == pytest.approx(1)
    assert told.ips.value == pytest.approx((2 * 1 + 0 + 2 * 2) / 3)
    assert told.self_normalised.value == pytest.approx(6 / 4)
    assert told.doubly_robust is None
    assert told.effective == pytest.approx(2)
    assert told.gain.value == pytest.approx(0.5)


def test_the_same_policy_is_worth_what_was_recorded() -> None:
    log, _ = logged(np.random.default_rng(2), 2000)
    told = evaluate(Logged(log.worth, log.propensity, log.propensity))
    assert told.ips.value == told.self_normalised.value == pytest.approx(log.worth.mean())
    assert told.effective == pytest.approx(2000)
    assert told.gain.high - told.gain.low == pytest.approx(0, abs=1e-9)
    assert told.warnings == ()


def test_choices_of_one_unit_count_together() -> None:
    log, _ = logged(np.random.default_rng(3), 400)
    worth, propensity, chance = (np.repeat(one, 10) for one in (log.worth, log.propensity, log.chance))
    tenfold = Logged(worth, propensity, chance)
    units = 7_000_000_000 * np.repeat(np.arange(400), 10)
    together = evaluate(Logged(worth, propensity, chance, units=units)).self_normalised
    apart, once = (
        evaluate(tenfold).self_normalised,
        evaluate(Logged(log.worth, log.propensity, log.chance)).self_normalised,
    )
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert apart.high - apart.low < 0.4 * (once.high - once.low)


def test_it_says_what_to_mistrust() -> None:
    draws = np.random.default_rng(4)
    few = evaluate(logged(draws, 60)[0])
    assert any("tells as much as" in one for one in few.warnings)
    n = 4000
    rare = np.full(n, 0.5)
    rare[0] = 1e-4
    heavy = evaluate(Logged(draws.random(n), rare, np.full(n, 0.5)))
    assert any("carries" in one for one in heavy.warnings)
    narrow, _ = logged(draws, n, explore=0.3)
    wrong = evaluate(Logged(narrow.worth, narrow.propensity, 0.6 * narrow.chance))
    assert any("average 0.6" in one for one in wrong.warnings)


@pytest.mark.parametrize(
    ("propensity", "chance", "why"),
    [
        ([1.0, 1.0, 1.0], [1.0, 0.0, 1.0], "every choice was certain"),
        ([0.5, 0.0, 0.5], [1.0, 0.0, 1.0], "isn't above 0"),
        ([0.5, 1.5, 0.5], [1.0, 0.0, 1.0], "at most 1"),
        ([0.5, np.nan, 0.5], [1.0, 0.0, 1.0], "isn't above 0"),
        ([0.5, 0.5, 0.5], [0.0, 0.0, 0.0], "none of the recorded"),
        ([0.5], [1.0], "fewer than two"),
    ],
)
def test_what_a_log_cant_tell_is_refused(propensity: list[float], chance: list[float], why: str) -> None:
    log = Logged(np.ones(len(chance)), np.array(propensity), np.array(chance))
    assert why in (refusal(log) or "")
    with pytest.raises(ValueError, match=why):
        evaluate(log)

"""Users keep their version: from their Requests to the ledger, to the guards, to what becomes of the Rollout."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from lines import attempt, record
from servery.control.evidence import calls_of
from servery.control.judge import Judge
from servery.control.observe import Observer
from servery.control.promote import moved
from servery.routing.assignment import Trial, assign, digest_of
from servery.store.ledger import Cursor, Ledger
from servery.terms.record import Outcome, Record
from servery.terms.rollouts import Guard, Phase, Rollout, RolloutPolicy, RolloutStep, Unit
from worlds.streams import surely

NS = 10**9
NOW_S = 1_760_000_040
STEPS = (RolloutStep(0.3, 0, 100_000, 200_000), RolloutStep(0.6, 0, 100_000, 200_000))
POLICY = RolloutPolicy("canary", Unit("x-user"), STEPS, (Guard("errors", 0.01),))
PER_MINUTE = 200


def world(folder: Path, seed: int, users: int, harm: float, minutes: int = 8) -> Rollout:
    """Each user has an error rate of its own: most hardly any, some half of the time. The candidate's is `harm` more.

    Half of the time is spent in each step.
    """
    draw = np.random.default_rng(seed)
    rates = np.where(draw.random(users) < 0.1, 0.5, 0.005)
    rollout = Rollout(f"r{seed}", "m", "old", "new", "new", POLICY, 0)
    judge, observer = Judge(POLICY), Observer(rollout.id, POLICY)
    ledger = Ledger(folder / f"{seed}.db", create=True)
    for minute in range(minutes):
        at_s = NOW_S + 60 * minute
        asked = [
            _asked(rollout, draw, user, float(rates[user]), harm, at_s) for user in draw.integers(0, users, PER_MINUTE)
        ]
        ledger.write(asked, "run", Cursor(), at_s * NS)
        if minute == minutes // 2:
            rollout = msgspec.structs.replace(rollout, step=1)
        evidence = observer.look(ledger, at_s)
        rollout = moved(rollout, judge.look(evidence), calls_of(evidence), 60 * (minute + 1) * NS)
        if rollout.phase.over:
            break
    ledger.close()
    return rollout


def _asked(rollout: Rollout, draw: np.random.Generator, user: int, rate: float, harm: float, at_s: int) -> Record:
    arm, told = assign(
        Trial(rollout.id, rollout.share, rollout.step, "x-user"), digest_of(rollout.id, str(user).encode())
    )
    fails = draw.random() < rate + harm * (arm.word == "candidate")
    outcome, reason = (Outcome.FAILED, "model_failed") if fails else (Outcome.SERVED, "")
    made = msgspec.structs.replace(attempt(), arm=arm.told(rollout.id, rollout.step), outcome=outcome, reason=reason)
    return msgspec.structs.replace(record(made, at_ns=at_s * NS), arms=(told,))


def test_users_who_stay_in_their_arm_count_once(tmp_path: Path) -> None:
    """With each request as an observation of its own 8 of these 30 are rolled back."""
    ended = [world(tmp_path, seed, 50, 0.0) for seed in range(30)]
    back = sum(one.phase is Phase.ROLLED_BACK for one in ended)
    assert surely(back, len(ended)) <= POLICY.false_rollbacks, f"{back} of {len(ended)} without harm were rolled back"


def test_what_is_harmful_to_users_is_found(tmp_path: Path) -> None:
    ended = [world(tmp_path, seed, 2_000, 0.5) for seed in range(3)]
    assert {one.phase for one in ended} == {Phase.ROLLED_BACK}

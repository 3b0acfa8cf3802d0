"""Promote: what becomes of a Rollout by the Verdicts on its guards. Pure.

One guard that says worse rolls back. A step is over when every guard has passed, it has lasted as long and seen as many
calls as it should. A step that can't be decided in time is held, or rolled back, as the manifest says; no data is no pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from servery.terms.rollouts import Looked, Phase, Rollout, Verdict

NS = 10**9
_PASSED = (Verdict.BETTER, Verdict.NO_DIFFERENCE)
replace = msgspec.structs.replace


def moved(rollout: Rollout, looks: Sequence[Looked], calls: int, now_ns: int, gates: Sequence[Looked] = ()) -> Rollout:
    """The Rollout after a look at all of its guards; `calls` are the candidate's so far. `gates` say whether the candidate is
    ready for more than it has: no step is over before.
    """
    if rollout.phase in (Phase.PAUSED,) or rollout.phase.over:
        return rollout
    looks = (*gates, *looks)
    worse = [one for one in looks if one.verdict is Verdict.WORSE]
    if worse:
        why = "; ".join(one.said for one in worse)
        return replace(rollout, phase=Phase.ROLLED_BACK, why=why, since_ns=now_ns)
    if rollout.held_by:
        return rollout
    invalid = [one for one in looks if one.verdict is Verdict.INVALID]
    if invalid:
        return _held(rollout, "; ".join(one.said for one in invalid))
    step = rollout.policy.steps[rollout.step]
    lasted_ns = now_ns - rollout.since_ns
    needed = gates if rollout.gated else looks
    passed = all(one.verdict in _PASSED for one in needed)
    if passed and calls - rollout.seen >= step.min_requests and lasted_ns >= step.bake_s * NS:
        return _onward(rollout, calls, now_ns)
    if lasted_ns > step.max_duration_s * NS:
        open_ = [one.guard for one in needed if one.verdict not in _PASSED]
        why = f"step {rollout.step + 1} wasn't decided within {step.max_duration_s:g} s: "
        why += (
            f"{', '.join(open_)} neither passed nor broke"
            if open_
            else f"{calls - rollout.seen} of {step.min_requests} calls came"
        )
        if rollout.policy.on_timeout == "rollback":
            return replace(rollout, phase=Phase.ROLLED_BACK, why=why, since_ns=now_ns)
        return _held(rollout, why)
    return replace(rollout, phase=Phase.RUNNING, why="") if rollout.phase is Phase.HELD else rollout


def _held(rollout: Rollout, why: str) -> Rollout:
    return rollout if rollout.phase is Phase.HELD else replace(rollout, phase=Phase.HELD, why=why)


def _onward(rollout: Rollout, calls: int, now_ns: int) -> Rollout:
    if rollout.step + 1 < len(rollout.policy.steps):
        return replace(rollout, step=rollout.step + 1, since_ns=now_ns, seen=calls, phase=Phase.RUNNING, why="")
    if rollout.policy.when_passed == "wait":
        return _held(rollout, "every guard passed; it waits to be promoted by hand")
    return replace(rollout, phase=Phase.PROMOTED, since_ns=now_ns, why="every guard passed at every step")


def shifted(rollout: Rollout, by_ns: int) -> Rollout:
    """As it is after the wall clock has jumped by this: how long its step has lasted stays what it was."""
    return replace(rollout, since_ns=rollout.since_ns + by_ns, began_ns=rollout.began_ns + by_ns)


def by_hand(rollout: Rollout, verb: str, why: str, now_ns: int) -> Rollout | None:
    """What a person makes of it, or an alarm that holds it; None where it can't be done: a Rollout that is over stays as it is."""
    if rollout.phase.over:
        return None
    match verb:
        case "pause" if rollout.phase is not Phase.PAUSED:
            return replace(rollout, phase=Phase.PAUSED, why=why)
        case "resume" if rollout.phase is Phase.PAUSED or rollout.held_by:
            return replace(rollout, phase=Phase.RUNNING, why=why, since_ns=now_ns, held_by="")
        case "hold" if rollout.phase in (Phase.RUNNING, Phase.HELD) and not rollout.held_by:
            return replace(rollout, phase=Phase.HELD, why=why, held_by="drift")
        case "promote":
            return replace(rollout, phase=Phase.PROMOTED, why=why, since_ns=now_ns)
        case "abort":
            return replace(rollout, phase=Phase.ABORTED, why=why, since_ns=now_ns)
        case _:
            return None

"""An alarm of drift holds a rollout that is under way: it goes on when somebody resumes it, and its guards roll it back still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from servery.control.evidence import Evidence, Totals
from servery.control.rollouts import Rollouts
from servery.host.clock import Clock, Dice
from servery.store.rollouts import RolloutBook
from servery.terms.change import Candidate, Change, Served, Snapshot, Version
from servery.terms.history import Intent
from servery.terms.manifest import Manifest
from servery.terms.reasons import Refusal
from servery.terms.rollouts import Looked, Phase, Rollout, RolloutPolicy, RolloutStep, Verdict

STEP = RolloutStep(0.1, min_requests=0, bake_s=0)
POLICY = RolloutPolicy("canary", steps=(STEP,))


class Serving:
    """What is served, as the Rollouts want it."""

    def __init__(self) -> None:
        model = {"runtime": "onnx", "artifact": "m.onnx"}
        manifest = msgspec.convert({"servery": 1, "models": {"m": model}}, Manifest)
        served = Served((Version("m", "1", "d", "m.onnx"),))
        candidate = Candidate("r1", manifest.models["m"], served, 0.1)
        self.settled = Snapshot(1, manifest, "", {"m": served}, candidates={"m": candidate})

    async def amend(self, amended: Callable[[Snapshot], Snapshot], intent: Callable[[], Intent]) -> Change:
        self.settled = amended(self.settled)
        return Change(2)

    async def withdraw(self, rollouts: frozenset[str]) -> None:
        pass

    def alive(self) -> None:
        pass


class Guards:
    """Guards that say what they are told to, as their Judge and as what that goes by."""

    def __init__(self) -> None:
        self.verdict = Verdict.NO_DIFFERENCE

    def judge(self, policy: RolloutPolicy, state: bytes | None) -> Guards:
        return self

    def observe(self, rollout: Rollout) -> Callable[[], Evidence | None]:
        return dict

    def before(self, rollout: Rollout) -> Totals | None:
        return None

    def learn(self, before: Totals) -> None:
        pass

    def look(self, evidence: Evidence) -> tuple[Looked, ...]:
        return (Looked("errors", self.verdict, 0, 0, 0.01, 10, 10, "so it is"),)

    def state(self) -> bytes:
        return b""


class Open:
    """Gates that are never shut."""

    def of(self, candidate: Candidate) -> Open:
        return self

    def look(self, rollout: Rollout) -> tuple[Looked, ...]:
        return ()

    async def close(self) -> None:
        pass


@pytest.fixture
def book(tmp_path: Path) -> RolloutBook:
    made = RolloutBook(tmp_path / "state.db", tmp_path / "heads")
    # Begun just now: one that has run for long is looked at less often.
    made.keep(Rollout("r1", "m", "old", "new", "digest", POLICY, Clock().wall_ns()), "", 1, ())
    return made


async def begun(book: RolloutBook, guards: Guards) -> Rollouts:
    """The Rollouts of a controller that has started, without its own turns."""
    rollouts = Rollouts(Serving(), book, guards, Open(), Clock(), Dice())
    await rollouts.start()
    await rollouts.drain()
    return rollouts


def phase(rollouts: Rollouts) -> Phase | None:
    return next((one.phase for one, _ in rollouts.under_way), None)


def test_a_held_rollout_waits_for_somebody(book: RolloutBook) -> None:
    async def live() -> None:
        rollouts = await begun(book, Guards())
        held = await rollouts.act("m", "hold", "servery", "drift of m: x")
        assert (held.phase, held.why) == (Phase.HELD, "by servery: drift of m: x")
        with pytest.raises(Refusal):
            await rollouts.act("m", "hold", "servery", "drift of m: y")
        await rollouts.turn()
        assert phase(rollouts) is Phase.HELD
        again = await begun(book, Guards())  # another life of the controller
        await again.turn()
        assert phase(again) is Phase.HELD
        assert (await again.act("m", "resume", "alice", "it is fine")).phase is Phase.RUNNING
        await again.turn()
        assert phase(again) is None
        assert [one.phase for one in await again.over(1)] == [Phase.PROMOTED]

    asyncio.run(live())


def test_a_held_rollout_is_rolled_back_where_it_does_harm(book: RolloutBook) -> None:
    async def live() -> None:
        guards = Guards()
        rollouts = await begun(book, guards)
        await rollouts.act("m", "hold", "servery", "drift of m: x")
        guards.verdict = Verdict.WORSE
        await rollouts.turn()
        assert [one.phase for one in await rollouts.over(1)] == [Phase.ROLLED_BACK]

    asyncio.run(live())

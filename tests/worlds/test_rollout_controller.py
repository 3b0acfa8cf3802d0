"""The controller's own turns over a Rollout, with its real book and Judge, on a clock that does what clocks shouldn't."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from servery.control.arrange import arrange
from servery.control.evidence import Draw, Evidence, Seen, Totals
from servery.control.judge import Judge
from servery.control.rollouts import Rollouts
from servery.host.clock import Clock, Dice
from servery.store.rollouts import RolloutBook
from servery.terms.change import Candidate, Change, Served, Snapshot, Version
from servery.terms.history import Intent
from servery.terms.manifest import Manifest, Model
from servery.terms.rollouts import Guard, Looked, Phase, Rollout, RolloutPolicy, RolloutStep

NS = 10**9
HOUR_NS = 3_600 * NS
START_NS = 1_800_000_000 * NS


class World:
    """What a controller has, of one Model `m` whose new Version comes as a canary. It is also what serves, watches and gates."""

    def __init__(self, folder: Path, policy: RolloutPolicy) -> None:
        self.wall_ns, self.steady_ns = START_NS, 0
        model = Model("onnx", "m", rollout=policy)
        one, two = (
            Snapshot(1, Manifest(1, {"m": model}), "", {"m": Served((Version("m", "1", digest * 64, "m"),))})
            for digest in "ab"
        )
        self.settled = arrange(one, two, lambda: "r1").snapshot
        self.evidence: Evidence | None = {}
        self.busy = asyncio.Lock()  # held while another change is under way
        self.withdrawn: frozenset[str] = frozenset()
        self._folder = folder

    def rollouts(self) -> Rollouts:
        """As a controller that starts makes them."""
        book = RolloutBook(self._folder / "state.db", self._folder / "heads")
        clock = Clock(lambda: self.wall_ns, lambda: self.steady_ns)
        return Rollouts(self, book, self, self, clock, Dice())

    async def amend(self, amended: Callable[[Snapshot], Snapshot], intent: Callable[[], Intent]) -> Change:
        async with self.busy:
            assert intent().act == "rollout"
            self.settled = amended(self.settled)
            return Change(1)

    async def withdraw(self, rollouts: frozenset[str]) -> None:
        self.withdrawn = rollouts

    def alive(self) -> None: ...

    def judge(self, policy: RolloutPolicy, state: bytes | None) -> Judge:
        return Judge(policy, state)

    def observe(self, rollout: Rollout) -> Callable[[], Evidence | None]:
        assert rollout.id == "r1"
        return lambda: self.evidence

    def before(self, rollout: Rollout) -> Totals | None:
        return None

    def of(self, candidate: Candidate) -> World:
        assert candidate.rollout == "r1"
        return self

    def look(self, rollout: Rollout) -> tuple[Looked, ...]:
        return ()

    async def close(self) -> None: ...

    async def turns(self, rollouts: Rollouts, count: int) -> Rollout:
        """So many looks, a second after each other; the Rollout then."""
        for _ in range(count):
            self.wall_ns += NS
            self.steady_ns += NS
            await rollouts.turn()
        under_way = rollouts.under_way
        return under_way[0][0] if under_way else (await rollouts.over(1))[0]

    def answered(self, calls: int, errors: float = 0) -> None:
        """From now on so many calls are known in each step, and of the candidate's this part had no answer."""
        evidence: dict[Draw, Seen] = {}
        for step, declared in enumerate(STEPS):
            new = round(calls * declared.share)
            old = calls - new
            evidence[Draw(step)] = Seen(Totals(old, old, 0), Totals(new, new, round(new * errors)))
        self.evidence = evidence


STEPS = (RolloutStep(0.4, 10, 60, 600), RolloutStep(0.5, 10, 60, 600))
ERRORS = RolloutPolicy("canary", steps=STEPS, guards=(Guard("errors", 0.2),))


def test_a_clock_that_jumps_ahead_ends_no_step_and_one_that_jumps_back_holds_none_up(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, ERRORS)
        rollouts = world.rollouts()
        world.answered(2_000)
        assert (await world.turns(rollouts, 5)).step == 0
        world.wall_ns += HOUR_NS  # as if the step had lasted far too long
        assert (await world.turns(rollouts, 5)).phase is Phase.RUNNING
        world.wall_ns -= 30 * HOUR_NS
        assert (await world.turns(rollouts, 40)).step == 0
        now = await world.turns(rollouts, 12)  # a minute after its beginning, by a clock that never jumped
        assert (now.step, now.phase) == (1, Phase.RUNNING)
        again = world.rollouts()
        await again.start()
        assert again.under_way[0][0].since_ns == now.since_ns
        await again.drain()

    asyncio.run(run())


def test_a_guard_on_what_nobody_tells_is_never_good_news(tmp_path: Path) -> None:
    async def run() -> None:
        guards = (Guard("errors", 0.2), Guard("feedback", 0.1, name="label"))
        world = World(tmp_path, msgspec.structs.replace(ERRORS, guards=guards))
        rollouts = world.rollouts()
        world.answered(2_000)
        assert (await world.turns(rollouts, 500)).step == 0
        held = await world.turns(rollouts, 105)
        assert held.phase is Phase.HELD
        assert "feedback label neither passed nor broke" in held.why

    asyncio.run(run())


@pytest.mark.parametrize("evidence", [None, {}])
def test_without_a_ledger_or_without_calls_nothing_goes_on(tmp_path: Path, evidence: Evidence | None) -> None:
    async def run() -> None:
        world = World(tmp_path, ERRORS)
        rollouts = world.rollouts()
        world.evidence = evidence
        now = await world.turns(rollouts, 100)
        assert (now.step, now.phase, world.settled.candidates["m"].share) == (0, Phase.RUNNING, 0.4)

    asyncio.run(run())


def test_what_is_no_longer_declared_ends_and_what_is_worse_goes(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, ERRORS)
        rollouts = world.rollouts()
        await world.turns(rollouts, 1)
        world.settled = msgspec.structs.replace(world.settled, candidates={})
        assert (await world.turns(rollouts, 2)).phase is Phase.ABORTED
        second = World(tmp_path / "other", ERRORS)
        (tmp_path / "other").mkdir()
        rollouts = second.rollouts()
        second.answered(2_000, 0.75)
        assert (await second.turns(rollouts, 2)).phase is Phase.ROLLED_BACK
        assert second.settled.candidates == {}

    asyncio.run(run())


def test_what_is_served_can_be_ended_at_once_though_nobody_has_looked_at_it_yet(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, ERRORS)
        assert (await world.rollouts().act("m", "pause", "ops", "lunch")).phase is Phase.PAUSED
        other = World(tmp_path / "other", ERRORS)
        (tmp_path / "other").mkdir()
        assert (await other.rollouts().act("m", "abort", "ops", "a complaint")).phase is Phase.ABORTED
        assert other.settled.candidates == {}

    asyncio.run(run())


def test_what_is_ended_or_worse_is_withdrawn_while_another_change_is_under_way_and_goes_after_it(
    tmp_path: Path,
) -> None:
    async def run(folder: Path, by_hand: bool) -> None:
        world = World(folder, ERRORS)
        rollouts = world.rollouts()
        await world.turns(rollouts, 1)
        async with world.busy, asyncio.timeout(20):
            if by_hand:
                await rollouts.act("m", "abort", "ops", "a complaint")
            else:
                world.answered(2_000, 0.75)
                await world.turns(rollouts, 2)
            assert world.withdrawn == {"r1"}
            assert world.settled.candidates
            later = world.rollouts()  # the controller dies before anything else is served
            await world.turns(later, 1)
            assert later.under_way == ()
            assert world.withdrawn == {"r1"}
        await world.turns(rollouts, 2)
        assert world.settled.candidates == {}
        assert world.withdrawn == frozenset()

    for by_hand in (True, False):
        (tmp_path / str(by_hand)).mkdir()
        asyncio.run(run(tmp_path / str(by_hand), by_hand))

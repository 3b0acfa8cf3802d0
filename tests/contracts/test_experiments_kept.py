"""Experiments on a virtual clock, over the real state: begun, looked at, concluded by what they say or by their time, and gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servery.control.experiments import Evidence, Experiments
from servery.host.clock import Clock, Dice
from servery.stats.asymptotic import UnitSums
from servery.store.experiments import ExperimentBook
from servery.terms.change import Change, Snapshot
from servery.terms.experiments import Arm, Conclusion, Design, Experiment, Metric, Stage
from servery.terms.history import Intent
from servery.terms.manifest import Manifest
from servery.terms.reasons import Reason, Refusal
from servery.terms.rollouts import Unit
from servery.terms.routes import Route, Tier

NS = 10**9
ROUTE = Route((Tier("only", "one"),))
DESIGN = Design(
    "r", (Arm("old", 0.5), Arm("new", 0.5, models={"only": "two"})), Metric("errors", 0.02), unit=Unit(header="x-user"),
    max_duration_s=1000,
)  # fmt: skip


class Serving:
    """Serves whatever it is told to."""

    def __init__(self, *designs: tuple[str, Design]) -> None:
        self.settled = Snapshot(1, Manifest(1, routes={"r": ROUTE, "s": ROUTE}, experiments=dict(designs)), "", {})

    async def amend(self, amended: Callable[[Snapshot], Snapshot], intent: Callable[[], Intent]) -> Change:
        assert intent().act == "experiment"
        self.settled = amended(self.settled)
        return Change(2)


class World:
    """One controller's Experiments, and the errors of each arm's users."""

    def __init__(self, folder: Path, **changed: Any) -> None:
        self.now_ns = 1_000 * NS
        self.clock = Clock(lambda: self.now_ns, lambda: self.now_ns)
        self.design = msgspec.structs.replace(DESIGN, **changed)
        self.serving = Serving(("try", self.design), ("other", self.design))
        self.folder = folder
        self.units, self.errors, self.nameless = 0, (0.0, 0.0), 0
        self.service = self.restarted()

    def restarted(self) -> Experiments:
        book = ExperimentBook(self.folder / "state.db", self.folder / "heads")
        return Experiments(self.serving, book, self._observe, self.clock, Dice())

    def _observe(self, experiment: Experiment, until_ns: int) -> Evidence:
        n = self.units
        sums = {
            arm.name: UnitSums(n, x=share * n, y=n, xx=share * n, yy=n, xy=share * n)
            for arm, share in zip(experiment.design.arms, self.errors, strict=True)
        }
        counts = {"old": (n, n), "new": (n, n), "excluded": (0, self.nameless)}
        return Evidence(counts, [sums])

    async def go(self, seconds: int, turns: int = 2) -> None:
        for _ in range(turns):
            self.now_ns += seconds * NS // turns
            await self.service.turn()

    async def of(self, name: str = "try") -> Experiment:
        return (await self.service.report(name))[0]


def run(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(act())


def test_what_harms_ends_by_itself_and_what_is_better_waits_for_a_person(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path)
        await world.service.act("try", "start", "ann", "why not")
        world.units, world.errors = 3000, (0.2, 0.1)
        await world.go(10)
        assert (await world.of()).stage is Stage.RUNNING
        world.units, world.errors = 4000, (0.2, 0.05)
        assert (await world.service.act("try", "stop", "ann", "good")).arm == "new"
        assert (await world.service.report("try"))[1][-1].looks[0].units == 8000
        assert (await world.of()).conclusion is Conclusion.SHIP
        assert world.serving.settled.experiments == {}
        await world.service.act("try", "start", "ann", "once more")
        world.errors = (0.1, 0.2)
        await world.go(10)
        ended = await world.of()
        assert (ended.conclusion, ended.who) == (Conclusion.KEEP, "servery")
        assert world.serving.settled.experiments == {}

    run(act)


def test_it_ends_with_its_time_and_after_a_time_before(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path, before_s=500)
        await world.service.act("try", "start", "ann", "")
        assert world.serving.settled.experiments["try"].stage is Stage.BEFORE
        await world.go(400)
        assert (await world.of()).stage is Stage.BEFORE
        await world.go(200)
        assert world.serving.settled.experiments["try"].stage is Stage.RUNNING
        await world.go(900)
        assert (await world.of()).stage is Stage.RUNNING
        await world.go(200)
        ended = await world.of()
        assert (ended.conclusion, "its time is over; nothing was decided") == (Conclusion.KEEP, ended.why)

    run(act)


def test_a_controller_that_starts_again_goes_on_and_looks_are_never_rewritten(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path)
        begun = await world.service.act("try", "start", "ann", "")
        world.units, world.errors = 3000, (0.1, 0.1)
        await world.go(10)
        _, before = await world.service.report("try")
        world.service = world.restarted()
        await world.service.start()
        world.units = 4000
        await world.go(10)
        await world.service.drain()
        again, looks = await world.service.report("try")
        assert again == begun
        assert looks[: len(before)] == before
        assert len(looks) > len(before)

    run(act)


def test_what_is_not_served_any_more_and_requests_without_a_unit_are_invalid(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path)
        await world.service.act("try", "start", "ann", "")
        world.units, world.nameless = 3000, 200
        await world.go(10)
        ended = await world.service.act("try", "stop", "ann", "")
        assert ended.conclusion is Conclusion.INVALID
        assert "came without their unit" in ended.why
        await world.service.act("try", "start", "ann", "")
        world.serving.settled = msgspec.structs.replace(world.serving.settled, experiments={})
        await world.go(10)
        assert (await world.of()).conclusion is Conclusion.INVALID

    run(act)


@pytest.mark.parametrize(
    ("name", "verb", "said"),
    [
        ("try", "start", "runs already"),
        ("other", "start", "'try' runs on 'r' already"),
        ("none", "start", "declares 'try', 'other'"),
        ("other", "stop", "no experiment 'other' runs"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, name: str, verb: str, said: str) -> None:
    async def act() -> None:
        world = World(tmp_path)
        await world.service.act("try", "start", "ann", "")
        with pytest.raises(Refusal, match=said) as refused:
            await world.service.act(name, verb, "ann", "")
        assert refused.value.reason in (Reason.CONFLICT, Reason.NOT_FOUND)

    run(act)


def test_drafts_are_listed_beside_what_runs_and_what_is_over(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path)
        await world.service.act("try", "start", "ann", "")
        await world.service.act("try", "stop", "ann", "")
        await world.service.act("try", "start", "ann", "")
        found = [(one.name, one.stage) for one, _ in await world.service.all(10)]
        assert found == [("try", Stage.RUNNING), ("other", Stage.DRAFT), ("try", Stage.CONCLUDED)]
        with pytest.raises(Refusal, match="'other' is a draft"):
            await world.service.report("other")

    run(act)

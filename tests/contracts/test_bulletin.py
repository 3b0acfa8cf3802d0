"""The Bulletin from who writes it to who goes by it: told again, written down, outlived, and given up in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from servery.control.posting import Posting
from servery.gateway.holder import Holder
from servery.gateway.holdings import Holdings
from servery.gateway.minutes import OwnMinutes
from servery.gateway.serving import Serving
from servery.gateway.trained import Reads
from servery.gateway.trials import Lease
from servery.gateway.watch import Watch
from servery.host.bulletin import read_bulletin
from servery.host.channel import Channel
from servery.host.clock import Clock
from servery.routing.next import Tried
from servery.routing.pace import paces
from servery.terms.bulletin import GOOD_FOR_NS, Bulletin, Sight
from servery.terms.change import Served, Snapshot, Standing, Version
from servery.terms.limits import Limits
from servery.terms.manifest import Confidence, Manifest, Model
from servery.terms.messages import Posted
from servery.terms.placement import Placement
from servery.terms.record import Attempt, Role, Uptime
from servery.terms.routes import Accept, Policy, Route, Tier
from servery.terms.statistics import VersionStatistics
from worlds.virtual import SIGNATURE, Fate, VirtualLoop, WorldTarget

NS = 10**9
S = 1e9


def snapshot(epoch: int = 1, confidence: float = 0.6, paced: bool = True) -> Snapshot:
    models = {name: Model("onnx", name, confidence=Confidence("p")) for name in ("a", "b")}
    accept = Accept(confidence, (0.1, 0.9) if paced else None)
    routes = {"r": Route((Tier("cheap", "a", accept, (0.6, 0.8)), Tier("dear", "b")), Policy("cascade"))}
    versions = {
        name: Served((Version(name, "1", f"{at}" * 64, "", signature=SIGNATURE),)) for at, name in enumerate(models)
    }
    return Snapshot(epoch, Manifest(1, models, routes), "", versions)


class Moment:
    """A clock that is told what time it is."""

    def __init__(self) -> None:
        self.now_ns = 10**18
        self.clock = Clock(lambda: self.now_ns, lambda: self.now_ns)

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * S)


class Peer:
    """The end of a channel where what was told is kept."""

    def __init__(self) -> None:
        self.told: list[Bulletin] = []

    def send(self, message: Posted) -> None:
        self.told.append(message.bulletin)


class Control:
    """A Posting in a folder, with two workers."""

    def __init__(self, folder: Path, published: Snapshot, moment: Moment) -> None:
        self.moment = moment
        self.peers = [Peer(), Peer()]
        self.path = folder / "bulletin.json"
        channels = [cast(Channel, peer) for peer in self.peers]
        self.posting = Posting(self.path, published, moment.clock, lambda: channels)

    def turn(self) -> None:
        self.moment.pass_s(0.5)
        asyncio.run(self.posting.turn())

    def last(self) -> Bulletin:
        assert self.peers[0].told == self.peers[1].told
        return self.peers[0].told[-1]


def sight(published: Snapshot, low: float, count: int = 400) -> Sight:
    """What a worker sees of rows whose confidence is anything above `low`."""
    (pace,) = paces(published).values()
    watch, draw = Watch(pace), random.Random(1)
    for _ in range(count):
        sure = draw.uniform(low, 1)
        up = sure < 0.6
        attempts = [
            Attempt(Role.SERVE, "cheap", "a", "", 1, int(not up), 0, 10),
            Attempt(Role.SERVE, "dear", "b", "", 1, 1, 0, 90),
        ]
        tried = [Tried(0, None, confidences=(sure,)), Tried(1, None)]
        watch.note(attempts[: 1 + up], tried[: 1 + up], None, True)
    return Sight("r", pace.of, dict(watch.take()))


def moved(folder: Path, moment: Moment) -> Control:
    control = Control(folder, snapshot(), moment)
    control.posting.hear([sight(snapshot(), 0.0)])
    control.turn()
    return control


def test_what_workers_saw_moves_thresholds_for_all_of_them(tmp_path: Path) -> None:
    control = Control(tmp_path, snapshot(), Moment())
    control.turn()
    assert control.peers[0].told == []  # nothing is so that isn't declared
    assert not control.path.exists()
    control.posting.hear([sight(snapshot(), 0.0)])
    control.turn()
    (fact,) = control.last().facts
    assert (fact.route, fact.epoch, fact.age_ns) == ("r", 1, 0)
    assert 0.25 < fact.values[0] < 0.4
    (told,) = control.posting.paced().routes
    assert told.thresholds[0].now == fact.values[0]
    assert (told.thresholds[0].declared, told.thresholds[0].low, told.thresholds[0].high) == (0.6, 0.1, 0.9)
    assert 0.6 < (told.shares[0].now or 0) < 0.8


def test_workers_hear_again_and_again_that_it_is_still_so(tmp_path: Path) -> None:
    control = moved(tmp_path, Moment())
    before = len(control.peers[0].told)
    for _ in range(60):
        control.turn()
    assert 2 <= len(control.peers[0].told) - before <= 4
    assert len({bulletin.epoch for bulletin in control.peers[0].told}) == 1


def test_what_was_seen_of_another_declaration_says_nothing(tmp_path: Path) -> None:
    control = Control(tmp_path, snapshot(), Moment())
    control.posting.hear([replace(sight(snapshot(), 0.0), of="another's"), replace(sight(snapshot(), 0.0), route="q")])
    control.turn()
    assert control.posting.bulletin.facts == ()


@pytest.mark.parametrize(("away_s", "known"), [(0.0, True), (250.0, True), (301.0, False)])
def test_a_new_controller_goes_on_unless_too_much_time_has_passed(tmp_path: Path, away_s: float, known: bool) -> None:
    moment = Moment()
    before = moved(tmp_path, moment).posting.bulletin
    moment.pass_s(away_s)
    after = Control(tmp_path, snapshot(), moment)
    assert after.posting.bulletin.facts == (before.facts if known else ())
    assert Control(tmp_path, snapshot(confidence=0.7), moment).posting.bulletin.facts == ()
    after.posting.adopt(40)  # its workers go by a Bulletin that isn't in the file
    after.posting.hear([sight(snapshot(), 0.0)] * 2)
    if not known:
        after.turn()
        assert after.last().epoch == 41


def test_what_is_written_down_is_as_old_as_the_controllers_last_word(tmp_path: Path) -> None:
    moment = Moment()
    control = moved(tmp_path, moment)
    for _ in range(400):
        control.turn()
    (fact,) = read_bulletin(control.path, moment.now_ns).facts
    assert fact.age_ns <= 61 * NS
    moment.pass_s(100)
    (older,) = read_bulletin(control.path, moment.now_ns).facts
    assert older.age_ns == fact.age_ns + 100 * NS
    control.path.write_bytes(b"{")
    assert read_bulletin(control.path, moment.now_ns) == Bulletin()


def test_another_declaration_begins_where_it_is_declared_and_workers_hear_that_at_once(tmp_path: Path) -> None:
    control = moved(tmp_path, Moment())
    epoch = control.last().epoch
    control.posting.keep(replace(snapshot(), epoch=2))
    assert control.last().epoch == epoch  # nothing of this route is new
    control.posting.keep(snapshot(3, 0.7))
    assert (control.last().epoch, control.last().facts) == (epoch + 1, ())
    control.posting.keep(snapshot(4, paced=False))
    assert control.posting.paced().routes == ()


class Life(WorldTarget):
    """A Target with a life that takes no time."""

    name = "model"
    one_row_ns = 0.0

    async def start(self) -> None:
        """It is there."""

    async def drain(self) -> None:
        """It is gone."""

    def uptimes(self, run: str, now_ns: int) -> list[Uptime]:
        return []

    def statistics(self) -> tuple[VersionStatistics, ...]:
        return ()


def no_budgets(holder: Holder, limits: Limits) -> None:
    """These are about other things."""


def serving_on(loop: VirtualLoop, published: Snapshot) -> Serving:
    def make(model: Model, version: Version, standing: Standing, placement: Placement) -> Any:
        return Life(1, version.model, 0, loop, lambda: Fate(0, True), 1)

    def nothing(digest: str) -> Any:
        raise AssertionError(f"there is no trained file {digest}")

    holdings, lease = Holdings(OwnMinutes().make, no_budgets, lambda _: None), Lease(loop.clock.steady_ns)
    return Serving(published, b"secret", make, lambda _: None, holdings, Reads(nothing, nothing), lease)


class Inline(ThreadPoolExecutor):
    """Does at once what is to be done in a thread: virtual time doesn't wait for one."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def test_thresholds_are_swapped_in_whole_and_come_back_when_nobody_knows_any_more(tmp_path: Path) -> None:
    bulletin = moved(tmp_path, Moment()).posting.bulletin
    (stands,) = bulletin.facts[0].values

    async def live() -> None:
        loop = cast(VirtualLoop, asyncio.get_running_loop())
        serving = serving_on(loop, snapshot())
        shown: list[float | None] = []
        serving.when_swapped(lambda table: shown.append(table.entries["r"].plan.steps[0].accept))
        await serving.start()
        assert shown == [0.6]
        serving.hear(bulletin)
        assert (shown[-1], serving.bulletin) == (stands, bulletin.epoch)
        swaps = len(shown)
        await asyncio.sleep(200)
        serving.hear(bulletin)  # the controller still knows it
        assert len(shown) == swaps
        await asyncio.sleep(GOOD_FOR_NS / S - 1)
        assert serving.table.entries["r"].plan.steps[0].accept == stands
        await asyncio.sleep(2)
        assert serving.table.entries["r"].plan.steps[0].accept == shown[-1] == 0.6
        serving.hear(bulletin)
        assert shown[-1] == stands
        assert await serving.change(snapshot(2, 0.7)) == {}
        assert shown[-1] == 0.7  # other thresholds are declared
        await serving.drain()

    loop = VirtualLoop()
    loop.set_default_executor(Inline())
    try:
        loop.run_until_complete(live())
    finally:
        loop.close()

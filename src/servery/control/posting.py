"""Who writes the Bulletin: adds up what workers saw, has thresholds follow it, and tells all workers together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from servery.control.published import write_whole
from servery.host.bulletin import read_bulletin
from servery.host.channel import Channel
from servery.host.clock import Clock
from servery.routing.pace import Pace, paces
from servery.terms.bulletin import GOOD_FOR_NS, Bulletin, Kept, Sight, Thresholds
from servery.terms.change import Snapshot
from servery.terms.messages import Posted
from servery.terms.paced import PacedRoute, PacedRoutes, PacedShare, PacedThreshold

if TYPE_CHECKING:
    from servery.routing.pacing import Pacer

log = logging.getLogger("servery.controller")

_EVERY_S = 0.5
_AGAIN_NS = 10 * 10**9  # so often workers hear that what they know is still so
_KEEP_NS = 60 * 10**9  # and so often it is written down


class Posting:
    """A Service. `peers` are the channels to the workers that are connected now."""

    name = "bulletin"
    unready = ""

    def __init__(self, path: Path, snapshot: Snapshot, clock: Clock, peers: Callable[[], Iterable[Channel]]) -> None:
        self._path = path
        self._clock = clock
        self._peers = peers
        self._task: asyncio.Task[None] | None = None
        self._paced: dict[str, _Paced] = {}  # by Route
        self._said_ns = self._kept_ns = 0
        self._kept = Bulletin()
        before = read_bulletin(path, clock.wall_ns())
        self._epoch = before.epoch
        self.keep(snapshot, before)

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._go_on(), name="bulletin")

    async def drain(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self._write(self._clock.wall_ns())

    def keep(self, snapshot: Snapshot, before: Bulletin | None = None) -> None:
        """Pace the Routes of this Snapshot: those that are declared as they were go on, others begin where they are declared,
        or where they stood `before`.
        """
        stood = {(fact.route, fact.of): fact for fact in before.facts if fact.age_ns < GOOD_FOR_NS} if before else {}
        known, paced = paces(snapshot), dict[str, _Paced]()
        for name, pace in known.items():
            one = self._paced.get(name)
            paced[name] = one if one is not None and one.pace == pace else _made(pace, stood.get((name, pace.of)))
        gone = any(one.moved and paced.get(name) is not one for name, one in self._paced.items())
        self._paced = paced
        if gone:
            self._epoch += 1
            self.tell(self._peers())

    def adopt(self, epoch: int) -> None:
        """A worker goes by a Bulletin of this epoch: the next one has a higher one."""
        self._epoch = max(self._epoch, epoch)

    def hear(self, sights: Sequence[Sight]) -> None:
        """Add what a worker saw. What belongs to another declaration of the Route says nothing of this one."""
        for sight in sights:
            one = self._paced.get(sight.route)
            if one is not None and one.pace.of == sight.of:
                one.pacer.see(sight.counts)

    def tell(self, peers: Iterable[Channel]) -> None:
        """Tell these workers what is so."""
        message = Posted(self.bulletin)
        for channel in peers:
            channel.send(message)

    @property
    def bulletin(self) -> Bulletin:
        """All that is so now. Thresholds that stand where they are declared are no news."""
        return Bulletin(
            self._epoch,
            tuple([
                Thresholds(one.epoch, 0, name, one.pace.of, one.pacer.thresholds)
                for name, one in self._paced.items()
                if one.moved
            ]),
        )  # fmt: skip

    def paced(self) -> PacedRoutes:
        """How each Route stands whose thresholds follow its traffic."""
        return PacedRoutes(self._epoch, tuple([_told(name, one) for name, one in self._paced.items()]))

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.turn()
            except Exception:
                log.exception("thresholds could not be paced, by an error of ours; they stay where they are")

    async def turn(self) -> None:
        """Decide by what was heard; tell the workers, and write it down, where that is due."""
        now_ns, wall_ns = self._clock.steady_ns(), self._clock.wall_ns()
        moved = [name for name, one in self._paced.items() if one.decide(name, now_ns, self._epoch + 1)]
        if moved:
            self._epoch += 1
        if moved or (self._epoch and now_ns - self._said_ns >= _AGAIN_NS):
            self._said_ns = now_ns
            self.tell(self._peers())
        if self.bulletin != self._kept or (self._kept.facts and wall_ns - self._kept_ns >= _KEEP_NS):
            await self._write(wall_ns)

    async def _write(self, wall_ns: int) -> None:
        bulletin = self.bulletin
        if not bulletin.epoch:
            return
        try:
            await asyncio.to_thread(write_whole, self._path, msgspec.json.encode(Kept(wall_ns, bulletin)))
        except OSError as error:
            log.error(
                "%s can't be written (%s): a new start will begin with the declared thresholds", self._path, error
            )
        self._kept, self._kept_ns = bulletin, wall_ns


class _Paced:
    """One Route. `epoch`: of the Bulletin in which its thresholds were new."""

    def __init__(self, pace: Pace, pacer: Pacer, epoch: int) -> None:
        self.pace = pace
        self.pacer = pacer
        self.epoch = epoch
        self._unkept: tuple[str, ...] = ()

    @property
    def moved(self) -> bool:
        return self.pacer.thresholds != self.pace.declared

    def decide(self, name: str, now_ns: int, epoch: int) -> bool:
        """Let the thresholds follow; whether they moved. The log says so, and what can't be kept."""
        before = self.pacer.thresholds
        step = self.pacer.decide(now_ns)
        if step is not None:
            self.epoch = epoch
            places = [
                f"{self.pace.tiers[dial.tier]} {old:g} → {new:g}"
                for dial, old, new in zip(self.pace.dials, before, step.thresholds, strict=True)
                if old != new
            ]
            log.info("route %s: the thresholds of %s, because %s", name, ", ".join(places), step.why)
        unkept = self.pacer.unkept
        if bool(unkept) != bool(self._unkept):
            if unkept:
                log.warning("route %s: no thresholds within their ranges would keep %s", name, "; ".join(unkept))
            else:
                log.info("route %s: all that it promises of its traffic is kept again", name)
        self._unkept = unkept
        return step is not None


def _made(pace: Pace, stood: Thresholds | None) -> _Paced:
    from servery.routing.pacing import Pacer  # noqa: PLC0415 numpy, where it is needed

    return _Paced(pace, Pacer(pace, stood.values if stood else ()), stood.epoch if stood else 0)


def _told(name: str, one: _Paced) -> PacedRoute:
    pace, stands = one.pace, one.pacer.stands()
    bands = {band.tier: (band.low, band.high) for band in pace.bands}
    shares = stands.shares or (None,) * len(pace.tiers)
    return PacedRoute(
        name,
        stands.requests,
        tuple([
            PacedThreshold(
                pace.tiers[dial.tier], "score" if dial.enters else "confidence",
                dial.declared, dial.levels[0], dial.levels[-1], now,
            )
            for dial, now in zip(pace.dials, stands.thresholds, strict=True)
        ]),
        tuple([
            PacedShare(tier, *bands.get(at, (0.0, 1.0)), share)
            for at, (tier, share) in enumerate(zip(pace.tiers, shares, strict=True))
        ]),
        stands.mean_pico / 1e6,
        pace.most_pico / 1e6,
        stands.unkept,
    )  # fmt: skip

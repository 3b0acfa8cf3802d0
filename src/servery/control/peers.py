"""The workers that are connected to the controller, and what is asked of all of them at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Collection

from servery.host.channel import Channel
from servery.terms.messages import Count, Counted, Withdraw, Withdrew
from servery.terms.statistics import VersionStatistics, latest, together

log = logging.getLogger("servery.controller")

_COUNT_S = 2.0
_WITHDRAW_S = 1.0


class Peer:
    """A worker that is connected, and the epoch that it answers by."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.name = ""
        self.epoch = 0
        self.asked = 0  # the number of the last count it answered
        self.counted: tuple[VersionStatistics, ...] = ()
        self.withdrew = 0  # and that of the last withdrawal


class Peers:
    """All of them, for one event loop. `moved` is set whenever one of them has said something, or is gone."""

    def __init__(self) -> None:
        self.all: list[Peer] = []
        self.moved = asyncio.Event()
        self._ended: tuple[VersionStatistics, ...] = ()  # of workers that are gone
        self._numbers = itertools.count(1)
        self._withdrawn: Withdraw | None = None  # the last; None: it isn't known yet what is

    def met(self, peer: Peer) -> bool:
        """One has said who it is, and is told what is withdrawn; whether that is known."""
        self.all.append(peer)
        if self._withdrawn is None:
            return False
        peer.channel.send(self._withdrawn)
        return True

    def lost(self, peer: Peer) -> None:
        """One is gone."""
        if peer in self.all:
            self.all.remove(peer)
            self._ended = latest((*self._ended, *peer.counted))
        peer.channel.close()
        self.moved.set()

    def hear(self, peer: Peer, message: Counted | Withdrew) -> None:
        """What one answers."""
        match message:
            case Counted(number, statistics):
                peer.asked, peer.counted = max(peer.asked, number), statistics
            case Withdrew(number):
                peer.withdrew = max(peer.withdrew, number)

    async def statistics(self) -> tuple[VersionStatistics, ...]:
        """What has run on this machine since the controller's start. Of a worker that doesn't answer, what it said last."""
        number = next(self._numbers)
        waiting = set(self.all)
        for peer in waiting:
            peer.channel.send(Count(number))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all(waiting, lambda peer: peer.asked >= number), _COUNT_S)
        return together(latest((*self._ended, *(one for peer in self.all for one in peer.counted))))

    async def withdraw(self, rollouts: frozenset[str]) -> None:
        """Have no worker give anybody the candidates of these Rollouts, and of no others, until it is said anew; done once all have
        said so. It needs no Snapshot, so a change that is under way doesn't hold it up.
        """
        if self._withdrawn is not None and self._withdrawn.rollouts == rollouts:
            return
        number = next(self._numbers)
        self._withdrawn = Withdraw(number, rollouts)
        waiting = set(self.all)
        for peer in waiting:
            peer.channel.send(self._withdrawn)
        if not rollouts:
            return
        try:
            await asyncio.wait_for(self._all(waiting, lambda peer: peer.withdrew >= number), _WITHDRAW_S)
        except TimeoutError:
            behind = ", ".join(peer.name for peer in waiting if peer in self.all and peer.withdrew < number)
            log.error("a version that was rolled back is not yet withdrawn in %s", behind)

    async def _all(self, peers: Collection[Peer], done: Callable[[Peer], bool]) -> None:
        while any(peer in self.all and not done(peer) for peer in peers):
            self.moved.clear()
            await self.moved.wait()

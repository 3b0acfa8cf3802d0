"""What a worker serves: its Targets, the Table over them, and how both change while requests are under way."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from servery.gateway.board import Board, alike, posted
from servery.gateway.holdings import Holdings
from servery.gateway.table import Base, Table, Target, compile_table
from servery.gateway.texts import TextTarget
from servery.gateway.trained import Reads, Trained, read_trained
from servery.gateway.trials import Lease
from servery.gateway.watch import Watch
from servery.host.service import Service
from servery.routing.learned_file import BadFile
from servery.routing.pace import paces
from servery.terms.bulletin import Bulletin, Sight
from servery.terms.change import Served, Snapshot, Standing, Version
from servery.terms.limits import Limits
from servery.terms.manifest import Model, Versions
from servery.terms.placement import Placement, placement_of, timed
from servery.terms.reasons import Reason
from servery.terms.record import Uptime
from servery.terms.rollouts import RolloutPolicy
from servery.terms.statistics import VersionStatistics, latest, together

log = logging.getLogger("servery.worker")

Key = tuple[str, str, str]  # Model, number, and the Rollout of a candidate ("": it is served)


class Life(Service, Protocol):
    """A Target's life is the worker's: it is started before a Table points at it, and drained after the last."""

    @property
    def version(self) -> Version: ...
    @property
    def refusal(self) -> Reason | None: ...
    def uptimes(self, run: str, now_ns: int) -> list[Uptime]: ...
    def statistics(self) -> tuple[VersionStatistics, ...]: ...
    @property
    def one_row_ns(self) -> float:
        """What a call of one row takes here; 0 where it isn't known, or doesn't run here."""
        ...


class Owned(Target, Life, Protocol):
    """One that takes tensors."""


class OwnedText(TextTarget, Life, Protocol):
    """One that takes text."""


class Made(msgspec.Struct, frozen=True):
    """A Target, and the declaration that it was made from."""

    model: Model
    version: Version
    standing: Standing
    placement: Placement
    target: Owned | OwnedText

    @property
    def how(self) -> tuple[Model, Version, Standing, Placement]:
        return self.model, self.version, self.standing, self.placement


def _running(snapshot: Snapshot) -> Iterator[tuple[str, str, Model, Served]]:
    """All that is to be loaded: the Rollout ("" of what is served), the Model's name, its declaration, its Versions."""
    for name, declared in snapshot.manifest.models.items():
        yield "", name, declared, snapshot.models[name]
    for name, one in snapshot.candidates.items():
        yield one.rollout, name, one.model, one.served


class Serving:
    """A Service. `table` is swapped in one assignment; a Target that no Table points at any more is drained
    once the requests that began under those Tables have ended.

    `make` makes a Target that isn't started. `ended` is told of each one that has drained, for its last bill.
    `reads` are for the trained files that routes name.
    """

    name = "models"

    def __init__(
        self,
        snapshot: Snapshot,
        secret: bytes,
        make: Callable[[Model, Version, Standing, Placement], Owned | OwnedText],
        ended: Callable[[Owned | OwnedText], None],
        holdings: Holdings,
        reads: Reads,
        lease: Lease,
    ) -> None:
        self._board = Board()
        self._watches: dict[str, Watch] = {}  # by Route
        self._timer: asyncio.TimerHandle | None = None
        self._lease = lease
        self._secret = secret
        self._reads = reads
        self._trained = read_trained(snapshot, Trained(), reads)
        self._holdings = holdings
        self._make = make
        self._ended = ended
        self._swapped: Callable[[Table], None] = lambda _: None
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._old: list[Table] = []  # Requests may still be under way by them
        self._counted: tuple[VersionStatistics, ...] = ()  # of those that have drained
        self._made = self._prepare(snapshot)
        self._all = _distinct(self._made.values())  # with those that are on their way out
        self.snapshot = snapshot
        self._declared = self._compile(snapshot, self._made)
        self.table = posted(self._declared, self._watches, ())

    def when_swapped(self, act: Callable[[Table], None]) -> None:
        """Call `act` with each new Table, once it is in effect here."""
        self._swapped = act

    @property
    def targets(self) -> list[Owned | OwnedText]:
        """All that cost something now, also those on their way out."""
        return [made.target for made in self._all]

    @property
    def unready(self) -> str:
        return "; ".join(self.table.unready())

    def statistics(self) -> tuple[VersionStatistics, ...]:
        """What has run in this worker since its start."""
        return _all_of((*self._counted, *(part for one in self._all for part in one.target.statistics())))

    def took_ns(self) -> dict[str, float]:
        """How long a call of one row takes in this worker, by `timed`."""
        return {timed(one.model, one.version): one.target.one_row_ns for one in self._all if one.target.one_row_ns}

    def heard(self, epoch: int) -> None:
        """The controller watches what this epoch exposes."""
        if epoch == self.table.epoch:
            self._lease.renew()

    def withdraw(self, rollouts: frozenset[str]) -> None:
        """Give nobody the candidates of these Rollouts from now on."""
        self._lease.withdrawn = rollouts

    async def start(self) -> None:
        """Load and warm up what the first Snapshot names. What can't be loaded is unavailable; the others serve."""
        self._show()
        async with self._changing:
            await asyncio.gather(*[made.target.start() for made in self._all])

    async def change(self, snapshot: Snapshot) -> dict[str, str]:
        """Serve `snapshot`, or say what of it can't be loaded, by "model number"; then the old one goes on."""
        async with self._changing:
            if snapshot.epoch <= self.table.epoch:
                return {}
            try:
                trained = await asyncio.to_thread(read_trained, snapshot, self._trained, self._reads)
            except (OSError, BadFile) as error:
                return {"trained files": str(error)}
            before = self._made
            made = self._prepare(snapshot)
            known = _distinct(before.values())
            fresh = [one for one in _distinct(made.values()) if not _among(one, known)]
            self._all += fresh
            await asyncio.gather(*[one.target.start() for one in fresh])
            problems = {
                f"{one.version.model} {one.version.number}": one.target.unready
                for one in fresh
                if one.target.refusal is Reason.MODEL_UNAVAILABLE
                and one.standing is Standing.LOADED
                and not one.version.problem
            }
            if problems:
                await self._end(fresh)
                return problems
            self._old = [*(table for table in self._old if table.use.inside), self.table]
            self._trained = trained
            self._declared = self._compile(snapshot, made)
            self._lease.renew()
            self._show()
            self.snapshot, self._made = snapshot, made
            wanted = _distinct(made.values())
            self._retire([one for one in known if not _among(one, wanted)])
            log.info("epoch %d is in effect", snapshot.epoch)
            return {}

    @property
    def bulletin(self) -> int:
        """The epoch of the Bulletin that this worker goes by."""
        return self._board.epoch

    def hear(self, bulletin: Bulletin) -> None:
        """Go by this Bulletin from now on."""
        now_ns = _now_ns()
        before = self._board.facts(now_ns)
        self._board.hear(bulletin, now_ns)
        if not alike(before, self._board.facts(now_ns)):
            self._show()

    def sights(self) -> tuple[Sight, ...]:
        """What was seen since the last time of Routes whose thresholds follow their traffic."""
        seen = [(name, watch.pace.of, watch.take()) for name, watch in self._watches.items()]
        return tuple([Sight(name, of, counts) for name, of, counts in seen if counts])

    def _show(self) -> None:
        """Put what is so now into the Table, and look again when that has become too old."""
        if self._timer is not None:
            self._timer.cancel()
        now_ns = _now_ns()
        self.table = posted(self._declared, self._watches, self._board.facts(now_ns))
        self._swapped(self.table)
        left_ns = self._board.next_ns(now_ns)
        if left_ns is not None:
            self._timer = asyncio.get_running_loop().call_later(left_ns / 1e9, self._show)

    async def drain(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._end(list(self._all))

    def _prepare(self, snapshot: Snapshot) -> dict[Key, Made]:
        """A Target for each Version: the one that is there, if it was made from the same declaration."""
        before: Mapping[Key, Made] = getattr(self, "_made", {})
        made: dict[Key, Made] = {}
        for rollout, name, declared, served in _running(snapshot):
            if served.copies:
                declared = msgspec.structs.replace(declared, replicas=served.copies)  # noqa: PLW2901
            model = what_a_target_needs(declared)
            for version in served.versions:
                how = (model, version, served.standing, placement_of(declared, served, version.number))
                same = (one for key, one in (*made.items(), *before.items()) if key[0] == name and one.how == how)
                made[name, version.number, rollout] = next(same, None) or Made(*how, self._make(declared, *how[1:]))
        return made

    def _compile(self, snapshot: Snapshot, made: Mapping[Key, Made]) -> Table:
        before, known = self._watches, paces(snapshot)
        self._watches = {
            name: before[name] if name in before and before[name].pace == pace else Watch(pace)
            for name, pace in known.items()
        }
        targets = {key[:2]: one.target for key, one in made.items() if not key[2]}
        candidates = {key[:2]: one.target for key, one in made.items() if key[2]}
        return compile_table(
            snapshot, targets, candidates, Base(self._secret, self._holdings, self._lease, self._trained)
        )

    def _retire(self, gone: list[Made]) -> None:
        old = list(self._old)

        async def retire() -> None:
            for table in old:
                await table.use.ended()
            await self._end(gone)
            gc.collect()  # little but what the change left behind in circles: most of this process is frozen

        if not gone:
            return
        task = asyncio.get_running_loop().create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _end(self, gone: list[Made]) -> None:
        for one in gone:
            await one.target.drain()
            self._all.remove(one)
            self._counted = _all_of((*self._counted, *one.target.statistics()))
            self._ended(one.target)


def _now_ns() -> int:
    """Steady, by the running loop."""
    return round(asyncio.get_running_loop().time() * 1e9)


def _distinct(all_: Iterable[Made]) -> list[Made]:
    """Each once: a Version may be served and be a candidate, for a moment."""
    return list({id(one): one for one in all_}.values())


def _among(one: Made, others: Sequence[Made]) -> bool:
    return any(one is other for other in others)


def _all_of(parts: Sequence[VersionStatistics]) -> tuple[VersionStatistics, ...]:
    """What ran in this process, added up; of what ran in Replicas, the last that each said."""
    return (*together(part for part in parts if not part.source), *latest(part for part in parts if part.source))


def what_a_target_needs(model: Model) -> Model:
    """The declaration without what only the Table uses: a change there needs no new Target."""
    return msgspec.structs.replace(
        model,
        artifact="",
        artifacts=(),
        keep=False,
        versions=Versions(),
        labels={},
        confidence=None,
        prediction=None,
        expose=False,
        limits=Limits(),
        rollout=RolloutPolicy(),
        drift=None,
    )

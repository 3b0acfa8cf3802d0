"""The controller: the only one who publishes Snapshots. One change at a time, each built whole, then swapped once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import msgspec

from servery.control.apply import into
from servery.control.arrange import arrange, refused
from servery.control.frozen import why_frozen
from servery.control.journal import Journal
from servery.control.peers import Peer, Peers
from servery.control.places import Places
from servery.control.planning import Looked, look_at_file, look_at_revision
from servery.control.posting import Posting
from servery.control.published import publish, read_took, write_whole
from servery.control.resolve import resolve
from servery.control.validate import validate
from servery.control.wishes import intent_of, nothing_to_do, why_held
from servery.host.channel import Channel, listen_at
from servery.host.clock import Clock, Dice
from servery.host.settings import DataFolder
from servery.terms.change import Change, Served, Snapshot, Standing
from servery.terms.history import Ended, Intent, Underway, Wish
from servery.terms.messages import (
    Acknowledged,
    Alive,
    AnyMessage,
    Asked,
    Count,
    Counted,
    Hello,
    Published,
    Replied,
    Seen,
    Withdrew,
)
from servery.terms.placement import fit, making_room, place
from servery.terms.reasons import Reason, Refusal
from servery.terms.statistics import VersionStatistics

log = logging.getLogger("servery.controller")


# All workers must have loaded what is new by then, or the old one goes on.
_IN_EFFECT_S = 600.0
# So long after its start the controller waits for workers that aren't connected yet, before it changes anything.
_MEET_S = 10.0


class Controller:
    """A Service. `fleet` starts the Replicas that these Snapshots need, and drains all others; `held` are the Versions that were
    rolled back.
    """

    name = "controller"
    unready = ""

    def __init__(
        self,
        folder: DataFolder,
        manifest: Path,
        snapshot: Snapshot,
        fleet: Callable[[Sequence[Snapshot]], None],
        journal: Journal,
    ) -> None:
        self.snapshot = self.settled = snapshot
        self.journal = journal
        self._peers = Peers()
        self.posting = Posting(folder.bulletin, snapshot, Clock(), lambda: [peer.channel for peer in self.peers])
        self._folder = folder
        self.manifest = manifest
        self._took_ns = read_took(folder.took)
        self._fleet = fleet
        self._changing = asyncio.Lock()
        self._met = False  # whether all workers have been there
        self._failed: dict[str, str] = {}
        self._server: asyncio.Server | None = None
        self._until = 0.0  # of the loop's time
        self._asked: set[asyncio.Task[None]] = set()
        self._dice = Dice()

    async def start(self) -> None:
        """Listen for workers, and bring to its end what an earlier life had begun. What is published has its Replicas."""
        self._until = asyncio.get_running_loop().time() + _MEET_S  # before `_resume`, which goes by it
        under_way = await self.journal.under_way()
        self.manifest = await self.journal.manifest() or self.manifest
        halfway = under_way is not None and self.snapshot.epoch > under_way.old.epoch
        self._fleet([self.snapshot, under_way.old, under_way.new] if under_way and halfway else [self.snapshot])
        if under_way is not None:
            await self._changing.acquire()  # before anybody else
            self._in_background(self._resume(under_way))
        self._server = await asyncio.start_unix_server(self._meet, sock=listen_at(self._folder.control))
        await self.posting.start()

    async def drain(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.posting.drain()
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        for peer in self.peers:
            peer.channel.close()

    async def look(self, wish: Wish) -> Looked:
        """What it takes to serve what is wished for, and what is in the way. Refusal."""
        here = await self.journal.standpoint(self.snapshot, self._took_ns)
        if wish.revision:
            return await asyncio.to_thread(look_at_revision, *await self.journal.revision(wish.revision), here)
        return await asyncio.to_thread(look_at_file, Path(wish.file) if wish.file else self.manifest, here)

    async def apply(self, wish: Wish) -> Change:
        """Serve what is wished for. Where the manifest has problems, the Change has them. Refusal."""
        async with self._changing:
            looked = await self.look(wish)
            if looked.wanted is None or looked.plan is None or not looked.applicable:
                return Change(problems=looked.problems, message="the manifest has problems; what was served goes on")
            intent = intent_of(wish, looked.plan, str(looked.file), looked.source, wish.id or self._new_id())
            if nothing_to_do(looked.plan):
                self.manifest = looked.file
                return msgspec.structs.replace(self._now(), revision=looked.plan.revision)
            log.info("%s applies %s", wish.who, looked.file)
            arranged = self._arranged(looked.wanted)
            change = await self._publish(arranged.models, intent, arranged)
            if change.epoch:
                self.manifest = looked.file
            return change

    async def amend(self, amended: Callable[[Snapshot], Snapshot], intent: Callable[[], Intent]) -> Change:
        """Serve what `amended` makes of what is served, once no other change is under way; nothing happens where it makes no difference."""
        async with self._changing:
            wanted = amended(self.snapshot)
            if wanted == self.snapshot:
                return self._now()
            meant = intent()
            log.info("%s: %s", meant.act, meant.why)
            return await self._publish(wanted.models, meant, wanted)

    @property
    def peers(self) -> list[Peer]:
        """The workers that are connected."""
        return self._peers.all

    def alive(self) -> None:
        """Have the workers know that somebody watches what is exposed."""
        for peer in self.peers:
            peer.channel.send(Alive(self.snapshot.epoch))

    def _arranged(self, wanted: Snapshot) -> Snapshot:
        """`wanted` with its new Versions as candidates, where they are rolled out. Refusal."""
        arranged = arrange(self.snapshot, wanted, lambda: self._dice.bits(6).hex())
        if arranged.conflicts:
            raise Refusal(Reason.CONFLICT, refused(arranged.conflicts[0], self.snapshot))
        return msgspec.structs.replace(arranged.snapshot, experiments=self.snapshot.experiments)

    async def _apply_again(self, _: str, by: str, why: str) -> Change:
        """As `apply` of the manifest that is served. Refusal."""
        change = await self.apply(Wish(by, why))
        if not change.epoch:
            said = "".join(f"{problem}\n" for problem in change.problems)
            raise Refusal(Reason.INVALID_MANIFEST, f"{said}{change.message}")
        return change

    async def load(self, model: str, by: str, why: str = "") -> Change:
        """Read the Model's artifacts again and serve what they are now. Refusal."""
        async with self._changing:
            manifest = self.snapshot.manifest
            declared = self._declared(model)
            only = msgspec.structs.replace(manifest, models={model: manifest.models[model]}, routes={})
            places = Places(str(self.manifest))
            copies = into(self._folder)(manifest.server.fetch_mb)
            found = await asyncio.to_thread(resolve, only, self.manifest.parent, places, copies)
            problems = found.problems
            if not problems:
                problems = validate(manifest, {**self.snapshot.models, model: found.models[model]}, places)
            if problems:
                said = "; ".join(f"{problem.message}" for problem in problems)
                raise Refusal(Reason.CHANGE_REFUSED, f"'{model}' can't be loaded: {said}; what was served goes on")
            if msgspec.structs.replace(found.models[model], apart=declared.apart) == declared:
                return self._now()
            await self._refuse_held(found.models[model])
            if why := why_frozen(model, self.snapshot):
                raise Refusal(Reason.CONFLICT, why)
            log.info("%s loads %s", by, model)
            intent = Intent(self._new_id(), "load", by, why, model)
            models = {**self.snapshot.models, model: found.models[model]}
            wanted = self._arranged(msgspec.structs.replace(self.snapshot, models=models))
            return self._settled(await self._publish(wanted.models, intent, wanted, keep=model))

    async def unload(self, model: str, by: str, why: str = "") -> Change:
        """Take the Model out of memory until it is loaded again. Refusal."""
        return await self._stand(model, Standing.UNLOADED, Intent(self._new_id(), "unload", by, why, model))

    async def wake(self, model: str, by: str, why: str = "it is asked for") -> Change:
        """Load a Model that sleeps. Refusal."""
        if self._declared(model).standing is not Standing.ASLEEP:
            return self._now()
        return await self._stand(model, Standing.LOADED, Intent(self._new_id(), "wake", by, why, model))

    async def _refuse_held(self, served: Served) -> None:
        """Refusal of what `apply` alone may bring back."""
        digests = {version.digest for version in served.versions}
        for held in await self.journal.ask(lambda state: state.held()):
            if held.model == served.latest.model and held.digest in digests:
                raise Refusal(Reason.CONFLICT, f"{why_held(held)}; only `servery apply --retry REASON` brings it back")

    async def statistics(self) -> tuple[VersionStatistics, ...]:
        """As of Peers."""
        return await self._peers.statistics()

    async def withdraw(self, rollouts: frozenset[str]) -> None:
        """As of Peers."""
        await self._peers.withdraw(rollouts)

    async def _stand(self, model: str, standing: Standing, intent: Intent) -> Change:
        async with self._changing:
            declared = self._declared(model)
            if declared.standing is standing:
                return self._now()
            log.info("%s wants %s %s", intent.who, model, standing.value)
            changed = msgspec.structs.replace(declared, standing=standing)
            return self._settled(await self._publish({**self.snapshot.models, model: changed}, intent, keep=model))

    def _new_id(self) -> str:
        return self._dice.bits(16).hex()

    def _declared(self, model: str) -> Served:
        try:
            return self.snapshot.models[model]
        except KeyError:
            raise Refusal(Reason.NOT_FOUND, f"no model is called '{model[:128]}'") from None

    def _now(self) -> Change:
        return Change(self.snapshot.epoch, self.snapshot.manifest_digest, workers=len(self.peers))

    @staticmethod
    def _settled(change: Change) -> Change:
        if not change.epoch:
            raise Refusal(Reason.CHANGE_REFUSED, change.message)
        return change

    async def _publish(
        self, models: dict[str, Served], intent: Intent, wanted: Snapshot | None = None, keep: str = ""
    ) -> Change:
        """Put the next Snapshot into effect everywhere, or go back to the one before. `keep` isn't put to sleep for others.

        It is in the journal before anything is done: a controller that dies meanwhile is followed by one that goes on.
        Refusal, where that can't be written.
        """
        await self._everybody()
        old = self.snapshot
        new = await self._fitted(place(msgspec.structs.replace(wanted or old, models=models), self._took_ns), keep)
        room = making_room(old, new)
        new = msgspec.structs.replace(new, epoch=(old if room is None else room).epoch + 1)
        await self.journal.begin(intent, old, new, 0 if room is None else room.epoch)
        try:
            if room is not None:  # what sleeps goes before anything else is loaded, or both would be in memory
                await self._swap(room, [old, room], "room")
            problem = await self._swap(new, [self.snapshot, new], "published")
        except OSError as error:
            problem = f"the data folder can't be written: {error.strerror or error}"
        except Exception:
            log.exception("a change failed by an error of ours")
            problem = "an error of ours, which the log has"
        return await self._conclude(old, new, problem)

    async def _conclude(self, old: Snapshot, new: Snapshot, problem: str) -> Change:
        """`new` is in effect, or goes back to `old` because of `problem`."""
        if problem:
            log.error("epoch %d can't be served, and the one before goes on: %s", new.epoch, problem)
            await self._go_back(old, new, problem)
            return Change(message=f"{problem}; what was served goes on")
        self._fleet([new])
        self.settled = new
        self.posting.keep(new)
        log.info("epoch %d is in effect in %d workers", new.epoch, len(self.peers))
        done = await self.journal.end(Ended.IN_EFFECT, "", new)
        change = Change(new.epoch, new.manifest_digest, workers=len(self.peers))
        if done is not None:
            log.info("revision %d; the audit's head is %s", done.revision, done.audit)
        return change if done is None else msgspec.structs.replace(change, revision=done.revision, audit=done.audit)

    async def _go_back(self, old: Snapshot, new: Snapshot, problem: str) -> None:
        """Serve what was served before `new`, of which workers may have any part by now."""
        if self.snapshot.epoch > old.epoch:
            await self.journal.step("returning", problem)
            back = msgspec.structs.replace(old, epoch=new.epoch + 1)
            with contextlib.suppress(OSError):
                await self._swap(back, [self.snapshot, new, back], "returning", problem)
        self._fleet([self.snapshot])
        await self.journal.end(Ended.RETURNED, problem, self.snapshot)

    async def _resume(self, under_way: Underway) -> None:
        """Bring to its end what an earlier life has begun. It holds the lock on changes. How far that life came is told by
        what it published last.
        """
        old, new = under_way.old, under_way.new
        try:
            await self._everybody()
            if self.snapshot.epoch <= old.epoch:
                self._fleet([self.snapshot])
                await self.journal.end(
                    Ended.NOT_BEGUN, "the controller ended before anything was published", self.snapshot
                )
            elif self.snapshot.epoch == new.epoch:
                await self._conclude(old, new, await self._awaited(new.epoch))
            else:  # room was being made, or it was on its way back
                await self._go_back(old, new, "the controller ended meanwhile")
        finally:
            self._changing.release()

    async def _fitted(self, new: Snapshot, keep: str) -> Snapshot:
        """`new` with what has to sleep in it."""
        if new.manifest.server.loaded_mb is None:
            return new
        last_ns: dict[str, int] = {}
        for one in await self.statistics():
            last_ns[one.model] = max(last_ns.get(one.model, 0), one.last_ns)
        return fit(new, last_ns, keep)

    async def _swap(self, snapshot: Snapshot, needed: Sequence[Snapshot], step: str, message: str = "") -> str:
        """Publish, and wait until every worker has acknowledged; why one can't ("" when all have). OSError."""
        self._fleet(needed)
        self._failed.clear()
        await asyncio.to_thread(publish, snapshot, self._folder)
        self.snapshot = snapshot
        await self.journal.step(step, message)
        for peer in self.peers:
            peer.channel.send(Published(snapshot.epoch))
        return await self._awaited(snapshot.epoch)

    async def _awaited(self, epoch: int) -> str:
        """Wait until every worker answers by this epoch; why one can't ("" when all do)."""
        try:
            await asyncio.wait_for(self._in_effect(epoch), _IN_EFFECT_S)
        except TimeoutError:
            behind = ", ".join(peer.name for peer in self.peers if peer.epoch < epoch)
            return f"not in effect within {_IN_EFFECT_S:g} s in {behind or 'any worker'}"
        return "; ".join(f"{what}: {why}" if what else why for what, why in self._failed.items())

    async def _everybody(self) -> None:
        """Wait until all workers have been connected, within bounds: one that isn't yet would go on by what was before."""
        self._met = self._met or len(self.peers) >= self.snapshot.workers
        while not self._met and (left_s := self._until - asyncio.get_running_loop().time()) > 0:
            self._peers.moved.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._peers.moved.wait(), left_s)
            self._met = len(self.peers) >= self.snapshot.workers
        self._met = True

    async def _in_effect(self, epoch: int) -> None:
        while not self._failed and not (self.peers and all(peer.epoch >= epoch for peer in self.peers)):
            self._peers.moved.clear()
            await self._peers.moved.wait()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(Channel(reader, writer))
        try:
            async for message in peer.channel.receive():
                self._hear(peer, message)
        finally:
            self._peers.lost(peer)

    def _hear(self, peer: Peer, message: AnyMessage) -> None:
        match message:
            case Hello(worker, epoch, took_ns, bulletin):
                peer.name, peer.epoch = worker, epoch
                known = self._peers.met(peer)
                self.posting.adopt(bulletin)
                self.posting.tell([peer.channel])
                self._learn(took_ns)
                if epoch < self.snapshot.epoch:
                    peer.channel.send(Published(self.snapshot.epoch))
                elif self.snapshot.candidates and known:
                    peer.channel.send(Alive(epoch))
            case Acknowledged(epoch, problems, took_ns):
                self._learn(took_ns)
                peer.epoch = epoch if not problems else peer.epoch
                self._failed.update(problems)
            case Counted() | Withdrew():
                self._peers.hear(peer, message)
            case Seen(sights):
                self.posting.hear(sights)
                return
            case Asked():
                self._in_background(self._do(peer, message))
            case Count(number):
                self._in_background(self._count(peer, number))
            case _:
                log.warning("%s said what only the controller says", peer.name)
        self._peers.moved.set()

    def _learn(self, took_ns: dict[str, float]) -> None:
        """What a call takes is measured once for the same bytes; what is too slow for a worker moves to a Replica."""
        fresh = {what: ns for what, ns in took_ns.items() if what not in self._took_ns}
        if fresh:
            self._took_ns |= fresh
            self._in_background(self._settle_in())

    async def _settle_in(self) -> None:
        async with self._changing:
            await asyncio.to_thread(write_whole, self._folder.took, msgspec.json.encode(self._took_ns))
            if place(self.snapshot, self._took_ns) != self.snapshot:
                log.info("what takes longer than server.in_process_ms moves to Replicas")
                intent = Intent(self._new_id(), "place", "the controller", "it takes longer than server.in_process_ms")
                await self._publish(self.snapshot.models, intent)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _count(self, peer: Peer, number: int) -> None:
        peer.channel.send(Counted(number, await self.statistics()))

    async def _do(self, peer: Peer, asked: Asked) -> None:
        act = {"load": self.load, "unload": self.unload, "wake": self.wake, "apply": self._apply_again}[asked.verb]
        try:
            change = await act(asked.model, asked.by, asked.why)
            reply = Replied(asked.number, epoch=change.epoch, workers=change.workers)
        except Refusal as refusal:
            reply = Replied(asked.number, refusal.message, refusal.reason.word)
        except Exception:
            log.exception("%s %s failed by an error of ours", asked.verb, asked.model)
            reply = Replied(asked.number, f"{asked.verb} of '{asked.model}' failed; the log says how", Reason.BUG.word)
        peer.channel.send(reply)


class Again:
    """Applies the manifest anew when it is asked to; asked while it is at it, once more afterwards. Its log says how."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._task: asyncio.Task[None] | None = None
        self._asked = False

    def ask(self) -> None:
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._apply())

    async def drain(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _apply(self) -> None:
        while self._asked:
            self._asked = False
            try:
                change = await self._controller.apply(Wish("SIGHUP", "a signal"))
            except Refusal as refusal:
                log.error("%s", refusal.message)
                continue
            except Exception:
                log.exception("the manifest could not be applied, by an error of ours")
                continue
            for problem in change.problems:
                log.error("%s", problem)
            if not change.epoch:
                log.error("%s", change.message)

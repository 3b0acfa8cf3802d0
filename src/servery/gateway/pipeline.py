"""The path of a request: receive → identify → admit → choose → execute → record. No face, no protocol, no ASGI.

The key is checked and the turn is given before the body is decoded: strangers and callers over their limit cost
no parsing. So `receive` is split: a face takes bytes off its socket first, and they are decoded under the turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from servery.gateway.admit import Left, Turns, leave, take_turn
from servery.gateway.choose import choose
from servery.gateway.converse import Conversation, Means, find_text
from servery.gateway.execute import execute
from servery.gateway.fit import scalar
from servery.gateway.holdings import UNBOUND, least
from servery.gateway.identify import identify
from servery.gateway.minutes import Minute
from servery.gateway.mirror import Mirrors
from servery.gateway.overheard import Contents, keep_tensors, overhear
from servery.gateway.quotas import Quotas, Stay, count, count_later, enter
from servery.gateway.receive import Ask, TextAsk, receive
from servery.gateway.record import close, outcome_of
from servery.gateway.sketches import Sketches
from servery.gateway.table import Entry, Table
from servery.gateway.tallies import unrecorded
from servery.gateway.texts import TextEntry
from servery.gateway.trail import Asked, AskedText, Slots, Trail
from servery.gateway.trials import Given, Said, assigned
from servery.gateway.watch import watch
from servery.host.clock import Clock, Dice
from servery.quota.admission import Gate
from servery.terms.reasons import Reason, Refusal, bare
from servery.terms.record import AnyLine, Outcome, new_record_id
from servery.terms.request import Answer, Caller
from servery.terms.routes import DEADLINE_MS

log = logging.getLogger("servery.gateway")

_DEADLINE_NS = round(DEADLINE_MS * 1e6)


class Lines(Protocol):
    """Where Records go."""

    @property
    def full(self) -> bool:
        """Whether the manifest wants requests refused, because there is no room for their Records."""
        ...

    @property
    def room(self) -> bool:
        """Whether a line that can't be folded, such as Feedback, would be kept."""
        ...

    @property
    def slots(self) -> Slots: ...

    def append(self, line: AnyLine, slot: int = 0) -> None:
        """Store `line`, and then let its Request's slot go."""
        ...


A = TypeVar("A", Ask, TextAsk)
E = TypeVar("E", Entry, TextEntry)
Way: TypeAlias = Callable[[Table, A, Trail], Awaitable[tuple[Entry | None, Answer | None]]]


class Reply(msgspec.Struct, frozen=True, gc=False):
    """How a Request ended: with an answer, with a refusal, or with neither when the caller had left.

    An answer in text isn't here: its face has it.
    """

    record_id: bytes
    entry: Entry | None = None
    answer: Answer | None = None
    refusal: Refusal | None = None


class Pipeline:
    """One worker's path of a request. `table` is swapped in one assignment."""

    def __init__(
        self, table: Table, lines: Lines, contents: Contents, clock: Clock, dice: Dice, sketches: Sketches | None = None
    ) -> None:
        self.table = table
        self._sketches = sketches
        self._drifting: Sketches | None = None  # where something is watched for drift
        self.draining = False
        self.unrecorded = unrecorded()
        server = table.manifest.server
        self.turns: Turns = Gate(server.concurrency_per_worker, server.queue_per_worker)
        self.lines = lines
        self.mirrors = Mirrors(lines, clock, dice)
        self.contents = contents
        self.clock = clock
        self.dice = dice
        self._follow(table)

    def swap(self, table: Table) -> None:
        """Answer by `table` from now on; requests under way end by the one that they began with."""
        server = table.manifest.server
        self.turns.at_once, self.turns.queue = server.concurrency_per_worker, server.queue_per_worker
        self._follow(table)
        self.table = table

    def _follow(self, table: Table) -> None:
        if self._sketches is not None:
            self._sketches.follow(table.manifest)
            self._drifting = self._sketches if self._sketches.watched else None

    def identify(self, key: bytes | None) -> Caller:
        """Who asks; a Refusal here is counted, not recorded."""
        try:
            return identify(self.table.keyring, key)
        except Refusal as refusal:
            self.unrecorded.count(refusal.reason.word)
            raise

    def answer(self, caller: Caller, ask: Ask) -> Coroutine[Any, Any, Reply]:
        """Answer one Request in tensors, and leave exactly one Record of it, whatever happens."""
        return self._recorded(caller, ask, ask.called, self._infer)

    def converse(self, caller: Caller, ask: TextAsk) -> Coroutine[Any, Any, Reply]:
        """The same for one in text, whose answer `ask` has, or has been sent already, when this returns."""
        return self._recorded(caller, ask, "", self._speak)

    async def _recorded(self, caller: Caller, ask: A, called: str, way: Way[A]) -> Reply:
        table, clock = self.table, self.clock
        at_ns = clock.wall_ns()
        record_id = new_record_id(caller.seal, at_ns, self.dice.bits(16))
        trail = Trail(record_id, caller, called, at_ns, clock.steady_ns(), self.lines.slots)
        trail.request_id, trail.traceparent = ask.request_id, ask.traceparent
        outcome, reason = Outcome.ABANDONED, ""
        table.use.inside += 1
        try:
            self._check_open()
            entry, answer = await way(table, ask, trail)
            outcome = Outcome.SERVED
            return Reply(record_id, entry, answer)
        except Refusal as refusal:
            outcome, reason = outcome_of(refusal.reason), refusal.reason.word
            return Reply(record_id, refusal=bare(refusal))
        except Left:
            return Reply(record_id)
        except asyncio.CancelledError:
            if not self.draining:
                raise
            outcome, reason = (
                Outcome.FAILED,
                Reason.DRAINING.word,
            )  # the drain's limit has passed, or a second signal came
            return Reply(record_id, refusal=cut_short())
        except Exception:
            outcome, reason = Outcome.FAILED, Reason.BUG.word
            log.exception("record %s: a bug of ours", record_id.hex())
            message = f"an error of ours; the log has it under record {record_id.hex()}"
            return Reply(record_id, refusal=Refusal(Reason.BUG, message))
        finally:
            if trail.rooms:
                self.mirrors.begin(trail, trail.asked, trail.rooms, table.use)
            table.use.leave()
            record = close(trail, outcome, reason, clock.steady_ns(), table.manifest.region)
            if trail.paid is not None:
                trail.paid.settle(record.pico_usd)
            self.lines.append(record, trail.slot)
            if trail.watched is not None:
                watch(trail.watched, record)

    def _check_open(self) -> None:
        if self.draining:
            raise Refusal(Reason.DRAINING, "this worker is stopping; ask again on a new connection")
        if self.lines.full:
            raise Refusal(Reason.RECORDS_FULL, "there is no room for Records, and records.when_full is refuse")

    async def _infer(self, table: Table, ask: Ask, trail: Trail) -> tuple[Entry, Answer]:
        """Rows of tensors."""
        entry = find_entry(table, ask.called, ask.version)
        trail.begin()
        caller = trail.caller
        bound = table.callers.get((caller.tenant, caller.key))
        if bound is None:
            raise gone()
        if entry.bound is not UNBOUND:
            bound = entry.bound.beside(bound)
        quotas = bound.quotas
        waiting = enter(quotas, trail.started_ns) if quotas else None
        try:
            if waiting is not None or not (ask.here and self.turns.enter()):
                await self._come_in(quotas, waiting, ask, trail, entry.deadline_ns)
            try:
                if bound.allowance is not None:
                    until_ns = trail.started_ns + entry.deadline_ns
                    trail.paid = await bound.allowance.reserve(0, None, until_ns)
                request = receive(ask, entry, trail)
                if entry.exposed is not None or entry.arms is not None:
                    said = Said(ask.header, dict(request.inference.parameters).get)
                    entry, trail.arms, trail.rooms, arm = _assigned(entry, trail, said)
                    if arm:
                        ask.carry(arm)
                    if trail.rooms:
                        trail.asked = Asked(request, entry)
                facts, decision = choose(request, entry, self.clock.steady_ns(), trail, ask)
                answer = await execute(request, entry, facts, decision, trail, self.clock, ask)
                ask.encode(entry, request.inference, answer)
                if table.keepings:
                    keep_tensors(table.keepings, trail, request, answer, self.contents)
                if self._drifting is not None:
                    self._drifting.note(trail, request.feeds)
                return entry, answer
            finally:
                leave(self.turns)
        finally:
            for quota in quotas:
                quota.inside -= 1

    async def _speak(self, table: Table, ask: TextAsk, trail: Trail) -> tuple[None, None]:
        """Text. What is asked for stands in the body, so it is known only under the turn."""
        ask.record_id = trail.id
        caller = trail.caller
        bound = table.callers.get((caller.tenant, caller.key))
        if bound is None:
            raise gone()
        stay = Stay(self.clock)
        try:
            if bound.quotas:
                allowed_ns = min(ask.timeout_ns or _DEADLINE_NS, _DEADLINE_NS)
                await stay.come(bound.quotas, trail.started_ns + allowed_ns)
            if not (ask.here and self.turns.enter()):
                await self._come_in((), None, ask, trail, _DEADLINE_NS)
            try:
                prompt = ask.decode()
                trail.route = prompt.called
                entry = find_text(table.texts, prompt.called, prompt.form, prompt.called in table.entries)
                if entry.exposed is not None or entry.arms is not None:
                    said = Said(ask.header, lambda name: scalar(prompt.fields.get(name)))
                    entry, trail.arms, trail.rooms, arm = _assigned(entry, trail, said)
                    if arm:
                        ask.carry(arm)
                trail.rows = 1
                trail.begin()
                limit_ns = min(ask.timeout_ns or entry.deadline_ns, entry.deadline_ns)
                until_ns = trail.started_ns + limit_ns
                if trail.rooms:
                    trail.asked = AskedText(prompt, limit_ns)
                if entry.bound.quotas:
                    await stay.come(entry.bound.quotas, until_ns)
                bound = entry.bound.beside(bound)
                may = Means(until_ns, least(bound.most_pico, entry.max_pico), bound.allowance, stay.over)
                heard = overhear(table.keepings, entry.name, trail, ask, prompt.form) if table.keepings else None
                conversation = Conversation(prompt, entry, trail, self.clock, heard or ask, may)
                bits = self.dice.bits(4)
                try:
                    await conversation.answer(int.from_bytes(bits[:2]) / 65_536, int.from_bytes(bits[2:]) / 65_536)
                finally:
                    if heard is not None:
                        self.contents.keep(heard.kept(ask.body))
                if self._drifting is not None:
                    self._drifting.note(trail, None)
                return None, None
            finally:
                leave(self.turns)
        finally:
            stay.leave()

    async def _come_in(
        self, quotas: Quotas, waiting: Minute | None, ask: Ask | TextAsk, trail: Trail, deadline_ns: int
    ) -> None:
        """Be counted, arrive and get a turn, which the caller must leave. Refusal, Left."""
        allowed_ns = min(ask.timeout_ns or deadline_ns, deadline_ns)
        until_ns = trail.started_ns + allowed_ns
        if waiting is not None:
            await count_later(quotas, waiting, self.clock, until_ns)
        if not ask.here:
            await ask.arrive()
        if not self.turns.enter():
            await take_turn(self.turns, ask, (until_ns - self.clock.steady_ns()) / 1e9)

    async def book(self, caller: Caller) -> None:
        """Count one request, which isn't an inference, on the caller's requests per minute. Refusal."""
        bound = self.table.callers.get((caller.tenant, caller.key))
        if bound is None:
            raise gone()
        now_ns = self.clock.steady_ns()
        waiting = count(bound.quotas, now_ns)
        if waiting is not None:
            await count_later(bound.quotas, waiting, self.clock, now_ns + _DEADLINE_NS)


def _assigned(entry: Entry | TextEntry, trail: Trail, said: Said) -> Given:
    """What answers this Request, and the arms that it was given: of an Experiment, or of Rollouts. Refusal."""
    if entry.arms is not None:
        return entry.arms.assigned(trail.id, said)
    assert entry.exposed is not None
    return assigned(entry.exposed, trail.id, said, trail.started_ns)


def gone() -> Refusal:
    """What a caller is told whose key was taken away while the request came in."""
    return Refusal(Reason.UNAUTHENTICATED, "this key is no longer one of a tenant's")


def cut_short() -> Refusal:
    """What a caller is told whose request was under way when this worker could wait no longer."""
    return Refusal(
        Reason.DRAINING, "this worker had to stop before the answer was ready; ask again on a new connection"
    )


def find_entry(table: Table, called: str, version: str) -> Entry:
    """The Route or Model that is called; a Route has no versions."""
    entry = table.entries.get(called)
    if entry is None:
        if called in table.texts:
            raise Refusal(Reason.INVALID_REQUEST, f"'{called}' answers in text; ask it at /v1/chat/completions")
        if called in table.manifest.models:
            raise Refusal(Reason.NOT_FOUND, f"the model '{called}' is not exposed; call one of {_names(table)}")
        raise Refusal(Reason.NOT_FOUND, f"no route or model is called '{called[:128]}'; there is {_names(table)}")
    if version and not entry.versions:
        raise Refusal(Reason.NOT_FOUND, f"'{called}' is a route, and routes have no versions; leave /versions/… out")
    if version:
        named = entry.by_version.get(version)
        if named is None:
            known = ", ".join(entry.by_version)
            raise Refusal(Reason.NOT_FOUND, f"'{called}' has no version '{version[:64]}'; it has {known}")
        return named
    return entry


def _names(table: Table) -> str:
    return ", ".join(f"'{name}'" for name in list(table.entries)[:20]) or "none"

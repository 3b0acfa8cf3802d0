"""The calls that wait for one Version: which of them run together next, and which are too late to run at all."""

from __future__ import annotations

import enum
import heapq
import math
from collections import deque
from collections.abc import Hashable, Iterator

import msgspec

from servery.batching.cost import Cost
from servery.terms.manifest import Model
from servery.terms.request import Call
from servery.terms.tensors import Signature

# When nothing has run for so long, what was learned may be out of date: one call is tried though it seems too late.
STALE_NS = 1_000_000_000


class Limits(msgspec.Struct, frozen=True):
    """`queue` counts calls. A batch has at most `max_rows` rows; `by_row` are the outputs that can be split by rows.

    `parameters`: whether those of a request make a difference to the model.
    """

    queue: int = 256
    max_rows: int = 1
    max_wait_ns: int = 0
    by_row: frozenset[str] = frozenset()
    parameters: bool = True


def limits_of(model: Model, signature: Signature | None) -> Limits:
    """The bounds of a Version: it batches only where the first dimension of every input is free."""
    wait_ns = round(model.batch.max_wait_ms * 1e6)
    if signature is None or not signature.inputs or any(spec.shape[:1] != (-1,) for spec in signature.inputs):
        return Limits(model.queue)
    by_row = frozenset(spec.name for spec in signature.outputs if spec.shape[:1] == (-1,))
    return Limits(model.queue, model.batch.max_rows, wait_ns, by_row, parameters=model.runtime == "python")


class Entered(enum.Enum):
    """What became of a call that came."""

    WAITS = "waits"
    FULL = "full"
    LATE = "late"  # it could not be done by its deadline


class Ticket:
    """A call in the queue. `key` is None for one that runs by itself."""

    __slots__ = ("call", "flow", "key", "number", "since_ns", "slots")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.key: Hashable = None
        self.number = -1
        self.since_ns = 0
        self.slots = 1  # rows it takes of a batch, one that is too large a whole batch
        self.flow: Flow | None = None


class Flow:
    """The waiting calls of one tenant at one priority. `tag` is its turn, in rows: the least is next."""

    __slots__ = ("by_key", "calls", "level", "rows", "slots", "tag")

    def __init__(self, level: Level) -> None:
        self.level = level
        self.by_key: dict[Hashable, deque[Ticket]] = {}
        self.tag = 0
        self.calls = self.rows = self.slots = 0

    def head(self) -> Ticket:
        """The one that came first."""
        if len(self.by_key) == 1:
            (waiting,) = self.by_key.values()
            return waiting[0]
        return min((waiting[0] for waiting in self.by_key.values()), key=_number)

    def add(self, ticket: Ticket) -> None:
        """Queue it by its number: last when it is new, before those that came later when it comes back."""
        waiting = self.by_key.setdefault(ticket.key, deque())
        waiting.append(ticket)
        if len(waiting) > 1 and waiting[-2].number > ticket.number:
            self.by_key[ticket.key] = deque(sorted(waiting, key=_number))
        self._count(ticket, 1)

    def remove(self, ticket: Ticket) -> None:
        waiting = self.by_key[ticket.key]
        if waiting[0] is ticket:
            waiting.popleft()
        else:
            waiting.remove(ticket)
        if not waiting:
            del self.by_key[ticket.key]
        self._count(ticket, -1)

    def _count(self, ticket: Ticket, sign: int) -> None:
        self.calls += sign
        self.rows += sign * ticket.call.rows
        self.slots += sign * ticket.slots


class Level:
    """One priority: its tenants, and the turn of who was served last."""

    __slots__ = ("flows", "turn")

    def __init__(self) -> None:
        self.flows: dict[str, Flow] = {}
        self.turn = 0


class Next(msgspec.Struct, frozen=True):
    """What to run now (nothing, when there is nothing or it may wait until `wake_ns`), and who came too late."""

    batch: tuple[Ticket, ...] = ()
    rows: int = 0
    late: tuple[Ticket, ...] = ()
    wake_ns: int = 0


_NOTHING = Next()


class Queue:
    """Bounded; by priority, fair between tenants by rows, first come first served within both. Times are steady ns.

    Fair: start-time fair queueing. A tenant that comes starts at the turn of who is served, and moves by the rows it is
    served; so what it floods the queue with waits behind its own turn and not in the way of others. When nothing waits
    and nothing runs, all turns are forgotten.
    """

    def __init__(self, limits: Limits, cost: Cost) -> None:
        self.limits = limits
        self.cost = cost
        self.waiting = 0
        self._levels: dict[int, Level] = {}
        self._arrivals = 0
        self._running: dict[int, tuple[int, int]] = {}  # start and rows, by the start's number
        self._last_ns = -STALE_NS

    @property
    def busy(self) -> int:
        """How many batches run."""
        return len(self._running)

    def submit(self, ticket: Ticket, now: int) -> Entered:
        """Queue a call, unless there is no room for it or no time."""
        if self.waiting >= self.limits.queue:
            return Entered.FULL
        call = ticket.call
        ticket.key = key_of(call, self.limits)
        ticket.slots = min(max(call.rows, 1), self.limits.max_rows)
        flow = self._flow(call)
        if self._hopeless(ticket, flow, now):
            return Entered.LATE
        self._arrivals += 1
        ticket.number, ticket.since_ns = self._arrivals, now
        self._enter(ticket, flow)
        return Entered.WAITS

    def give_up(self, ticket: Ticket) -> bool:
        """Free its place; False when it doesn't wait (any more)."""
        if ticket.flow is None:
            return False
        self._leave(ticket)
        return True

    def again(self, ticket: Ticket) -> None:
        """Let a call whose batch failed run by itself, in the place it had. It was admitted: it is not refused now."""
        ticket.key = None
        self._enter(ticket, self._flow(ticket.call))

    def next(self, now: int, others: int = 0) -> Next:
        """What to run on an idle runtime, while `others` batches of the Model run elsewhere. Tell `ended` afterwards.

        Whoever can't make the deadline any more leaves the queue as late.
        """
        late: list[Ticket] = []
        while self.waiting:
            leader = self._first()
            if self._too_late(leader, max(leader.call.rows, 1), now):
                self._leave(leader)
                late.append(leader)
                continue
            if others and (wake_ns := self._may_wait(leader, now)) > now:
                return Next((), 0, tuple(late), wake_ns)
            batch = [leader]
            rows = self._serve(leader)
            if leader.key is not None and rows < self.limits.max_rows:
                rows = self._fill(batch, rows, late, now)
            self._running[batch[0].number] = now, rows
            return Next(tuple(batch), rows, tuple(late))
        return Next((), 0, tuple(late)) if late else _NOTHING

    def ended(self, batch: tuple[Ticket, ...], now: int, busy_ns: int, well: bool) -> None:
        """A batch has run, well or not; what a failed one took says nothing of the next."""
        _, rows = self._running.pop(batch[0].number)
        if well:
            self.cost.learn(rows, busy_ns)
            self._last_ns = now

    def rest(self) -> None:
        """Forget the turns, once nothing waits and nothing runs."""
        if not self.waiting and not self._running:
            self._levels.clear()

    def _flow(self, call: Call) -> Flow:
        level = self._levels.get(call.priority)
        if level is None:
            level = self._levels[call.priority] = Level()
        flow = level.flows.get(call.tenant)
        if flow is None:
            flow = level.flows[call.tenant] = Flow(level)
        return flow

    def _enter(self, ticket: Ticket, flow: Flow) -> None:
        if not flow.calls:
            flow.tag = max(flow.tag, flow.level.turn)
        flow.add(ticket)
        ticket.flow = flow
        self.waiting += 1

    def _leave(self, ticket: Ticket) -> None:
        assert ticket.flow is not None
        ticket.flow.remove(ticket)
        ticket.flow = None
        self.waiting -= 1

    def _serve(self, ticket: Ticket) -> int:
        """Take it out to run, and charge its tenant's turn; its rows."""
        flow = ticket.flow
        assert flow is not None
        flow.level.turn = max(flow.level.turn, flow.tag)
        flow.tag += max(ticket.call.rows, 1)
        self._leave(ticket)
        return ticket.call.rows

    def _by_priority(self) -> Iterator[list[Flow]]:
        """The flows that have calls, the highest priority first."""
        for priority in sorted(self._levels, reverse=True):
            flows = [flow for flow in self._levels[priority].flows.values() if flow.calls]
            if flows:
                yield flows

    def _first(self) -> Ticket:
        """Whose turn it is."""
        flows = next(self._by_priority())
        turn = min(flow.tag for flow in flows)
        return min((flow.head() for flow in flows if flow.tag == turn), key=_number)

    def _fill(self, batch: list[Ticket], rows: int, late: list[Ticket], now: int) -> int:
        """Add who may run with the first of the batch, in turn, while there is room and nobody in it gets late."""
        key, most, cost = batch[0].key, self.limits.max_rows, self.cost
        latest = self._latest(batch[0], rows, now, math.inf)
        for flows in self._by_priority():
            turns = [(flow.tag, flow.by_key[key][0].number, flow) for flow in flows if key in flow.by_key]
            heapq.heapify(turns)
            while turns and rows < most:
                _, _, flow = heapq.heappop(turns)
                ticket = flow.by_key[key][0]
                together = rows + ticket.call.rows
                if together > most:
                    continue  # its tenant's turn comes with the next batch
                if self._too_late(ticket, together, now):
                    self._leave(ticket)
                    late.append(ticket)
                elif now + cost.at_most(together) > latest:
                    continue
                else:
                    self._serve(ticket)
                    batch.append(ticket)
                    rows = together
                    latest = self._latest(ticket, rows, now, latest)
                if key in flow.by_key:
                    heapq.heappush(turns, (flow.tag, flow.by_key[key][0].number, flow))
        return rows

    def _latest(self, ticket: Ticket, rows: int, now: int, latest: float) -> float:
        """When the batch has to end: at the nearest deadline among those that it can make."""
        deadline = ticket.call.deadline_ns
        return min(latest, deadline) if now + self.cost.at_most(rows) <= deadline else latest

    def _too_late(self, ticket: Ticket, rows: int, now: int) -> bool:
        """Whether a batch of `rows` rows that starts now can't end by the ticket's deadline."""
        deadline = ticket.call.deadline_ns
        if deadline <= now:
            return True
        return now + self.cost.at_least(rows) > deadline and not self._stale(now)

    def _stale(self, now: int) -> bool:
        return not self._running and now - self._last_ns >= STALE_NS

    def _hopeless(self, ticket: Ticket, flow: Flow, now: int) -> bool:
        """Whether even the least that must run before its end takes it past its deadline."""
        call, cost = ticket.call, self.cost
        if call.deadline_ns <= now:
            return True
        if self._stale(now):
            return False
        running_ns = sum(max(cost.at_least(rows) - (now - since), 0.0) for since, rows in self._running.values())
        rows, slots = flow.rows + call.rows, flow.slots + ticket.slots
        for priority, level in self._levels.items():
            if priority > call.priority:
                rows += sum(other.rows for other in level.flows.values())
                slots += sum(other.slots for other in level.flows.values())
        ahead_ns = cost.at_least(rows, -(-slots // self.limits.max_rows))
        return now + running_ns + ahead_ns > call.deadline_ns

    def _may_wait(self, leader: Ticket, now: int) -> int:
        """Until when a batch that isn't full may be held: neither longer than allowed nor past a deadline."""
        limits, key = self.limits, leader.key
        if not limits.max_wait_ns or key is None:
            return now
        waiting = [flow.by_key[key] for flows in self._by_priority() for flow in flows if key in flow.by_key]
        rows = sum(ticket.call.rows for tickets in waiting for ticket in tickets)
        if rows >= limits.max_rows:
            return now
        soonest = min(ticket.call.deadline_ns for tickets in waiting for ticket in tickets)
        oldest = min(tickets[0].since_ns for tickets in waiting)
        return min(oldest + limits.max_wait_ns, soonest - math.ceil(self.cost.at_most(limits.max_rows)))


def key_of(call: Call, limits: Limits) -> Hashable:
    """What calls must have in common to run as one batch; None where a call has to run by itself."""
    rows = call.rows
    if not 0 < rows < limits.max_rows or not limits.by_row.issuperset(call.fetch):
        return None
    shapes: list[Hashable] = []
    for name in sorted(call.feeds):
        array = call.feeds[name]
        shape = array.shape
        if not shape or shape[0] != rows:
            return None
        shapes.append((name, array.dtype, shape[1:]))
    tenant = call.tenant if call.alone else None
    given = sorted(call.parameters) if limits.parameters else ()
    parameters = tuple((name, type(value), value) for name, value in given)  # 1, 1.0 and True are not the same
    return (tuple(shapes), frozenset(call.fetch), parameters, tenant)


def _number(ticket: Ticket) -> int:
    return ticket.number

"""A Version that runs in Replicas of this machine, called over the Open Inference Protocol on Unix sockets.

Each call goes to the Replica that has the fewest of ours in flight. One that dies in the middle of a call costs that
call nothing while there is another Replica: it goes there, once. What it did there is not known, so a call that kills
whoever runs it ends at the second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from servery.host.clock import Clock
from servery.host.shared import Shared, Spare
from servery.targets.address import Address
from servery.targets.connection import Chunk, Connection, Reply
from servery.terms.change import Version
from servery.terms.manifest import Model
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Uptime
from servery.terms.request import Array, Call, Called
from servery.terms.statistics import VersionStatistics
from servery.wire import replica as wire

log = logging.getLogger("servery.targets")

# What a Replica says that another one of the set may not say.
_ELSEWHERE = {reason.word for reason in (Reason.NO_ROOM, Reason.DRAINING, Reason.WARMING, Reason.MODEL_UNAVAILABLE)}
# Memory to share that is kept for the next calls of a Version.
_SPARE_BYTES = 64 << 20
_WORDS = {reason.word for reason in Reason}


class OipJob:
    """A call under way: an Asker of the connection that it is on."""

    __slots__ = (
        "_target", "address", "blocks", "busy_ns", "call", "connecting", "connection", "future", "head", "lost", "shared",
        "tried",
    )  # fmt: skip

    def __init__(self, target: OipTarget, call: Call, head: Chunk, blocks: Sequence[Chunk]) -> None:
        self.future: asyncio.Future[Called] = asyncio.get_running_loop().create_future()
        self.call = call
        self.head = head
        self.blocks = blocks
        self.shared: Shared | None = None  # where the blocks are, if they don't travel with the head
        self.address: Address | None = None
        self.connection: Connection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.tried: list[Address] = []
        self.lost = False  # a Replica has died with this call in it
        self.busy_ns = 0  # what that one may have spent on it
        self._target = target

    def replied(self, connection: Connection, reply: Reply) -> None:
        self._target.replied(self, connection, reply)

    def cut(self) -> None:
        self._target.cut(self)


class OipTarget:
    """The Target of one Version in Replicas; owned by the worker, so it outlives the Tables that point at it."""

    def __init__(self, model: Model, version: Version, sockets: Sequence[Path], clock: Clock) -> None:
        self.model = version.model
        self.version = version
        self.pico_per_hour = model.price.pico_per_hour if model.price else 0
        self._clock = clock
        self._addresses = [Address(path, model.health, clock) for path in sockets]
        signature = version.signature
        self._datatypes = {spec.name: spec.datatype for spec in signature.inputs} if signature is not None else {}
        path = f"/v2/models/{quote(version.model, safe='')}/infer"
        self._head = f"POST {path} HTTP/1.1\r\nhost: replica\r\n".encode()
        self._gone = False
        self._turn = 0
        self._shares = True
        self._spare = Spare(_SPARE_BYTES)
        self._large = False  # the last answer was large: the next one may be, and gets memory to share

    one_row_ns = 0.0

    @property
    def name(self) -> str:
        return f"model {self.model}"

    @property
    def unready(self) -> str:
        if self.refusal is None:
            return ""
        return "stopped" if self._gone else "; ".join(dict.fromkeys(address.why for address in self._addresses))

    @property
    def refusal(self) -> Reason | None:
        """Why a call would be refused now, if it would."""
        if self._gone:
            return Reason.MODEL_UNAVAILABLE
        refusals = [address.refusal for address in self._addresses]
        if None in refusals:
            return None
        return Reason.WARMING if Reason.WARMING in refusals else Reason.MODEL_UNAVAILABLE

    @property
    def ready(self) -> int:
        """How many Replicas would take a call now."""
        return sum(address.refusal is None and not address.leaving for address in self._addresses)

    async def start(self) -> None:
        """Returns once a Replica is ready, or all have said that they can't be."""
        for address in self._addresses:
            address.start()
        while self.refusal is Reason.WARMING:
            changes = [asyncio.ensure_future(address.changed.wait()) for address in self._addresses]
            try:
                await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for change in changes:
                    change.cancel()
            for address in self._addresses:
                address.changed.clear()

    async def drain(self) -> None:
        """Take no more calls, and let the Replicas see that this worker needs them no more."""
        self._gone = True
        for address in self._addresses:
            for job in tuple(address.jobs):
                if isinstance(job, OipJob):
                    self._end(job, self.give_up(job))
            await address.drain()
        self._spare.close()

    def uptimes(self, run: str, now_ns: int) -> list[Uptime]:  # noqa: ARG002
        """From when to when each Replica was ready. Its own run names the line, so that all workers write the same one."""
        return [
            Uptime(its_run, self.model, self.version.name, since_ns, until_ns, self.pico_per_hour)
            for address in self._addresses
            for its_run, since_ns, until_ns in address.lives(now_ns)
        ]

    def statistics(self) -> tuple[VersionStatistics, ...]:
        """What has run in the Replicas, as they said at the last look at their health."""
        return tuple(part for address in self._addresses for part in address.counted)

    def inline(self, rows: int) -> bool:  # noqa: ARG002
        return False

    def call(self, fetch: Sequence[str], feeds: dict[str, Array], rows: int) -> Called:  # noqa: ARG002
        raise AssertionError("a Replica is never called inline")

    def submit(self, call: Call) -> OipJob | None:
        """Send a call. Its queue is the Replica's own, so that there is one for all workers."""
        (head, *blocks), _ = wire.encode_call(call, self._datatypes)
        job = OipJob(self, call, head, blocks)
        self._dispatch(job)
        return job

    def give_up(self, job: OipJob) -> Called:
        """What to book for a call whose caller waits no longer: the time so far, marked as estimated."""
        self._leave(job)
        busy_ns = job.busy_ns
        if job.connecting is not None:
            job.connecting.cancel()
        if job.connection is not None:
            job.connection.close()
        _unshare(job)
        return Called({}, busy_ns, Reason.DEADLINE_EXCEEDED.word, estimated=busy_ns > 0)

    def _dispatch(self, job: OipJob) -> None:
        address = self._pick(job)
        if address is None:
            refusal = self.refusal or Reason.WARMING
            message = self.unready or "no Replica of it could be reached"
            self._end(job, _died(job) if job.lost else Called({}, 0, refusal.word, message))
            return
        job.tried.append(address)
        address.jobs[job] = self._clock.steady_ns()
        job.address = address
        connection = address.idle()
        if connection is not None:
            self._send(job, connection)
        else:
            job.connecting = asyncio.get_running_loop().create_task(self._connect(job, address))

    def _pick(self, job: OipJob) -> Address | None:
        """The one with the fewest calls of ours, among those that are ready; of equals each in turn."""
        ready = [address for address in self._addresses if address.refusal is None and address not in job.tried]
        if len(ready) < 2:
            return ready[0] if ready else None
        self._turn += 1
        at = self._turn % len(ready)
        return min(ready[at:] + ready[:at], key=lambda address: (address.leaving, len(address.jobs)))

    async def _connect(self, job: OipJob, address: Address) -> None:
        try:
            connection = await address.connect()
        except OSError:
            job.connecting = None
            address.jobs.pop(job, None)
            job.address = None
            self._dispatch(job)
            return
        job.connecting = None
        self._send(job, connection)

    def _send(self, job: OipJob, connection: Connection) -> None:
        job.connection = connection
        size = sum([len(block) for block in job.blocks])
        shared = self._share(job) if self._shares and (self._large or size >= wire.LARGE_BYTES) else None
        head = wire.encode_call_head(job.call, max(job.call.deadline_ns - self._clock.steady_ns(), 1))
        lines = b"content-length: %d\r\n%b: %d\r\n%b: %b\r\n" % (
            len(job.head) + (size if shared is None else 0),
            wire.JSON_LENGTH,
            len(job.head),
            wire.CALL,
            head,
        )
        if shared is None:
            connection.send(job, (self._head, lines, b"\r\n", job.head, *job.blocks))
        else:
            connection.send(job, (self._head, lines, b"%b: %b\r\n\r\n" % (wire.SHARED, shared.name), job.head))

    def _share(self, job: OipJob) -> Shared | None:
        """The blocks of a call in memory that the Replica can reach; None where there is none to be had."""
        try:
            job.shared = self._spare.take()
            job.shared.write(job.blocks, 0)
        except OSError as error:
            log.warning("no memory to share with Replicas of %s: %s", self.model, error)
            _unshare(job)
        return job.shared

    def replied(self, job: OipJob, connection: Connection, reply: Reply) -> None:
        address = job.address
        assert address is not None
        address.put_back(connection)
        address.jobs.pop(job, None)
        job.address = job.connection = None
        if wire.UNSHARED in reply.headers and job.shared is not None:
            log.warning("%s: %s; large tensors go through the socket", self.model, wire.decode_error(reply.body))
            self._shares = False
            _unshare(job)
            job.tried.remove(address)
            self._dispatch(job)
            return
        called = _called(reply, job)
        if job.shared is not None:
            self._spare.give(job.shared)
            job.shared = None
        self._large = len(reply.body) >= wire.LARGE_BYTES or wire.SHARED in reply.headers
        if called.failure in _ELSEWHERE and len(job.tried) < len(self._addresses):
            self._dispatch_again(job, called)
        else:
            self._end(job, called)

    def _dispatch_again(self, job: OipJob, called: Called) -> None:
        if self._pick(job) is None:
            self._end(job, called)
        else:
            self._dispatch(job)

    def cut(self, job: OipJob) -> None:
        """The Replica died with this call in it."""
        self._leave(job)
        _unshare(job)
        job.connection = None
        if job.lost or self._gone:
            self._end(job, _died(job))
            return
        job.lost = True
        self._dispatch(job)

    def _leave(self, job: OipJob) -> None:
        """The call is with its Replica no more, and what it spent there isn't known."""
        if job.address is not None:
            job.busy_ns += job.address.busy_ns(job)
            job.address.jobs.pop(job, None)
            job.address = None

    def _end(self, job: OipJob, called: Called) -> None:
        if not job.future.done():
            job.future.set_result(called)


def _died(job: OipJob) -> Called:
    message = "its Replica ended in the middle of the call; the log says how"
    return Called({}, job.busy_ns, Reason.MODEL_FAILED.word, message, estimated=job.busy_ns > 0)


def _unshare(job: OipJob) -> None:
    """Its Replica may still use that memory: nobody else gets it."""
    if job.shared is not None:
        job.shared.close()
        job.shared = None


def _outputs(reply: Reply, job: OipJob) -> dict[str, Array]:
    """The outputs of an answer. Refusal, msgspec.DecodeError, ValueError, OSError for what is none."""
    if wire.SHARED in reply.headers and (shared := job.shared) is not None:
        return wire.decode_outputs(reply.body, lambda size: shared.read(0, size))
    length = int(reply.headers.get(wire.JSON_LENGTH, b"0"))
    body = memoryview(reply.body)
    return wire.decode_outputs(body[:length], lambda _: body[length:])


def _called(reply: Reply, job: OipJob) -> Called:
    """What a reply says."""
    headers, before_ns = reply.headers, job.busy_ns
    busy = headers.get(wire.BUSY, b"0")
    busy_ns = before_ns + (int(busy) if busy.isdigit() else 0)
    estimated = before_ns > 0 or wire.ESTIMATED in headers
    if reply.status == 200:
        try:
            outputs = _outputs(reply, job)
        except (Refusal, msgspec.DecodeError, ValueError, OSError) as error:
            return Called({}, busy_ns, Reason.WRONG_ANSWER.word, f"its Replica's answer is not understood: {error}")
        return Called(outputs, busy_ns, estimated=estimated)
    word = headers.get(wire.REASON, b"").decode("latin-1")
    message = wire.decode_error(reply.body)
    if word not in _WORDS or word == Reason.BUG.word:
        return Called({}, busy_ns, Reason.MODEL_FAILED.word, f"its Replica answered {reply.status}: {message}")
    return Called({}, busy_ns, word, message, estimated)

"""Whole worlds of Requests through the Pipeline, on virtual time: whatever happens, the books are right afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servery.gateway.holder import Holder
from servery.gateway.holdings import Holdings
from servery.gateway.minutes import OwnMinutes
from servery.gateway.pipeline import Pipeline, Reply
from servery.gateway.quotas import Quota
from servery.gateway.table import Base, Entry, compile_table
from servery.gateway.trained import Trained
from servery.gateway.trials import Lease
from servery.host.clock import Dice
from servery.host.eager import eagerly
from servery.store.inflight import InFlight
from servery.terms.change import Served, Snapshot
from servery.terms.content import ContentPolicy, Kept
from servery.terms.limits import Limits
from servery.terms.manifest import Confidence, Key, Manifest, Model, Prediction, Tenant
from servery.terms.money import busy_price
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import AnyLine, Attempt, Outcome, Record
from servery.terms.request import Answer, Caller, Inference, Tensor, Wanted
from servery.terms.routes import Accept, Policy, Route, Tier
from servery.terms.server import Server
from worlds.virtual import EPOCH_NS, MS, SIGNATURE, Fate, VirtualLoop, WorldTarget

MODELS = ("cheap", "mid", "premium")
KEYS = {name: f"key of {name}".encode() for name in ("free", "busy", "bound")}
DEADLINE_MS = 40.0
STATIC = Policy(
    "static", "header", "X-Quality", {"best": "t-premium", "fair": "t-mid"}, fallback=("t-premium", "t-cheap")
)
EARLY = (Reason.NOT_FOUND.word, Reason.DRAINING.word)
WRONG = ("a row too many", "y", "p", "label")


def manifest() -> Manifest:
    models = {
        name: Model("onnx", name, confidence=Confidence("p"), prediction=Prediction("label"), region="eu" if name == "mid" else None,
                    expose=name == "cheap", limits=Limits(6, 1) if name == "mid" else Limits())
        for name in MODELS
    }  # fmt: skip
    tiers = tuple(Tier(f"t-{name}", name, Accept(0.5) if name != "premium" else None) for name in MODELS)
    limits = {"free": Limits(), "busy": Limits(requests_per_minute=12, concurrency_per_worker=2), "bound": Limits()}
    return Manifest(
        1,
        models,
        {
            "cascade": Route(tiers, Policy("cascade"), deadline_ms=DEADLINE_MS),
            "fixed": Route(tiers[:2], deadline_ms=DEADLINE_MS),
            "static": Route(tiers, STATIC, deadline_ms=DEADLINE_MS),
        },
        tenants={
            name: Tenant(
                (Key("k1", hashlib.sha256(key).hexdigest()),),
                limits=limits[name],
                regions=("local",) if name == "bound" else (),
                content=ContentPolicy(30, ("cascade", "static")) if name == "bound" else None,
            )
            for name, key in KEYS.items()
        },
        server=Server(concurrency_per_worker=3, queue_per_worker=4),
    )


def no_budgets(holder: Holder, limits: Limits) -> None:
    """These worlds are about other things."""


class WorldAsk:
    """One caller's ask; `trouble` is what goes wrong on its own side."""

    version = ""
    traceparent = ""

    def __init__(self, number: int, draw: random.Random) -> None:
        self.called = draw.choices(("cascade", "fixed", "cheap", "static", "nobody"), (6, 4, 1, 4, 0.3))[0]
        self.timeout_ns = draw.choice((0, 0, 0, 5 * MS, 10**15))
        self.request_id = f"r{number}"
        self.rows = draw.choice((0, 1, 1, 1, 2, 5))
        self.trouble = draw.choices(("", "bad", "bug", "unsaid"), (20, 1, 1, 1))[0]
        self.leaves_ms = draw.uniform(0, 60) if draw.random() < 0.15 else None
        self.wanted = draw.choice(((), (), ("y",), ("y", "label")))
        self.quality = ("best", "fair", "odd", None)[number % 4]
        self.answer: Answer | None = None

    here = True

    def header(self, name: str) -> str | None:
        return {"x-quality": self.quality}[name]

    def carry(self, arm: str) -> None:
        raise AssertionError(f"nothing is rolled out, but there is {arm}")

    async def arrive(self) -> None:
        raise AssertionError("it has arrived")

    def decode(self) -> Inference:
        if self.trouble == "bad":
            raise Refusal(Reason.INVALID_REQUEST, "bad")
        if self.trouble == "bug":
            raise RuntimeError("as told")
        x = np.arange(self.rows, dtype=np.float32).reshape(-1, 1)
        return Inference("", (Tensor("x", "FP32", x),), tuple(Wanted(name, True) for name in self.wanted), False, 0)

    def encode(self, entry: Entry, inference: Inference, answer: Answer) -> None:
        if self.trouble == "unsaid":
            raise Refusal(Reason.INVALID_REQUEST, "this form can't hold it")
        self.answer = answer

    async def left(self) -> None:
        if self.leaves_ms is None:
            await asyncio.get_running_loop().create_future()
        else:
            await asyncio.sleep(self.leaves_ms / 1e3)


class Lines:
    """Records in memory."""

    full = False
    room = True

    def __init__(self) -> None:
        self.kept: list[AnyLine] = []
        self.slots = InFlight()

    def append(self, line: AnyLine, slot: int = 0) -> None:
        self.kept.append(line)


class Contents:
    """Content in memory."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def keep(self, kept: Kept) -> None:
        self.kept.append(kept)


class Ended(msgspec.Struct, frozen=True):
    """How one ask ended; None: its task was cancelled."""

    ask: WorldAsk
    caller: Caller
    reply: Reply | None


class World:
    """A seed is a world: who comes when, what each call does, who leaves, and whether the worker is told to stop."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.loop = VirtualLoop()
        self.lines = Lines()
        self.contents = Contents()
        self.ended: list[Ended] = []
        self.broken = self.draw.choice((0.0, 0.1, 0.5))
        declared = manifest()
        self.targets = {
            name: WorldTarget(at + 1, name, 10**11 * (at + 1), self.loop, self._cast, 2)
            for at, name in enumerate(MODELS)
        }
        for target in self.targets.values():
            target.refusal = self.draw.choice((None,) * 8 + (Reason.WARMING, Reason.MODEL_UNAVAILABLE))
            target.sure = lambda _: self.draw.choice((0.2, 0.9, float("nan")))
        models = {name: Served((target.version,)) for name, target in self.targets.items()}
        targets = {(name, "1"): target for name, target in self.targets.items()}
        self.observed = Counter[str]()
        holdings = Holdings(OwnMinutes().make, no_budgets, lambda what: self.observed.update((what,)))
        base = Base(b"secret", holdings, Lease(self.loop.clock.steady_ns), Trained())
        table = compile_table(Snapshot(1, declared, "", models), targets, {}, base)
        self.pipeline = Pipeline(table, self.lines, self.contents, self.loop.clock, Dice(self.draw.randbytes))

    def _cast(self) -> Fate:
        draw = self.draw
        inline = draw.random() < 0.4
        busy_ns = draw.randrange(MS // 4) if inline else draw.choice((1, 5, 30, 200)) * draw.randrange(1, MS)
        if draw.random() >= self.broken:
            return Fate(busy_ns, inline)
        if draw.random() < 0.5:
            return Fate(busy_ns, inline, wrong=draw.choice(WRONG))
        return Fate(busy_ns, inline, draw.choice((Reason.MODEL_FAILED, Reason.NO_ROOM)).word)

    async def _one(self, number: int) -> None:
        draw, loop = self.draw, asyncio.get_running_loop()
        await asyncio.sleep(draw.uniform(0, 0.3))
        caller = self.pipeline.identify(KEYS[draw.choice(("free", "free", "busy", "bound"))])
        ask = WorldAsk(number, draw)
        reply: Reply | None = None
        if draw.random() < 0.5:
            task = loop.create_task(self.pipeline.answer(caller, ask))
        else:
            reply, task = eagerly(self.pipeline.answer(caller, ask))
        if task is not None:
            if draw.random() < 0.1:
                loop.call_later(draw.choice((0.0, draw.uniform(0, 0.05))), task.cancel)
            try:
                reply = await task
            except asyncio.CancelledError:
                reply = None
        assert self.pipeline.turns.inside <= self.pipeline.turns.at_once
        assert self.quota("busy").inside <= 2
        self.ended.append(Ended(ask, caller, reply))
        (of_mid,) = self.pipeline.table.entries["cascade"].tiers[1].bound.quotas
        assert of_mid.inside <= 1

    def quota(self, tenant: str) -> Quota:
        (quota,) = self.pipeline.table.callers[tenant, "k1"].quotas
        return quota

    async def _all(self) -> None:
        count = self.draw.randrange(1, 60)
        if self.draw.random() < 0.2:
            self.loop.call_later(0.2, setattr, self.pipeline, "draining", True)
        await asyncio.gather(*(self._one(number) for number in range(count)))
        await asyncio.sleep(1)  # what was given up ends as well
        assert len(self.ended) == count

    def run(self) -> list[tuple[Ended, Record]]:
        """Each ask with the Record that it left."""
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._all())
        assert self.loop.uncaught == []
        records = {line.request_id: line for line in self.lines.kept if isinstance(line, Record)}
        assert len(records) == len(self.lines.kept) == len(self.ended)
        assert len({record.id for record in records.values()}) == len(records)
        return [(ended, records[ended.ask.request_id]) for ended in self.ended]


worlds = given(st.integers(0, 2**32))


def some(examples: int = 60) -> settings:
    return settings(max_examples=examples, deadline=None)


@worlds
@some()
def test_nothing_leaks(seed: int) -> None:
    world = World(seed)
    world.run()
    turns = world.pipeline.turns
    assert (turns.inside, turns.waiting) == (0, 0)
    table = world.pipeline.table
    bounds = [*table.callers.values(), *(tier.bound for entry in table.entries.values() for tier in entry.tiers)]
    assert {quota.inside for bound in bounds for quota in bound.quotas} == {0}


@worlds
@some()
def test_every_request_leaves_one_record_that_says_how_it_ended(seed: int) -> None:
    for ended, record in World(seed).run():
        assert (record.tenant, record.route) == (ended.caller.tenant, ended.ask.called)
        assert record.id[6:10] == ended.caller.seal
        assert record.at_ns >= EPOCH_NS
        reply = ended.reply
        if reply is None:
            assert (record.outcome, record.reason) in (
                (Outcome.ABANDONED, ""),
                (Outcome.FAILED, Reason.DRAINING.word),
            )
            continue
        assert reply.record_id == record.id
        if reply.answer is not None:
            assert (record.outcome, record.reason) == (Outcome.SERVED, "")
            assert reply.answer.degraded == record.degraded
        elif reply.refusal is not None:
            assert record.outcome in (Outcome.REFUSED, Outcome.FAILED)
            assert record.reason == reply.refusal.reason.word
            assert reply.refusal.reason is not Reason.BUG or ended.ask.trouble == "bug"
        else:
            assert (record.outcome, record.reason) == (Outcome.ABANDONED, "")
            assert ended.ask.leaves_ms is not None


@worlds
@some()
def test_money_and_time_add_up(seed: int) -> None:
    world = World(seed)
    booked: Counter[str] = Counter()
    for _, record in world.run():
        assert record.pico_usd == sum(attempt.pico_usd for attempt in record.attempts)
        for attempt in record.attempts:
            assert attempt.pico_usd == busy_price(attempt.busy_ns, world.targets[attempt.model].pico_per_hour)
            booked[attempt.model] += attempt.busy_ns
    assert +booked == +Counter({name: sum(target.handed) for name, target in world.targets.items()})


def owners(record: Record) -> list[Attempt]:
    """By row, the Attempt that a Record says answered it."""
    if record.answered_by:
        return [record.attempts[at] for at in record.answered_by]
    answering = [attempt for attempt in record.attempts if attempt.answered] or list(record.attempts[-1:])
    assert len(answering) == 1
    return answering * record.rows


@worlds
@some()
def test_rows_add_up_and_each_was_answered_by_whom_the_record_names(seed: int) -> None:
    for ended, record in World(seed).run():
        answered = sum(attempt.answered for attempt in record.attempts)
        assert all(0 <= attempt.answered <= attempt.rows for attempt in record.attempts)
        if record.outcome is not Outcome.SERVED:
            assert answered == 0
            assert record.predictions == record.answered_by == ()
            continue
        assert answered == record.rows == ended.ask.rows == len(record.predictions)
        by_row = owners(record)
        numbers = [MODELS.index(attempt.model) + 1 for attempt in by_row]
        assert all(attempt.outcome is Outcome.SERVED for attempt in by_row)
        assert Counter(attempt.tier for attempt in by_row) == Counter(
            {attempt.tier: attempt.answered for attempt in record.attempts if attempt.answered}
        )
        assert record.predictions == tuple(map(str, numbers))
        answer = ended.ask.answer
        assert answer is not None
        given_names = [tensor.name for tensor in answer.outputs]
        assert given_names == list(ended.ask.wanted or (spec.name for spec in SIGNATURE.outputs))
        told = {tensor.name: tensor.array for tensor in answer.outputs}
        assert told["y"][:, 0].tolist() == [row + 1000 * number for row, number in enumerate(numbers)]


@worlds
@some()
def test_content_is_kept_of_every_answer_to_whom_it_is_declared_and_of_no_other(seed: int) -> None:
    world = World(seed)
    records = {record.id: (ended, record) for ended, record in world.run()}
    for kept in world.contents.kept:
        ended, record = records[kept.record_id]
        assert (kept.tenant, kept.region, record.tenant) == ("bound", "local", "bound")
        assert record.route in ("cascade", "static")
        assert kept.expires_ns == record.at_ns + 30 * 86_400 * 10**9
        content = kept.make()
        (answered,) = content.answered
        (sent,) = msgspec.json.decode(content.asked)["inputs"]
        assert (sent["name"], sent["shape"]) == ("x", [ended.ask.rows, 1])
        assert sent["data"] == list(range(ended.ask.rows))
        told = {output["name"]: output for output in msgspec.json.decode(answered)["outputs"]}
        answer = ended.ask.answer
        assert answer is not None
        assert list(told) == [tensor.name for tensor in answer.outputs]
        plain = {tensor.name: tensor.array.ravel().tolist() for tensor in answer.outputs}
        assert told["y"]["data"] == plain["y"]
    wanted = {
        record.id
        for _, record in records.values()
        if record.tenant == "bound" and record.route in ("cascade", "static") and record.outcome is Outcome.SERVED
    }
    assert sorted(kept.record_id for kept in world.contents.kept) == sorted(wanted)


@worlds
@some()
def test_attempts_are_told_as_they_went(seed: int) -> None:
    for _, record in World(seed).run():
        attempts = record.attempts
        assert [attempt.tier for attempt in attempts] == list(dict.fromkeys(attempt.tier for attempt in attempts))
        for before, after in itertools.pairwise(attempts):
            assert after.rows <= before.rows
            assert (before.outcome is not Outcome.SERVED) == (after.role.value == "fallback")
        for attempt in attempts:
            assert (attempt.reason == "") == (attempt.outcome in (Outcome.SERVED, Outcome.ABANDONED))
        if record.tenant == "bound":
            assert "mid" not in {attempt.model for attempt in attempts}


@worlds
@some()
def test_a_static_route_begins_where_it_was_told_and_falls_back_in_order(seed: int) -> None:
    begins = {"best": "premium", "fair": "mid"}
    for ended, record in World(seed).run():
        asked = [attempt.model for attempt in record.attempts]
        if ended.ask.called != "static" or not asked:
            assert not any(attempt.why for attempt in record.attempts)
            continue
        first = begins.get(ended.ask.quality or "", "cheap")
        order = [first, *(name for name in ("premium", "cheap") if name != first)]
        if record.tenant == "bound":
            order = [name for name in order if name != "mid"]
        assert asked == order[: len(asked)]
        chosen = f"={ended.ask.quality}" if ended.ask.quality in begins else ":default"
        assert [attempt.why for attempt in record.attempts] == [
            f"static:header:x-quality{chosen}",
            *[""] * (len(asked) - 1),
        ]


@worlds
@some()
def test_nobody_is_held_beyond_the_deadline(seed: int) -> None:
    world = World(seed)
    held_up_ns = 0
    records = world.run()
    for _, record in records:
        held_up_ns += sum(attempt.busy_ns for attempt in record.attempts if attempt.busy_ns < MS)
    for ended, record in records:
        allowed_ns = round(DEADLINE_MS * MS) if ended.ask.called != "cheap" else 30_000 * MS
        if 0 < ended.ask.timeout_ns < allowed_ns:
            allowed_ns = ended.ask.timeout_ns
        assert record.duration_ns <= allowed_ns + held_up_ns + MS


@worlds
@some(20)
@example(341)
def test_limits_hold(seed: int) -> None:
    world = World(seed)
    passed = mid = 0
    for ended, record in world.run():
        told = "" if ended.reply is None or ended.reply.refusal is None else ended.reply.refusal.message
        if ended.caller.tenant == "busy":
            passed += not ("this tenant's" in told or record.reason in EARLY)
        else:
            assert "this tenant's" not in told
        mid += sum(attempt.model == "mid" and attempt.reason != Reason.RATE_LIMITED.word for attempt in record.attempts)
    assert passed <= 12
    assert mid <= 6


def test_a_key_that_was_just_taken_away_is_told_so() -> None:
    """The Table may have been swapped between the key's look-up and the request."""
    world = World(0)
    caller = msgspec.structs.replace(world.pipeline.identify(KEYS["free"]), key="gone")

    async def ask() -> None:
        ask = WorldAsk(0, random.Random(0))
        ask.called, ask.trouble = "fixed", ""
        reply = await world.pipeline.answer(caller, ask)
        assert reply.refusal is not None
        assert reply.refusal.reason is Reason.UNAUTHENTICATED
        with pytest.raises(Refusal, match="no longer"):
            await world.pipeline.book(caller)

    with asyncio.Runner(loop_factory=lambda: world.loop) as runner:
        runner.run(ask())

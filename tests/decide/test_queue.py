"""The queue as values and `now`: whose turn it is, who runs together, who is too late, and how long one may be held."""

from __future__ import annotations

import heapq
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.batching.cost import Cost
from servery.batching.queue import STALE_NS, Entered, Limits, Next, Queue, Ticket, key_of, limits_of
from servery.terms.manifest import Batch, Model
from servery.terms.request import Call, Scalar
from servery.terms.tensors import Signature, TensorSpec

MS = 1_000_000
NEVER = 10**15
LIMITS = Limits(queue=1000, max_rows=8, by_row=frozenset({"y"}))
A, B = MS, 10 * MS  # a row takes 1 ms, a batch 10 ms more


def ask(rows: int = 1, tenant: str = "t", deadline_ns: int = NEVER, priority: int = 0) -> Ticket:
    return Ticket(Call(["y"], {"x": np.zeros((rows, 2), np.float32)}, rows, deadline_ns, tenant, priority))


def learned(fixed_ns: int = B, row_ns: int = A) -> Cost:
    """A cost that is right, and sure of it."""
    cost = Cost(fixed_ns, row_ns)
    for at in range(40):
        cost.learn(1 + at % 32, fixed_ns + row_ns * (1 + at % 32))
    return cost


def queue(limits: Limits = LIMITS, cost: Cost | None = None, now: int = 0) -> Queue:
    """A queue whose last batch ended at `now`, having taken what was expected."""
    made = Queue(limits, cost or learned())
    took = round(made.cost.expect(1))
    assert made.submit(ask(), now - took) is Entered.WAITS
    end(made, made.next(now - took), now - took, now)
    return made


def end(made: Queue, chosen: Next, since: int, now: int) -> None:
    made.ended(chosen.batch, now, now - since, well=now > since)


def test_all_that_fits_runs_at_once_in_the_order_it_came() -> None:
    made = queue()
    tickets = [ask() for _ in range(11)]
    assert {made.submit(ticket, 1) for ticket in tickets} == {Entered.WAITS}
    chosen = made.next(2)
    assert (chosen.batch, chosen.rows, chosen.late) == (tuple(tickets[:8]), 8, ())
    end(made, chosen, 2, 2 + B)
    assert made.next(2 + B).batch == tuple(tickets[8:])


def test_a_request_larger_than_a_batch_runs_by_itself_uncut() -> None:
    made = queue()
    tickets = [ask(), ask(20), ask()]
    for ticket in tickets:
        made.submit(ticket, 1)
    assert made.next(2).batch == (tickets[0], tickets[2])
    assert made.next(3).batch == (tickets[1],)


def test_what_does_not_fit_leads_the_next_batch() -> None:
    made = queue()
    tickets = [ask(5, "a"), ask(6, "b"), ask(2, "c")]
    for ticket in tickets:
        made.submit(ticket, 1)
    assert made.next(2).batch == (tickets[0], tickets[2])
    assert made.next(3).batch == (tickets[1],)


def test_the_higher_priority_runs_first_and_the_lower_fills_what_is_left() -> None:
    made = queue()
    low, high = [ask(priority=0) for _ in range(9)], [ask(priority=1) for _ in range(5)]
    for ticket in (*low, *high):
        made.submit(ticket, 1)
    assert made.next(2).batch == (*high, *low[:3])


def test_one_tenants_flood_does_not_starve_another() -> None:
    made = queue()
    for _ in range(200):
        made.submit(ask(tenant="flood"), 1)
    end(made, made.next(2), 2, 3)
    mine = ask(tenant="me")
    made.submit(mine, 4)
    assert mine in made.next(5).batch


SIZES = st.lists(st.integers(1, 6), min_size=30, max_size=60)


@given(SIZES, SIZES, st.integers(0, 5))
def test_two_tenants_that_always_wait_get_the_same_number_of_rows(a: list[int], b: list[int], head: int) -> None:
    made = queue()
    waiting = {"a": sum(a), "b": sum(b)}
    for rows in a[:head]:
        made.submit(ask(rows, "a"), 1)
    chosen = made.next(1)  # a's first ones run while nobody else is there
    waiting["a"] -= chosen.rows
    for rows in a[head:]:
        made.submit(ask(rows, "a"), 2)
    for rows in b:
        made.submit(ask(rows, "b"), 2)
    served = {"a": 0, "b": 0}
    while min(waiting.values()) > 0:
        for ticket in made.next(3).batch:
            for part in (served, waiting):
                part[ticket.call.tenant] += ticket.call.rows if part is served else -ticket.call.rows
        if min(waiting.values()) > 0:
            assert abs(served["a"] - served["b"]) <= LIMITS.max_rows + 6 + 6


def test_a_tenant_that_pauses_saves_no_turns_up() -> None:
    made = queue()
    for _ in range(100):
        made.submit(ask(tenant="steady"), 1)
    for _ in range(10):
        made.next(2)
    for _ in range(100):
        made.submit(ask(tenant="late"), 3)
    tenants = [ticket.call.tenant for ticket in made.next(4).batch]
    assert tenants.count("late") == 4


def test_it_is_bounded_and_who_gives_up_frees_a_place() -> None:
    made = queue(Limits(queue=2, max_rows=8, by_row=LIMITS.by_row))
    first, second = ask(), ask()
    assert [made.submit(ticket, 1) for ticket in (first, second, ask())] == [Entered.WAITS, Entered.WAITS, Entered.FULL]
    assert made.give_up(first)
    assert not made.give_up(first)
    third = ask()
    assert made.submit(third, 2) is Entered.WAITS
    assert made.next(3).batch == (second, third)
    assert not made.give_up(second)
    assert made.waiting == 0


def test_what_failed_together_runs_again_by_itself_in_its_old_place() -> None:
    made = queue()
    tickets = [ask() for _ in range(3)]
    for ticket in tickets:
        made.submit(ticket, 1)
    chosen = made.next(1)
    later = ask()
    made.submit(later, 2)
    made.ended(chosen.batch, 3, 2, well=False)
    for ticket in reversed(tickets):
        made.again(ticket)
    assert [made.next(4).batch for _ in range(4)] == [(ticket,) for ticket in (*tickets, later)]


def test_a_batch_is_cut_so_that_its_oldest_row_is_in_time() -> None:
    made = queue(cost=learned())
    urgent = ask(deadline_ns=1 + B + 5 * A + 10)
    rest = [ask() for _ in range(7)]
    for ticket in (urgent, *rest):
        made.submit(ticket, 1)
    assert made.next(1).batch == (urgent, *rest[:4])


def test_who_cannot_be_in_time_is_refused_when_it_comes() -> None:
    made = queue()
    made.submit(ask(), 1)
    made.next(1)  # runs until 11 ms
    assert made.submit(ask(deadline_ns=20 * MS), 2) is Entered.LATE
    assert made.submit(ask(deadline_ns=23 * MS), 2) is Entered.WAITS
    assert made.submit(ask(deadline_ns=1), 2) is Entered.LATE


def test_who_can_no_longer_be_in_time_is_refused_before_it_runs() -> None:
    made = queue()
    made.submit(ask(), 1)
    running = made.next(1)
    tight, loose = ask(deadline_ns=23 * MS), ask()
    made.submit(tight, 2)
    made.submit(loose, 2)
    end(made, running, 1, 15 * MS)  # longer than it should have
    chosen = made.next(15 * MS)
    assert (chosen.batch, chosen.late) == ((loose,), (tight,))


def test_the_queue_ahead_counts_of_ones_own_tenant_and_of_higher_priorities_only() -> None:
    made = queue()
    for tenant in ("own", "other"):
        for _ in range(16):
            made.submit(ask(tenant=tenant), 1)
    two_batches = 2 * B + 17 * A
    assert made.submit(ask(tenant="own", deadline_ns=two_batches), 1) is Entered.LATE
    assert made.submit(ask(tenant="own", deadline_ns=two_batches + 2 * B), 1) is Entered.WAITS
    assert made.submit(ask(tenant="new", deadline_ns=12 * MS), 1) is Entered.WAITS
    assert made.submit(ask(tenant="own", deadline_ns=12 * MS, priority=1), 1) is Entered.WAITS


def test_a_wrong_estimate_does_not_refuse_for_ever() -> None:
    """It took seconds; now it may not. One call is tried a second, and that teaches."""
    made = queue(cost=learned(5_000 * MS, A))
    now = MS
    assert made.submit(ask(deadline_ns=now + 100 * MS), now) is Entered.LATE
    ran = 0
    for _ in range(100):
        now += STALE_NS + 1
        ticket = ask(deadline_ns=now + 100 * MS)
        assert made.submit(ticket, now) is Entered.WAITS
        chosen = made.next(now)
        assert chosen.batch == (ticket,)
        end(made, chosen, now, now + 11 * MS)
        ran += 1
        now += 12 * MS
        if made.submit(ask(deadline_ns=now + 100 * MS), now) is Entered.WAITS:
            break
    assert ran < 5


def test_few_measurements_refuse_nobody() -> None:
    made = queue(cost=Cost(B, A))
    assert made.submit(ask(deadline_ns=MS), 1) is Entered.WAITS
    assert len(made.next(1).batch) == 1


def test_a_batch_is_held_only_while_another_one_runs_and_not_past_a_deadline() -> None:
    limits = Limits(queue=100, max_rows=8, max_wait_ns=5 * MS, by_row=LIMITS.by_row)
    made = queue(limits)
    made.submit(ask(), 100)
    assert made.next(200, others=1) == Next((), 0, (), 100 + 5 * MS)
    chosen = made.next(100 + 5 * MS, others=1)
    assert chosen.rows == 1, "it has waited long enough"
    end(made, chosen, 0, B + A)
    made.submit(ask(), 100)
    chosen = made.next(200, others=0)
    assert chosen.rows == 1, "nothing runs"
    end(made, chosen, 0, B + A)
    urgent = B + 8 * A + 2 * MS
    made.submit(ask(deadline_ns=100 + urgent), 100)
    held = made.next(200, others=1)
    assert not held.batch
    assert 100 + MS <= held.wake_ns <= 100 + 2 * MS
    for _ in range(7):
        made.submit(ask(), 300)
    assert made.next(400, others=1).rows == 8, "it is full"


@pytest.mark.parametrize("part", range(4))
def test_where_the_cost_is_right_nobody_runs_in_vain(part: int) -> None:
    """Worlds in which a batch takes what it is expected to: who runs is in time, and who is refused had no chance."""
    for seed in range(part * 100, part * 100 + 100):
        draw = random.Random(seed)
        fixed, row = draw.randrange(0, 20 * MS), draw.randrange(1, 2 * MS)
        made = queue(Limits(1000, draw.choice((1, 4, 32)), 0, LIMITS.by_row), learned(fixed, row))
        _rush(made, draw, fixed, row)


def _rush(made: Queue, draw: random.Random, fixed: int, row: int) -> None:
    """Callers come at random; what is queued runs as soon as the runtime is idle."""
    slack = 1 + (fixed + 32 * row) // 10**6  # what is learned is right to a millionth
    comes = sorted(draw.randrange(0, 400 * MS) for _ in range(draw.randrange(1, 80)))
    events: list[tuple[int, int, Next | None]] = [(at, number, None) for number, at in enumerate(comes)]
    heapq.heapify(events)
    running, stale_since = False, 0
    while events:
        now, number, ended = heapq.heappop(events)
        if ended is None:
            rows = draw.choice((1, 1, 1, 3, 40))
            deadline = now + draw.randrange(1, 200 * MS)
            ticket = ask(rows, draw.choice("ab"), deadline, draw.choice((0, 0, 3)))
            empty = not running and not made.waiting
            entered = made.submit(ticket, now)
            if entered is Entered.LATE and empty:
                assert now + fixed + row * rows > deadline - slack
        else:
            running, stale_since = False, now
            made.ended(ended.batch, now, fixed + row * ended.rows, well=True)
        if running:
            continue
        chosen = made.next(now)
        if chosen.batch:
            running = True
            ends = now + fixed + row * chosen.rows
            heapq.heappush(events, (ends, 1000 + number, chosen))
            for ticket in chosen.batch:
                assert ends <= ticket.call.deadline_ns + slack or now - stale_since >= STALE_NS
        assert running or not made.waiting


def test_calls_run_together_only_when_all_is_the_same() -> None:
    def key(width: int = 2, dtype: str = "f4", fetch: str = "y", tenant: str = "a", alone: bool = False,
            parameters: tuple[tuple[str, Scalar], ...] = ()) -> object:  # fmt: skip
        feeds = {"x": np.zeros((1, width), dtype)}
        return key_of(Call([fetch], feeds, 1, NEVER, tenant, 0, alone, parameters), LIMITS)

    assert key() == key(tenant="b") == key(parameters=())
    different = [
        key(), key(width=3), key(dtype="f8"), key(dtype="i4"), key(alone=True), key(alone=True, tenant="b"),
        key(parameters=(("k", 1),)), key(parameters=(("k", True),)), key(parameters=(("k", 1.0),)), key(parameters=(("k", "1"),)),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert key(fetch="total") is None, "an output that isn't by row can't be split"


def test_the_order_of_names_makes_no_difference() -> None:
    a, b = np.zeros((1, 1)), np.ones((1, 2))
    limits = Limits(max_rows=4, by_row=frozenset({"y", "z"}))
    one = Call(["y", "z"], {"a": a, "b": b}, 1, NEVER)
    other = Call(["z", "y"], {"b": b, "a": a}, 1, NEVER)
    assert key_of(one, limits) == key_of(other, limits)


@pytest.mark.parametrize(
    ("inputs", "most"),
    [([(-1, 3)], 16), ([(-1,), (-1, -1)], 16), ([(-1, 3), (4,)], 1), ([(1, 3)], 1), ([()], 1), ([], 1)],
)
def test_a_version_batches_only_where_every_input_has_free_rows(inputs: list[tuple[int, ...]], most: int) -> None:
    signature = Signature(
        tuple(TensorSpec(f"x{at}", "FP32", shape) for at, shape in enumerate(inputs)),
        (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("whole", "FP32", (2,))),
    )
    limits = limits_of(Model("onnx", "m", batch=Batch(max_rows=16)), signature)
    assert limits.max_rows == most
    if most > 1:
        assert limits.by_row == {"y"}

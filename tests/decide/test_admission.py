"""Turns against a plain list: a bounded number inside, first come first served, nobody lost, no turn leaked."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from servery.quota.admission import Gate


class Comers(RuleBasedStateMachine):
    """Callers who come, wait, give up and leave, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Gate[int] = Gate(1, 0)
        self.inside: list[int] = []
        self.waiting: list[int] = []
        self.next = 0

    @initialize(at_once=st.integers(1, 3), queue=st.integers(0, 4))
    def open(self, at_once: int, queue: int) -> None:
        self.gate = Gate(at_once, queue)

    @rule()
    def come(self) -> None:
        self.next += 1
        if self.gate.enter():
            assert not self.waiting
            self.inside.append(self.next)
        elif self.gate.queue_up(self.next):
            assert len(self.inside) == self.gate.at_once
            self.waiting.append(self.next)
        else:
            assert len(self.waiting) == self.gate.queue

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.inside.remove(data.draw(st.sampled_from(self.inside)))
        ticket = self.gate.leave()
        assert ticket == (self.waiting[0] if self.waiting else None)
        if ticket is not None:
            self.inside.append(self.waiting.pop(0))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        assert self.gate.give_up(ticket)
        self.waiting.remove(ticket)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def give_up_too_late(self, data: st.DataObject) -> None:
        assert not self.gate.give_up(data.draw(st.sampled_from(self.inside)))

    @invariant()
    def agrees(self) -> None:
        assert self.gate.inside == len(self.inside) <= self.gate.at_once
        assert self.gate.waiting == len(self.waiting) <= self.gate.queue

    def teardown(self) -> None:
        """When all have left, every turn is free again."""
        while self.inside:
            self.leave_first()
        assert (self.gate.inside, self.gate.waiting) == (0, 0)
        assert all(self.gate.enter() for _ in range(self.gate.at_once))
        assert not self.gate.enter()

    def leave_first(self) -> None:
        self.inside.pop(0)
        if (ticket := self.gate.leave()) is not None:
            assert ticket == self.waiting.pop(0)
            self.inside.append(ticket)


TestGate = Comers.TestCase
TestGate.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

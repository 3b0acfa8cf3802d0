"""Turns: a bounded number at once, a bounded queue behind them, first come first served."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Ticket = TypeVar("Ticket")


class Gate(Generic[Ticket]):
    """Counts who is in; those who find no turn leave a ticket and get the next free one in order."""

    __slots__ = ("_waiting", "at_once", "inside", "queue")

    def __init__(self, at_once: int, queue: int) -> None:
        self.at_once = at_once
        self.queue = queue
        self.inside = 0
        self._waiting: deque[Ticket] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enter(self) -> bool:
        """Take a turn if one is free and nobody waits for it."""
        if self.inside < self.at_once and not self._waiting:
            self.inside += 1
            return True
        return False

    def queue_up(self, ticket: Ticket) -> bool:
        """Wait for a turn; False when the queue is full."""
        if len(self._waiting) >= self.queue:
            return False
        self._waiting.append(ticket)
        return True

    def give_up(self, ticket: Ticket) -> bool:
        """Stop waiting; False when the ticket has its turn already (its owner must leave)."""
        try:
            self._waiting.remove(ticket)
        except ValueError:
            return False
        return True

    def leave(self) -> Ticket | None:
        """End a turn; the ticket returned has it now."""
        if self._waiting and self.inside <= self.at_once:
            return self._waiting.popleft()
        self.inside -= 1
        return None

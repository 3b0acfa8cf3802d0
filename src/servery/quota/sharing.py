"""What workers share their counters by: a store that may be out of reach, and has a clock of its own."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Seen(msgspec.Struct, frozen=True):
    """What a store is like now.

    `ahead_ns` is what its clock is ahead of this machine's steady one; None: it has none, as nobody else does.
    `workers` is how many share it, where it knows. `forgot`: it doesn't know this worker any more, whom it knew a moment ago,
    so it has lost what it was told.
    """

    ahead_ns: int | None = None
    workers: int = 0
    forgot: bool = False


class Store(Protocol):
    """Where counters are kept. Used by one thread at a time."""

    def look(self) -> Seen:
        """See whether it is there. OSError when it can't be reached."""
        ...

    def close(self) -> None:
        """Let it go; calling it again is fine."""
        ...

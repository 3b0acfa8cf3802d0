"""Book lines of a process that is no worker: each time as a run of its own, which the shipper carries as any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from servery.host.clock import Clock
from servery.store.inflight import InFlight
from servery.store.writer import Writer
from servery.terms.record import AnyLine
from servery.terms.server import Records


def book(folder: Path, run: str, lines: Sequence[AnyLine], settings: Records, region: str) -> None:
    """Have `lines` in the spool, under a name that no other run ever had. What can't be written is folded, as a worker's lines are."""
    writer = Writer(folder, run, settings, Clock(), InFlight(region))
    writer.start()
    writer.write(lines)
    writer.close()

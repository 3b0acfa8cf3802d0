"""Look whether the audit is whole: its entries, and the heads that were written apart from them; and add to it. Blocking."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator

import msgspec

from servery.host.clock import Clock
from servery.store.state import State, WrongState
from servery.terms.audit import BEGINNING, Draft, Entry, Head, Verified, faults

_FAULTS = 100  # that are told; one is enough


def verify(state: State, noted: Iterable[Head] = ()) -> Verified:
    """What was altered, left out or cut off. `noted` are heads that somebody kept elsewhere. WrongState."""
    last = Head(0, BEGINNING)

    def passing() -> Iterator[Entry]:
        nonlocal last
        for entry in state.entries():
            last = Head(entry.number, entry.seal)
            yield entry

    try:
        heads = state.heads.all()
    except OSError as error:
        raise WrongState(f"the heads of the audit can't be read: {error.filename}: {error.strerror}") from None
    found = list(faults(passing(), heads, noted))
    if last.number and not heads:
        found.insert(0, "the file of heads is missing or empty: whether entries were cut off at the end can't be seen")
    return Verified(not found, last.number, str(last), tuple(found[:_FAULTS]))


def head_of(text: str) -> Head | None:
    """What `NUMBER:SEAL` says; None where it isn't that."""
    number, _, seal = text.strip().partition(":")
    if not (number.isascii() and number.isdigit() and len(number) < 19 and len(seal) == len(BEGINNING)):
        return None
    return Head(int(number), seal)


@contextlib.contextmanager
def recorded(state: State, who: str, why: str, act: str, subject: str, clock: Clock) -> Generator[dict[str, object]]:
    """Do something, and write at its end how it went, also where it fails. What is added to the dict is the entry's evidence. WrongState."""
    evidence: dict[str, object] = {}
    outcome = "failed"
    try:
        yield evidence
        outcome = "done"
    finally:
        told = msgspec.json.encode(evidence).decode()
        state.record(Draft(clock.wall_ns(), who, why, act, subject, outcome, told))
